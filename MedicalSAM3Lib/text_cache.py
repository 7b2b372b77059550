"""Encoded phrases on disk: a phrase is encoded once for each model and machine.

    $MEDSAM3_HOME/cache/text/HASH.safetensors     one phrase: float32 (T, C), 32 kB at full size

Nothing of an image and no phrase in clear is in it: a file holds what the text encoder made of the phrase, its name
is a SHA-256 over the weights, the token ids and all that may decide about the last bit. So a result is the same with
it and without it. ``MEDSAM3_TEXT_CACHE=0`` turns it off; the folder can be removed at any time.

It only saves time, so it fails no run and says nothing: a damaged file is ignored and written anew, and a folder
that cannot be read or written is as good as an empty one.

Shapes: T tokens, C width of the detector.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.registry import home
from MedicalSAM3Lib.report import software_versions

SWITCH_VARIABLE = "MEDSAM3_TEXT_CACHE"

_MOST_FILES = 2000
"""About 64 MB; beyond it the oldest go."""


class TextCache:
    """Encoded phrases of one model in a folder."""

    def __init__(self, folder: Path, encoder: str) -> None:
        """Look into a folder, which need not be there.

        Args:
            folder: Where the files are.
            encoder: Names the weights and all else but the phrase that decides about the result.
        """
        self._folder, self._encoder = folder, encoder

    def find(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """Encoded phrase ``(T, C)`` on the CPU, or None where there is no whole file.

        Args:
            input_ids, attention_mask: Of the phrase, ``(T,)``; see ``Tokenizer``.
        """
        try:
            with safe_open(self._path(input_ids, attention_mask), framework="pt") as file:
                # A copy: what is mapped would change, or vanish, with the file.
                tokens, digest = file.get_tensor("tokens").clone(), (file.metadata() or {}).get("sha256")
        except (OSError, SafetensorError):
            return None
        is_whole = tokens.dtype == torch.float32 and tokens.ndim == 2 and digest == _digest(tokens)
        return tokens if is_whole else None

    def add(self, input_ids: Tensor, attention_mask: Tensor, tokens: Tensor) -> None:
        """Keep an encoded phrase ``(T, C)``, where the disk lets us."""
        path, kept = self._path(input_ids, attention_mask), tokens.cpu().contiguous()
        with suppress(OSError, OutputError, SafetensorError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(path) as (new,):
                save_file({"tokens": kept}, new, metadata={"sha256": _digest(kept)})
            self._remove_oldest()

    def _path(self, input_ids: Tensor, attention_mask: Tensor) -> Path:
        # The network sees ids, not letters: "Liver" and "liver" are one entry.
        phrase = (self._encoder, input_ids.tolist(), attention_mask.tolist())
        return self._folder / f"{hashlib.sha256(repr(phrase).encode()).hexdigest()}.safetensors"

    def _remove_oldest(self) -> None:
        files = list(self._folder.iterdir())
        if len(files) > _MOST_FILES:
            for path in sorted(files, key=lambda file: file.stat().st_mtime)[:-_MOST_FILES]:
                path.unlink(missing_ok=True)


def text_cache(weights_hash: str, device: torch.device, dtype: torch.dtype) -> TextCache | None:
    """The user's cache for a model on a device; None if it is turned off, or the weights have no known hash.

    Phrases are encoded in float32 whatever the run's format; but runs in others encode them together.
    """
    if not weights_hash or os.environ.get(SWITCH_VARIABLE, "1") in ("", "0"):
        return None
    is_cuda = device.type == "cuda"
    processor = torch.cuda.get_device_name(device) if is_cuda else torch.backends.cpu.get_cpu_capability()
    versions = sorted(software_versions().items())
    encoder = (weights_hash, device.type, str(dtype), processor, torch.get_num_threads(), versions)
    return TextCache(home() / "cache" / "text", repr(encoder))


def _digest(tokens: Tensor) -> str:
    """SHA-256 of the values: safetensors itself notices a file cut short, not one with a flipped bit."""
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
