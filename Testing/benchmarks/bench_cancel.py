"""Cancel: how long it can go unheard, how soon it is done, and what is left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.feature_store import temporary_folder
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.structures import Progress
from Testing.benchmarks.measuring import give_back, resident_mb
from Testing.benchmarks.tables import Table, number, ratio
from Testing.benchmarks.worlds import Case, Options, load_case

FEW_SLICES_GB = 1e-3
"""So little that features lie in a file, which must go too."""

GAPS = ("Mode", "Progress calls", "Longest gap (s)", "One slice batch (s)", "Gap / batch")
LEFT = ("Mode", "Cancelled in", "At call", "Over after (s)", "Files left", "Handles left", "Memory kept (MB)")

Calls = list[tuple[float, Progress]]
"""When each call came."""


def run(options: Options) -> Iterator[Table]:
    """Two tables on the bundled CT."""
    model = load_model(options.model, options.device)
    case = load_case("sample")
    assert case is not None
    gaps, left = [], []
    for mode in ("detect", "fuse") if model.model.has_tracker else ("detect",):
        settings = options.settings(mode=mode, memory_budget_gb=FEW_SLICES_GB)
        _record(case, model, settings)  # not measured: first calls set up kernels and caches
        calls = _record(case, model, settings)
        gaps.append((mode, *gap_row(calls)))
        for number_of_call in middles(calls):
            left.append((mode, calls[number_of_call][1].stage, *_cancel_at(number_of_call, case, model, settings)))
    yield Table(f"Between two progress calls, {case.title}", GAPS, tuple(gaps))
    yield Table("Cancelled in the middle of each stage", LEFT, tuple(left))


def gap_row(calls: Calls) -> tuple[str, str, str, str]:
    """Number of calls, the longest time between two, and that of a batch of slices in the trunk."""
    longest = max(later - sooner for (sooner, _), (later, _) in pairwise(calls))
    batch = max(
        later - sooner for (sooner, one), (later, other) in pairwise(calls) if one.stage == other.stage == "features"
    )
    return str(len(calls)), number(longest, 3), number(batch, 3), ratio(longest, batch)


def middles(calls: Calls) -> list[int]:
    """Number of the middle call of each stage, in order."""
    stages: dict[str, list[int]] = {}
    for position, (_, progress) in enumerate(calls):
        stages.setdefault(progress.stage, []).append(position)
    return [positions[len(positions) // 2] for positions in stages.values()]


def _record(case: Case, model: LoadedModel, settings: SegmentSettings) -> Calls:
    calls: Calls = []
    segment(case.volume, case.concepts, model, settings, lambda now: calls.append((time.perf_counter(), now)))
    return calls


def _cancel_at(position: int, case: Case, model: LoadedModel, settings: SegmentSettings) -> tuple[str, ...]:
    count, raised = 0, 0.0

    def on_progress(progress: Progress) -> None:
        nonlocal count, raised
        if count == position:
            raised = time.perf_counter()
            raise Cancelled
        count += 1

    give_back()
    files, handles, memory_mb = _files(), _handles(), resident_mb()
    try:
        segment(case.volume, case.concepts, model, settings, on_progress)
    except Cancelled:
        over = time.perf_counter() - raised
    else:
        raise RuntimeError(f"expected the run to end at call {position}, it went on")
    give_back()
    new = len(_files() - files)
    return str(position), number(over, 3), str(new), str(_handles() - handles), number(resident_mb() - memory_mb, 1)


def _files() -> set[str]:
    return set(os.listdir(temporary_folder()))


def _handles() -> int:
    """Open files of this process; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.is_dir() else 0
