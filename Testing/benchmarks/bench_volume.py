"""Whole volumes: ours beside ``transformers``, with time, memory and Dice. See ``sides`` and ``video_baseline``."""

from __future__ import annotations

from collections.abc import Iterator

from MedicalSAM3Lib.registry import load_model
from Testing.benchmarks.measuring import in_fresh_process
from Testing.benchmarks.sides import Measured, measure
from Testing.benchmarks.tables import NOTHING, Table, number, ratio
from Testing.benchmarks.worlds import MISSING, MOST_CONCEPTS, CaseName, Options, load_case

COLUMNS = ("Side", "Time (s)", "Of ours, detect", "Memory above model and input (MB)", "Mean Dice")

ROWS = (
    ("Ours, detect", "ours", "detect"),
    ("Ours, fuse", "ours", "fuse"),
    ("Sam3Model, a full forward per slice and concept", "full_forwards", "detect"),
    ("Sam3VideoModel, up and down, its own thresholds", "video", "fuse"),
    ("Sam3VideoModel, up and down, our detections", "video_with_our_detections", "fuse"),
)
"""Name, side of ``sides``, mode; those of mode "fuse" need a tracker."""

NO_TRACKER = "The model has no tracker: mode fuse and Sam3VideoModel cannot run."


def run(options: Options) -> Iterator[Table]:
    """A table for each volume that is there."""
    has_tracker = load_model(options.model, options.device).model.has_tracker
    names: tuple[CaseName, ...] = ("sample", "trained")
    for name in names:
        case = load_case(name)
        title = "A whole volume" if case is None else f"{MOST_CONCEPTS} concepts on {case.title}"
        if case is None:
            yield Table(title, COLUMNS, (), (MISSING,))
            continue
        measured = [
            _measure(side, mode, name, options) if has_tracker or mode == "detect" else None for _, side, mode in ROWS
        ]
        yield table(title, measured)


def table(title: str, measured: list[Measured | None]) -> Table:
    """What was measured, in the order of ``ROWS``; None where it could not be."""
    first = measured[0].seconds if measured[0] else None
    rows = []
    for (label, _, _), one in zip(ROWS, measured, strict=True):
        texts = (NOTHING,) * (len(COLUMNS) - 1)
        if one is not None:
            texts = (number(one.seconds), ratio(one.seconds, first), number(one.above_mb, 0), number(one.dice, 3))
        rows.append((label, *texts))
    return Table(title, COLUMNS, tuple(rows), () if all(measured) else (NO_TRACKER,))


def _measure(side: str, mode: str, name: CaseName, options: Options) -> Measured:
    return in_fresh_process(measure, side, options.model, name, options.settings(mode=mode))
