"""The record of a run: one JSON line per step, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class RunLog:
    """Writes ``log.jsonl`` and ``tensorboard/`` in a run's folder; does nothing on ranks other than 0.

    A resumed run first drops what was logged from ``first_step`` on, because it computes it again.
    """

    def __init__(self, folder: Path, first_step: int, *, is_main: bool) -> None:
        self._file = None
        if not is_main:
            return
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

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log nested numbers under their dotted names; NaN becomes null."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **_without_nan(values)}) + "\n")
        self._file.flush()
        for name, value in _flat(values):
            self._board.add_scalar(name, value, step)


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
