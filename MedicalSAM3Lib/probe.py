"""What a run costs on this machine, measured on a few slices of its own volume by the stages themselves.

A first call is slower than the next: it starts threads, chooses kernels and takes memory that it keeps. A run in a
new process pays that once, as the probe does, so the first call of a stage is kept apart from the others.

Shapes: P concepts, N slices of the stack, s side of the model's masks, B rows of the tracker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from MedicalSAM3Lib import meter as meters
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.detector import Detections, Question, detect, encode_text, pair_bytes, pairs_at_once
from MedicalSAM3Lib.evidence import StackEvidence
from MedicalSAM3Lib.feature_cache import memory_budget
from MedicalSAM3Lib.feature_store import slices_in_memory
from MedicalSAM3Lib.features import TrunkFeatures, activation_bytes, encode, slices_at_once
from MedicalSAM3Lib.findings import Verdict, make_findings
from MedicalSAM3Lib.fusion import label
from MedicalSAM3Lib.meter import Meter
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack
from MedicalSAM3Lib.structures import Progress
from MedicalSAM3Lib.text_cache import text_cache
from MedicalSAM3Lib.tracker import NEW_SCORE, ROWS_AT_ONCE, rows_that_fit
from MedicalSAM3Lib.tracker_net import BoundTracker
from MedicalSAM3Lib.tracker_steps import Recalled
from MedicalSAM3Lib.views import thresholds

if TYPE_CHECKING:
    from MedicalSAM3Lib.model_folder import LoadedModel

_PAIRS = 48
"""So many pairs are enough to time, and to see how often the gate opens; a slice or a batch may have more."""

_OPEN = 0.0
"""A threshold that every presence reaches."""


@dataclass(frozen=True, slots=True)
class TrunkCost:
    """Features.

    Attributes:
        first_s, slice_s: Seconds of the first slice, and of each further one.
        batch: Slices that go through together.
        slice_bytes: Size of a slice's features.
        kept: How many slices have their features in memory.
        growth: By how many bytes the process grew, without the features themselves.
    """

    first_s: float
    slice_s: float
    batch: int
    slice_bytes: int
    kept: int
    growth: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Of a slice with all P concepts: seconds of detection, fusion and findings, and objects for the tracker."""

    detection_s: float
    fusion_s: float
    findings_s: float
    objects: float = 0.0


@dataclass(frozen=True, slots=True)
class PairsCost:
    """Detection with all P concepts, and what follows it.

    Attributes:
        once_s: Seconds of encoding the phrases, and what a first call costs more.
        usual, most: With the gates that open by the run's own threshold, and with all of them.
        open_share: Share of the gates (0..1) that the threshold opens.
        mask_side: s.
        growth: By how many bytes the process grew, with all gates open.
    """

    once_s: float
    usual: Rates
    most: Rates
    open_share: float
    mask_side: int
    growth: int


