"""Checkpoints that a kill cannot spoil, and a resume that changes nothing.

    <run>/checkpoints/step_00001000/   model.safetensors   the weights, keys of ``MedicalSam3``
                                       ema.safetensors     their running mean, where the run keeps one
                                       config.json         the architecture, as ``transformers`` writes it
                                       state.pt            AdamW and the random state of every rank
                                       meta.json           step, score, configuration, data, code and versions
                                       checkpoint.sha256   of all of these; SHA256SUMS would say: a model folder
    <run>/checkpoints/latest, best     one line: the name of a folder

A folder appears under its name only when it is complete, and no older one goes before. Writing happens beside the
training, from a copy in memory. The order of the data needs no state: a batch is a function of seed, step and rank.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from MedicalSAM3Lib.architecture import CONFIG_FILE, architecture_of, to_config
from MedicalSAM3Lib.errors import OutputError, SettingsError, WeightsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import verify_sums, write_sums
from Training import distributed
from Training.distributed import Ranks
from Training.optim import Optimizer
from Training.sharding import divided_state, divided_weights, is_divided, whole_copy

# Where a run lies and how often it looks around do not change what it computes.
_FREE_KEYS = (
    "data.cache",
    "run.out",
    "run.keep",
    "run.save_every",
    "run.validate_every",
    "run.validate_batches",
    "run.allow_changed",
    "run.plan",
    "run.timeout_minutes",
    "run.wandb",
)

WEIGHTS, MEAN, STATE, META = "model.safetensors", "ema.safetensors", "state.pt", "meta.json"
_SUMS = "checkpoint.sha256"


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
        git_commit: Of the code; "" outside of a repository.
    """

    step: int
    best_score: float | None
    skipped: int
    world_size: int
    manifest_sha256: str
    config: dict[str, Any]
    versions: dict[str, str]
    git_commit: str = ""


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
    """The checkpoints of one run. All ranks call ``save`` and ``finish``; rank 0 writes, beside the training.

    Args:
        folder: ``<run>/checkpoints``; made on the first save.
        keep: How many of the latest stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        meta: Meta,
        *,
        is_best: bool,
        is_main: bool,
        mean: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Copy what there is to save, and have it written; ``latest`` (and ``best``) then point at it.

        Args:
            mean: Running mean of all weights, by their names.

        Raises:
            OutputError: The checkpoint before could not be written; on all ranks.
        """
        self.finish()
        random_states = distributed.gather(random_state())
        if is_main or is_divided(model):  # to put parts together takes all ranks
            state = {"adamw": optimizer.adamw.state_dict(), "random": list(random_states)}
            weights = {WEIGHTS: model.state_dict(), **({MEAN: dict(mean)} if mean else {})}
            weights, state = tree_map_only(Tensor, partial(whole_copy, keep=is_main), (weights, state))
        if is_main:
            config = to_config(architecture_of(model)) if isinstance(model, MedicalSam3) else None
            self._writing = self._writer.submit(self._write, weights, state, meta, config, is_best)

    def finish(self) -> None:
        """Wait until what was saved is on the disk.

        Raises:
            OutputError: It could not be written; on all ranks. Older checkpoints are still there.
        """
        writing, self._writing = self._writing, None
        problem = "" if writing is None or writing.exception() is None else str(writing.exception())
        problem = next((text for text in distributed.gather(problem) if text), "")
        if problem:
            raise OutputError(problem)

    def _write(
        self,
        weights: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        meta: Meta,
        config: dict[str, Any] | None,
        is_best: bool,
    ) -> None:
        name = f"step_{meta.step:08d}"
        partial = self.folder / f".{name}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for stale in self.folder.glob(".step_*.partial"):
                shutil.rmtree(stale)
            partial.mkdir()
            _write_files(partial, weights, state, meta, config)
            # A folder of that name was complete when a kill came before `latest` could point at it.
            shutil.rmtree(self.folder / name, ignore_errors=True)
            os.replace(partial, self.folder / name)
            for pointer in ("latest", *(("best",) if is_best else ())):
                _write_text(self.folder / pointer, name)
            self._drop_old()
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            reason = ((error.strerror if isinstance(error, OSError) else None) or "the writer failed").lower()
            raise OutputError(
                f"Expected to write the checkpoint {name}, but {reason}; make room and go on with --resume auto, which "
                "begins at the checkpoint before."
            ) from error

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
        return Meta(**json.loads((folder / META).read_text(encoding="utf-8")))
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
    verify(folder)
    try:
        model.load_state_dict(divided_weights(load_file(folder / WEIGHTS), model), strict=True)
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
        optimizer.adamw.load_state_dict(divided_state(state["adamw"], optimizer.adamw))
    except Exception as error:
        reason = str(error).replace("\n", " ")[:300]
        raise WeightsError(f"Expected the weights and state of this network in {folder.name}, got: {reason}") from error
    optimizer.skipped = meta.skipped
    # With another number of ranks (allowed on request) there is no sequence to continue.
    if len(state["random"]) == ranks.world_size:
        set_random_state(state["random"][ranks.rank])
    return meta


def verify(folder: Path) -> None:
    """Check the sums of a checkpoint's files; a damaged or missing one raises ``WeightsError``, which names it."""
    names = [name for name in (WEIGHTS, STATE, META, MEAN) if name != MEAN or (folder / MEAN).is_file()]
    verify_sums(folder, names, "write the name of an older checkpoint into 'latest' and resume from there", _SUMS)


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


def weights_file(folder: Path) -> Path:
    """The weights of a checkpoint that are meant to be used: their running mean, where the run kept one."""
    return folder / MEAN if (folder / MEAN).is_file() else folder / WEIGHTS


def _write_files(
    folder: Path,
    weights: Mapping[str, dict[str, Tensor]],
    state: Mapping[str, Any],
    meta: Meta,
    config: Mapping[str, Any] | None,
) -> None:
    for name, tensors in weights.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    torch.save(state, folder / STATE)
    if config is not None:
        _write_text(folder / CONFIG_FILE, json.dumps(config, indent=2))
    _write_text(folder / META, json.dumps(asdict(meta), indent=2))
    write_sums(folder, [path.name for path in folder.iterdir()], _SUMS)


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
