"""What P concepts cost: our pipeline beside one full forward of ``transformers`` per slice and concept.

Both sides have the same weights, the same slices, the same device and number format, in one process. Against us:
ours is the whole ``segment`` call (windowing, resizing, fusion and labels included) with the presence gate wide
open, so that every (slice, concept) pair pays for its masks; theirs is the bare forward of ``Sam3Model``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.runtime import pick_runtime
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.views import thresholds
from Testing.benchmarks.full_forward import always_with_cls_token, forward_each
from Testing.benchmarks.measuring import seconds
from Testing.benchmarks.tables import Table, number, ratio
from Testing.benchmarks.worlds import CONCEPTS, Options, noise

COUNTS = (1, 4, 16)
SLICES = 8
REPEATS = 2
OPEN = {"presence_threshold": 0.0}
"""Settings that hold every gate open."""

COST = (
    "Concepts",
    "Ours (s)",
    "Of ours for the first",
    "Forward each (s)",
    "Forward each / ours",
    "Further concept (s)",
)
SECOND = ("Mode", "First concept (s)", "Second, from the cache (s)", "First / second")


def run(options: Options) -> Iterator[Table]:
    """Two tables of the model on a few slices of noise."""
    model = load_model(options.model, options.device)
    volume = noise(SLICES, model.model.image_size)
    settings = options.settings(**OPEN)
    what = f"{model.name}, {SLICES} slices, every gate open"
    yield cost(f"Concepts on {what}", measure_cost(model, volume, COUNTS, settings, REPEATS))
    yield second_concept(f"The second concept on {what}", model, volume, options)


def measure_cost(
    model: LoadedModel, volume: Volume, counts: Sequence[int], settings: SegmentSettings, repeats: int
) -> dict[int, tuple[float, float]]:
    """Number of concepts to seconds of ours and of full forwards."""
    always_with_cls_token(model.model.detector_model)
    segment(volume, CONCEPTS[:1], model, settings)  # not measured: first calls set up kernels and caches
    runtime = pick_runtime(settings)
    stack = prepare(volume, model.preprocess, settings)
    calibration, _ = thresholds(model.presence, stack.modality, settings)
    measured = {}
    for count in counts:
        concepts = CONCEPTS[:count]
        ours = seconds(partial(segment, volume, concepts, model, settings), repeats)
        theirs = min(forward_each(model, stack, concepts, calibration, runtime).seconds for _ in range(repeats))
        measured[count] = (ours, theirs)
    return measured


def cost(title: str, measured: dict[int, tuple[float, float]]) -> Table:
    """A row per number of concepts."""
    least = min(measured)
    first, _ = measured[least]
    rows = []
    for count, (ours, theirs) in measured.items():
        further = number((ours - first) / (count - least), 3) if count > least else ""
        times = (number(ours), ratio(ours, first), number(theirs), ratio(theirs, ours))
        rows.append((str(count), *times, further))
    return Table(title, COST, tuple(rows))


def second_concept(title: str, model: LoadedModel, volume: Volume, options: Options) -> Table:
    """Time of a first and of a second concept on a volume whose features are kept."""
    rows = []
    for mode in ("detect", "fuse") if model.model.has_tracker else ("detect",):
        settings = options.settings(mode=mode, **OPEN)
        segment(volume, CONCEPTS[2:3], model, settings)
        cache = FeatureCache()
        first, second = (
            seconds(partial(segment, volume, [concept], model, settings, cache=cache)) for concept in CONCEPTS[:2]
        )
        rows.append((mode, number(first), number(second), ratio(first, second)))
    notes = () if model.model.has_tracker else ("The model has no tracker: mode fuse cannot run.",)
    return Table(title, SECOND, tuple(rows), notes)
