"""Foreign checkpoints: converted to a model folder of ours, or loaded as they are."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from MedicalSAM3Lib.architecture import read_json
from MedicalSAM3Lib.model_folder import (
    CARD_FILE,
    SUMS_FILE,
    LoadedModel,
    load_model_folder,
    save_model_folder,
    sha256_of,
)
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.text import TOKENIZER_FILES, load_tokenizer

if TYPE_CHECKING:
    from MedicalSAM3Lib.architecture import Architecture

NOT_CALIBRATED = "This model was never calibrated: 'found' and 'not found' are the raw decision of SAM3."

Dtype = Literal["float16", "bfloat16", "float32"]

OnStage = Callable[[Literal["read", "write"]], None]
"""Called as each part begins; to stop, it raises."""


def is_our_folder(path: Path) -> bool:
    """Whether a path is a model folder of ours rather than one of Hugging Face, or a file."""
    return (path / SUMS_FILE).is_file()


def convert(
    source: Path,
    folder: Path,
    *,
    base: Path | None = None,
    architecture: Architecture | None = None,
    licence: str = "",
    dtype: Dtype = "float32",
    on_stage: OnStage = lambda stage: None,
) -> None:
    """Write a model folder from a checkpoint of any supported layout.

    The folder gets the usual ``preprocess.json``, and a ``presence.json`` that calibrates nothing.

    Args:
        source: Checkpoint file or folder; see ``weights.read_checkpoint``.
        folder: To be written; its last part becomes the model's name.
        base: Checkpoint whose tracker is taken if the source has none.
        architecture: Sizes of a bare file, if not those of the published SAM3.
        licence: A sentence for the model card.
        dtype: Number format of the weights in the new folder.
        on_stage: Progress.

    Raises:
        WeightsError: The source is not a checkpoint of SAM3, or it is incomplete.
        OutputError: The folder cannot be written.
    """
    from MedicalSAM3Lib.preprocess import PreprocessSpec
    from MedicalSAM3Lib.presence import PresenceSpec
    from MedicalSAM3Lib.weights import load_checkpoint

    on_stage("read")
    model = load_checkpoint(source, base=base, architecture=architecture)
    on_stage("write")
    spec = PreprocessSpec(image_size=model.image_size)
    save_model_folder(
        folder,
        model,
        _tokenizer_folder(source),
        json.loads(spec.model_dump_json()),
        json.loads(PresenceSpec.model_validate({}).model_dump_json()),
        _card(folder.name, source, licence, model.has_tracker, base),
        dtype,
        notice=NOT_CALIBRATED,
    )


def load_any(path: Path) -> LoadedModel:
    """Load a model folder, or a foreign checkpoint with the usual preprocessing.

    Raises:
        WeightsError: It is neither, or incomplete.
    """
    if is_our_folder(path):
        return load_model_folder(path)
    from MedicalSAM3Lib.preprocess import PreprocessSpec
    from MedicalSAM3Lib.presence import PresenceSpec
    from MedicalSAM3Lib.weights import load_checkpoint

    model = load_checkpoint(path)
    return LoadedModel(
        model=model,
        tokenizer=load_tokenizer(_tokenizer_folder(path)),
        preprocess=PreprocessSpec(image_size=model.image_size),
        presence=PresenceSpec.model_validate({}),
        name=path.stem,
        weights_hash=hash_of(path),
        is_demonstration=False,
        notice=NOT_CALIBRATED,
        card=path / CARD_FILE,
    )


def _tokenizer_folder(source: Path) -> Path:
    has_own = source.is_dir() and all((source / name).is_file() for name in TOKENIZER_FILES)
    return source if has_own else resource("tokenizer")


def hash_of(path: Path, digest: Callable[[Path], str] = sha256_of) -> str:
    """SHA-256 of a file; of a folder, that of its weights file, or of the hashes of its shards.

    The index of the shards says nothing of their content: it is the same before and after fine-tuning.
    """
    from MedicalSAM3Lib.tensor_files import INDEX_FILE, WHOLE_FILE

    if path.is_file():
        return digest(path)
    if (path / WHOLE_FILE).is_file():
        return digest(path / WHOLE_FILE)
    shards = sorted(set(read_json(path / INDEX_FILE)["weight_map"].values()))
    return hashlib.sha256("".join(digest(path / shard) for shard in shards).encode()).hexdigest()


def source_hash(folder: Path) -> str:
    """SHA-256 of what a model folder was converted from, as its card says; "" where it does not."""
    try:
        card = (folder / CARD_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^Converted from `.*` \(SHA-256 ([0-9a-f]{64})\)", card, re.MULTILINE)
    return found[1] if found else ""


def _card(name: str, source: Path, licence: str, has_tracker: bool, base: Path | None) -> str:
    tracker = "none: it detects, but cannot track through a volume"
    if has_tracker:
        tracker = f"taken from {base.name} if the source had none" if base else "the source's own"
    return (
        f"# {name}\n\nConverted from `{source.name}` (SHA-256 {hash_of(source)}). Not trained or changed by this "
        f"software.\n\n- Licence: {licence or 'that of the source; ask whoever gave you the file'}\n"
        f"- Tracker: {tracker}\n- Presence: not calibrated\n\nFor research; not a medical device.\n"
    )
