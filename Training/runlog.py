"""The record of a run: one JSON line per step, and the same numbers for TensorBoard and, where asked, elsewhere."""

from __future__ import annotations

import json
import math
import os
import uuid
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from MedicalSAM3Lib.errors import SettingsError

_KEPT_BACK = ("disable_code", "disable_git", "x_disable_meta", "x_disable_stats", "x_disable_machine_info")


class RunLog:
    """Writes ``log.jsonl`` and ``tensorboard/`` in a run's folder; does nothing on ranks other than 0.

    A resumed run first drops what was logged from ``first_step`` on, because it computes it again.

    Args:
        folder: Of the run.
        first_step: From which on the run logs.
        is_main: Whether this is rank 0.
        wandb: Project at Weights & Biases that gets the numbers too, and nothing else; "" = none.

    Raises:
        SettingsError: There is a project, and the package is not installed.
    """

    def __init__(self, folder: Path, first_step: int, *, is_main: bool, wandb: str = "") -> None:
        self._file = self._remote = None
        if not is_main:
            return
        if wandb:
            self._remote = _join_wandb(wandb, folder)
        # TensorBoard takes a second to import, which only the writing rank should pay.
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "log.jsonl"
        _keep_before(path, first_step)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()
        if self._remote is not None:
            self._remote.finish(exit_code=0 if error is None else 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log nested numbers under their dotted names; NaN becomes null."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **_without_nan(values)}) + "\n")
        self._file.flush()
        for name, value in _flat(values):
            self._board.add_scalar(name, value, step)
        if self._remote is not None:
            self._remote.log({**dict(_flat(values)), "step": step})


def _join_wandb(project: str, folder: Path) -> Any:
    """Go on with the run of this folder, or begin it; its name there is made up and tells nothing."""
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise SettingsError(
            "run.wandb: expected the package wandb from 0.31 on, got none; run 'pip install wandb' or leave it empty."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / "wandb.txt"
    if not name.is_file():
        name.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    # The numbers of the log and nothing else: no machine's name, no list of packages, no output, no code.
    quiet = wandb.Settings(host="hidden", **dict.fromkeys(_KEPT_BACK, True), console="off", x_save_requirements=False)
    run = wandb.init(
        project=project, id=name.read_text(encoding="utf-8"), resume="allow", dir=str(folder), settings=quiet
    )
    # Steps that a resumed run computes again come twice, which wandb's own counter would refuse.
    run.define_metric("*", step_metric="step")
    return run


def _keep_before(path: Path, first_step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # A kill may have cut the last line short.
    whole = [line for line in lines if line.endswith("\n")]
    kept = [line for line in whole if json.loads(line)["step"] < first_step or "warm_start" in line]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    pairs: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            pairs.append((f"{prefix}{name}", float(value)))
    return pairs


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nan(value)
        if isinstance(value, dict)
        else (None if isinstance(value, float) and not math.isfinite(value) else value)
        for name, value in values.items()
    }