@dataclass(frozen=True, slots=True)
class TrackerCost:
    """Tracking.

    Attributes:
        row_s: Seconds of an object on a slice.
        row_bytes: What it leaves in the memory bank, on the device.
        reach: Slices that a walk remembers: seeds, and those walked last.
        growth: By how many bytes the process grew.
    """

    row_s: float = 0.0
    row_bytes: int = 0
    reach: int = 0
    growth: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """All that was measured for a stack of so many slices; ``kept``: bytes by which the process stayed larger."""

    slices: int
    trunk: TrunkCost
    pairs: PairsCost
    tracker: TrackerCost
    kept: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked, of which model and on which machine: the arguments that all probes share."""

    phrases: Sequence[str]
    model: LoadedModel
    settings: SegmentSettings
    runtime: Runtime
    meter: Meter


def measure(
    stack: SliceStack,
    phrases: Sequence[str],
    model: LoadedModel,
    settings: SegmentSettings,
    runtime: Runtime,
    meter: Meter,
) -> Costs:
    """Run every stage on a few slices: a batch of the trunk, the pairs of some slices, a step of the tracker.

    Args:
        meter: All growth is counted from its start.

    Raises:
        RunError: Memory or disk is full: the run itself would be no better off.
    """
    subject = Subject(phrases, model, settings, runtime, meter)
    trunk, few, features = probe_trunk(stack, subject)
    with features:
        pairs = probe_pairs(few, features, subject)
        tracker = TrackerCost()
        if settings.mode != "detect":
            rows = max(2, min(ROWS_AT_ONCE, round(2 * len(phrases) * pairs.open_share)))  # walks go both ways
            tracker = probe_tracker(features, subject, rows, len(stack), pairs.mask_side)
    return Costs(len(stack), trunk, pairs, tracker, meter.growth())


def spread(n: int, count: int) -> list[int]:
    """Numbers of ``count`` of n slices, evenly through the stack; the middle one for 1."""
    return [(2 * number + 1) * n // (2 * count) for number in range(count)]


def probe_trunk(stack: SliceStack, subject: Subject) -> tuple[TrunkCost, SliceStack, TrunkFeatures]:
    """Run the trunk on the middle slice, then on a batch; return also those slices, and their features."""
    net, runtime, meter = subject.model.model, subject.runtime, subject.meter
    few = stack.take(spread(len(stack), 1))
    features, first_s, _ = meter.run(lambda: encode(few, net, runtime, _ignore))
    tokens = features.take([0])
    batch, slice_bytes = slices_at_once(tokens, runtime), tokens.nbytes
    kept = slices_in_memory(len(stack), slice_bytes, memory_budget(subject.settings.memory_budget_gb))
    cost = partial(TrunkCost, first_s, batch=batch, slice_bytes=slice_bytes, kept=kept)
    otherwise = batch * activation_bytes(tokens) if runtime.device.type == "cpu" else 0
    if len(stack) == 1:
        return cost(slice_s=0.0, growth=otherwise), few, features
    with features:
        count = min(batch, len(stack) - 1)
    # As in a run, the first slice goes alone, and as much of the features lies in the file.
    few = stack.take(spread(len(stack), count if count == 1 else count + 1))
    in_memory = len(few) * slice_bytes * kept // len(stack)
    marks: list[tuple[int, float]] = []

    def on_progress(progress: Progress) -> None:
        marks.append((progress.done, meters.clock()))

    features, _, growth = meter.run(
        lambda: encode(few, net, runtime, on_progress, in_memory / 1e9), otherwise + in_memory
    )
    (before, begin), (done, end) = marks[-2:]
    slice_s = (end - begin) / (done - before)
    return cost(slice_s=slice_s, growth=max(0, growth - in_memory)), few, features


def probe_pairs(stack: SliceStack, features: TrunkFeatures, subject: Subject) -> PairsCost:
    """Ask for all concepts on some slices, as the run will and with all gates open, and make labels of the answers."""
    model, settings, runtime, meter = subject.model, subject.settings, subject.runtime, subject.meter
    net, gate = model.model, thresholds(model.presence, stack.modality, settings)[0]
    ids, mask = model.tokenizer.encode(subject.phrases)
    cache = text_cache(model.weights_hash, runtime.device, runtime.dtype)
    text, text_s, _ = meter.run(lambda: encode_text(net, ids, mask, runtime, cache))
    usual = Question(text, gate, settings.rule, with_objects=settings.mode != "detect")
    most = replace(usual, calibration=gate.model_copy(update={"threshold": _OPEN}))
    at_once = pairs_at_once(net, text, runtime)
    numbers = spread(len(stack), _slices_to_ask(len(stack), len(subject.phrases), at_once))
    otherwise = at_once * pair_bytes(net, text) if runtime.device.type == "cpu" else 0
    with features.part(numbers) as few, features.part(numbers[:1]) as one:
        _, first_s, _ = meter.run(lambda: detect(one, net, most, runtime, _ignore))
        seen, usual_s, _ = meter.run(lambda: detect(few, net, usual, runtime, _ignore))
        all_seen, most_s, growth = meter.run(lambda: detect(few, net, most, runtime, _ignore), otherwise)
    some = stack.take(numbers)
    return PairsCost(
        once_s=text_s + max(0.0, first_s - most_s / len(some)),
        usual=_rates(some, usual_s, seen, subject, gate.threshold),
        most=_rates(some, max(usual_s, most_s), all_seen, subject, gate.threshold),
        open_share=float((seen.presence >= gate.threshold).mean()),
        mask_side=next((len(one.logits) for one in all_seen.maps.values()), 4 * net.grid_size),
        growth=growth,
    )


def _slices_to_ask(n: int, concepts: int, at_once: int) -> int:
    """As many slices as go together in a run, or more where that is little."""
    together = max(1, at_once // concepts)
    return min(n, together * max(1, _PAIRS // (concepts * together)))


def _rates(stack: SliceStack, detection_s: float, detections: Detections, subject: Subject, threshold: float) -> Rates:
    """Go on from the detections of a few slices to findings, and divide by the slices."""
    concepts, run, n = range(len(subject.phrases)), subject.meter.run, len(stack)
    evidence = StackEvidence(detections.maps, stack.region_shape, stack.read)
    with_map = subject.settings.confidence_map
    labels, fusion_s, _ = run(
        lambda: label(evidence, concepts, lambda one, other: False, lambda n: None, with_map=with_map)
    )
    verdicts = [Verdict("found", 1.0) for _ in concepts]

    def answer() -> object:
        layers = [stack.to_input(layer) for layer in labels.layers]
        return layers, make_findings(subject.phrases, verdicts, detections, labels, stack, threshold, 1.0)

    _, findings_s, _ = run(answer)
    objects = sum(int((found.scores >= NEW_SCORE).sum()) for found in detections.objects.values())
    return Rates(detection_s / n, fusion_s / n, findings_s / n, objects / n)


def probe_tracker(features: TrunkFeatures, subject: Subject, rows: int, n_slices: int, mask_side: int) -> TrackerCost:
    """Take ``rows`` objects, or as many as fit, by one slice, with a memory as full as it gets in a stack of
    ``n_slices``."""
    net, runtime, meter = subject.model.model, subject.runtime, subject.meter
    numbers = [row % len(features) for row in range(rows)]
    seeding = BoundTracker(net, features, runtime)
    image = seeding.look(numbers)
    answer = seeding.take_mask(image, torch.ones(rows, mask_side, mask_side))
    memory = seeding.memorise(image, answer)
    limits = seeding.limits
    count, pointers = (min(most, n_slices) for most in (limits.memories, limits.pointers))
    rows, device = min(rows, rows_that_fit(memory[0], count)), memory.device
    recalled = Recalled(
        memories=memory[:rows, None].expand(-1, count, -1, -1),
        steps=torch.arange(count, device=device).expand(rows, -1),
        pointers=answer.pointers[:rows, None].expand(-1, pointers, -1),
        pointer_steps=torch.arange(pointers, device=device).expand(rows, -1),
        reach=pointers,
    )

    def step() -> None:
        fresh = BoundTracker(net, features, runtime)  # it has looked at nothing yet, as a walk on its next slice
        image = fresh.look(numbers[:rows])
        fresh.memorise(image, fresh.follow(image, recalled)).cpu()  # waits for the device

    meter.run(step)  # not timed: it sets up kernels
    _, seconds, growth = meter.run(step)
    row_bytes, reach = memory[0].nbytes + answer.pointers[0].nbytes, limits.seeds + limits.memory_reach
    return TrackerCost(seconds / rows, row_bytes, reach, growth)


def _ignore(progress: Progress) -> None:
    """Take no notice."""
