"""Checkpoints that a kill cannot spoil, and a resume that changes nothing.

    <run>/checkpoints/step_00001000/   model.safetensors   the weights, keys of ``MedicalSam3``
                                       config.json         the architecture, as ``transformers`` writes it
                                       state.pt            AdamW and the random state of every rank
                                       meta.json           step, score, configuration, manifest hash, versions
    <run>/checkpoints/latest, best     one line: the name of a folder

A folder appears under its name only when it is complete. The order of the data needs no state: a batch
is a function of seed, step and rank.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from MedicalSAM3Lib.architecture import CONFIG_FILE, architecture_of, to_config
from MedicalSAM3Lib.errors import SettingsError, WeightsError
from MedicalSAM3Lib.model import MedicalSam3
from Training import distributed
from Training.distributed import Ranks
from Training.optim import Optimizer

# Where a run lies and how often it looks around do not change what it computes.
_FREE_KEYS = (
    "run.out",
    "run.keep",
    "run.save_every",
    "run.validate_every",
    "run.validate_batches",
    "run.allow_changed",
)


@dataclass(frozen=True, slots=True)
class Meta:
    """What a person wants to know about a checkpoint.

    Attributes:
        step: Optimiser steps done.
        best_score: Best validation score so far; None before the first validation.
        skipped: Steps skipped for gradients that were not finite.
        world_size: Number of ranks.
        manifest_sha256: Hash of the manifest file.
        config: The whole configuration, nested.
        versions: Of Python and the packages that the numbers depend on.
    """

    step: int
    best_score: float | None
    skipped: int
    world_size: int
    manifest_sha256: str
    config: dict[str, Any]
    versions: dict[str, str]


def package_versions() -> dict[str, str]:
    """Versions that the numbers of a run depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


def random_state() -> dict[str, torch.Tensor]:
    """State of torch's generators on this rank; nothing else draws random numbers during a step."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, torch.Tensor]) -> None:
    """Continue the sequence of ``random_state``."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Checkpoints:
    """The checkpoints of one run. All ranks call ``save``; rank 0 writes.

    Args:
        folder: ``<run>/checkpoints``; made on the first save.
        keep: How many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(self, model: nn.Module, optimizer: Optimizer, meta: Meta, *, is_best: bool, is_main: bool) -> None:
        """Write a checkpoint, point ``latest`` (and ``best``) at it and drop the oldest."""
        random_states = distributed.gather(random_state())
        if is_main:
            name = f"step_{meta.step:08d}"
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".step_*.partial"):
                shutil.rmtree(stale)
            partial = self.folder / f".{name}.partial"
            partial.mkdir()
            _write_files(partial, model, optimizer, meta, random_states)
            # A folder of that name was complete when a kill came before `latest` could point at it.
            shutil.rmtree(self.folder / name, ignore_errors=True)
            os.replace(partial, self.folder / name)
            for pointer in ("latest", *(("best",) if is_best else ())):
                _write_text(self.folder / pointer, name)
            self._drop_old()
        distributed.barrier()

    def find(self, which: str) -> Path | None:
        """Folder that ``latest`` or ``best`` points at, or None before the first."""
        pointer = self.folder / which
        return self.folder / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else None

    def _drop_old(self) -> None:
        complete = sorted(self.folder.glob("step_*"))
        for folder in complete[: -self._keep]:
            if folder != self.find("best"):
                shutil.rmtree(folder)


def read_meta(folder: Path) -> Meta:
    """Read ``meta.json``.

    Raises:
        WeightsError: The folder is no checkpoint of a run.
    """
    try:
        return Meta(**json.loads((folder / "meta.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"Expected a training checkpoint, got {folder.name} without a readable meta.json."
        ) from error


def restore(folder: Path, model: nn.Module, optimizer: Optimizer, ranks: Ranks) -> Meta:
    """Load weights, AdamW and this rank's random state, strictly.

    Raises:
        WeightsError: The files are damaged, or belong to another network.
    """
    meta = read_meta(folder)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
        state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        optimizer.adamw.load_state_dict(state["adamw"])
    except Exception as error:
        reason = str(error).replace("\n", " ")[:300]
        raise WeightsError(f"Expected the weights and state of this network in {folder.name}, got: {reason}") from error
    optimizer.skipped = meta.skipped
    # With another number of ranks (allowed on request) there is no sequence to continue.
    if len(state["random"]) == ranks.world_size:
        set_random_state(state["random"][ranks.rank])
    return meta


def check_same_run(saved: Meta, current: Meta, allowed: Sequence[str]) -> None:
    """Refuse to continue a run under other settings, other data or another number of ranks.

    Raises:
        SettingsError: Names each key that differs and is not in ``allowed``.
    """
    before, now = _run_identity(saved), _run_identity(current)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    refused = [key for key in changed if key not in allowed and key not in _FREE_KEYS]
    if refused:
        differences = ", ".join(f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in refused)
        raise SettingsError(
            f"Expected the settings of the checkpoint, got {differences}; restore them, start anew in another run.out, "
            f"or accept with run.allow_changed=[{','.join(refused)}]."
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _run_identity(meta: Meta) -> dict[str, Any]:
    return flatten(meta.config) | {"manifest": meta.manifest_sha256, "world_size": meta.world_size}


def _write_files(
    folder: Path, model: nn.Module, optimizer: Optimizer, meta: Meta, random_states: Sequence[dict[str, torch.Tensor]]
) -> None:
    weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    torch.save({"adamw": optimizer.adamw.state_dict(), "random": list(random_states)}, folder / "state.pt")
    if isinstance(model, MedicalSam3):
        _write_text(folder / CONFIG_FILE, json.dumps(to_config(architecture_of(model)), indent=2))
    _write_text(folder / "meta.json", json.dumps(asdict(meta), indent=2))


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
