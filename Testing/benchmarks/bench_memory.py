"""Memory of a run above model and input: many slices beside few, under one budget for features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.runtime import pick_runtime
from Testing.benchmarks.measuring import PeakMemory, in_fresh_process
from Testing.benchmarks.tables import Table, number, ratio
from Testing.benchmarks.worlds import MOST_CONCEPTS, Options, load_case, repeated

BUDGET_GB = 0.02
FEW, MANY = 30, 300
COLUMNS = (
    *("Mode", "Concepts", f"Peak, {FEW} slices (MB)", f"Peak, {MANY} slices (MB)", "Ratio"),
    *(f"Without labels, {FEW} (MB)", f"Without labels, {MANY} (MB)", "Ratio"),
)


@dataclass(frozen=True, slots=True)
class Used:
    """Most memory above model and input, and the size of the result's labels, in 10^6 bytes."""

    above_mb: float | None
    labels_mb: float

    @property
    def without_labels_mb(self) -> float | None:
        """What the run needed for itself."""
        return None if self.above_mb is None else self.above_mb - self.labels_mb


def run(options: Options) -> Iterator[Table]:
    """One table: a run in a fresh process for each number."""
    has_tracker = load_model(options.model, options.device).model.has_tracker
    rows = []
    for mode in ("detect", "fuse") if has_tracker else ("detect",):
        settings = options.settings(mode=mode, memory_budget_gb=BUDGET_GB)
        for count in (1, MOST_CONCEPTS):
            few, many = (in_fresh_process(use, options.model, settings, n, count) for n in (FEW, MANY))
            rows.append((mode, str(count), *row(few, many)))
    note = f"Budget {BUDGET_GB} GB; slices are those of the bundled CT, repeated up and down."
    yield Table("Memory above model and input", COLUMNS, tuple(rows), (note,))


def use(model_name: str, settings: SegmentSettings, num_slices: int, num_concepts: int) -> Used:
    """Segment once; call it in a fresh process."""
    case = load_case("sample")
    assert case is not None
    volume, concepts = repeated(case.volume, num_slices), case.concepts[:num_concepts]
    model = load_model(model_name, settings.device, settings.speed)
    del case
    memory = PeakMemory(pick_runtime(settings).device)
    result = segment(volume, concepts, model, settings)
    return Used(memory.above_mb(), sum(layer.nbytes for layer in result.layers) / 1e6)


def row(few: Used, many: Used) -> tuple[str, ...]:
    """Both numbers and their ratio, with and without the labels."""
    texts: list[str] = []
    for one, other in ((few.above_mb, many.above_mb), (few.without_labels_mb, many.without_labels_mb)):
        texts += [number(one, 0), number(other, 0), ratio(other, one)]
    return tuple(texts)
