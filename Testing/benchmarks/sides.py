"""The same volume and concepts, asked of us and of ``transformers``: time, memory, and how right the answer is.

Every side gets the same weights, pictures, number format and threads, and a process in which nothing has run but a
warm-up on two slices. Against us: ours is timed from the volume to the findings, theirs in its network alone; what
turns its masks into labels is ours for all (``fusion.label``) and is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import Sam3VideoModel

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.evidence import StackEvidence
from MedicalSAM3Lib.findings import judge
from MedicalSAM3Lib.fusion import label
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.presence import presence_of_volume
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.runtime import pick_runtime
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.views import thresholds
from Testing.benchmarks.full_forward import Maps, always_with_cls_token, forward_each
from Testing.benchmarks.measuring import PeakMemory
from Testing.benchmarks.video_baseline import SameDetections, both_directions, build_video_model
from Testing.benchmarks.worlds import CaseName, load_case

Masks = dict[str, np.ndarray]
"""Phrase to its mask ``(K, J, I)``."""

Side = Callable[[Volume, Sequence[str], SegmentSettings], tuple[float, Masks]]
"""Asks for concepts; returns seconds and masks."""

WARM_UP = (8, 10)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a side took, ``above_mb`` of memory above model and input, and its mean Dice; a missed concept counts 0."""

    seconds: float
    above_mb: float | None
    dice: float


def ours(model: LoadedModel) -> Side:
    """Our pipeline, the whole call."""

    def ask(volume: Volume, concepts: Sequence[str], settings: SegmentSettings) -> tuple[float, Masks]:
        start = time.perf_counter()
        result = segment(volume, concepts, model, settings)
        taken = time.perf_counter() - start
        return taken, {finding.phrase: result.mask_kji(finding) for finding in result.findings}

    return ask


def full_forwards(model: LoadedModel) -> Side:
    """One full ``Sam3Model`` forward per slice and concept, read by our rules."""
    always_with_cls_token(model.model.detector_model)

    def ask(volume: Volume, concepts: Sequence[str], settings: SegmentSettings) -> tuple[float, Masks]:
        stack = prepare(volume, model.preprocess, settings)
        calibration, rule = thresholds(model.presence, stack.modality, settings)
        seen = forward_each(model, stack, concepts, calibration, pick_runtime(settings))
        verdicts = [judge(presence_of_volume(row, stack.slice_mm, rule), rule) for row in seen.presence]
        found = [p for p, verdict in enumerate(verdicts) if verdict.state == "found"]
        return seen.seconds, _masks(seen.maps, found, stack, concepts)

    return ask


def video(model: LoadedModel) -> Side:
    """``Sam3VideoModel`` with its own thresholds, both directions; see ``video_baseline``."""
    return _video(model, Sam3VideoModel)


def video_with_our_detections(model: LoadedModel) -> Side:
    """As ``video``, with the detector's answer read as ours is."""
    return _video(model, SameDetections)


SIDES: Mapping[str, Callable[[LoadedModel], Side]] = {
    "ours": ours,
    "full_forwards": full_forwards,
    "video": video,
    "video_with_our_detections": video_with_our_detections,
}


def measure(side: str, model_name: str, case_name: CaseName, settings: SegmentSettings) -> Measured:
    """Measure one side on one case; call it in a fresh process."""
    case = load_case(case_name)
    if case is None:
        raise ValueError(f"expected the volume '{case_name}', it is not there")
    model = load_model(model_name, settings.device, settings.speed)
    ask = SIDES[side](model)
    memory = PeakMemory(pick_runtime(settings).device)
    ask(case.volume, case.concepts[:1], settings.model_copy(update={"slices": WARM_UP}))
    taken, masks = ask(case.volume, case.concepts, settings)
    above_mb = memory.above_mb()
    scores = [dice(masks[phrase], reference) for phrase, reference in case.masks_kji.items()]
    return Measured(taken, above_mb, float(np.mean(scores)))


def _video(model: LoadedModel, kind: type[Sam3VideoModel]) -> Side:
    network = build_video_model(model, kind)

    def ask(volume: Volume, concepts: Sequence[str], settings: SegmentSettings) -> tuple[float, Masks]:
        stack = prepare(volume, model.preprocess, settings)
        if isinstance(network, SameDetections):
            network.calibration, _ = thresholds(model.presence, stack.modality, settings)
        start = time.perf_counter()
        maps = both_directions(network, model, stack, list(concepts), pick_runtime(settings))
        taken = time.perf_counter() - start
        return taken, _masks(maps, sorted({concept for concept, _ in maps}), stack, concepts)

    return ask


def _masks(maps: Maps, found: Sequence[int], stack: SliceStack, concepts: Sequence[str]) -> Masks:
    """Put maps on the input's grid as ours are: concepts that are there compete for voxels, ties by name."""
    ordered = sorted(found, key=lambda concept: concepts[concept])
    evidence = StackEvidence(maps, stack.region_shape, stack.read)
    labels = label(evidence, ordered, lambda one, other: False, lambda n: None)
    layer = stack.to_input(labels.layers[0])
    return {phrase: layer == number + 1 for number, phrase in enumerate(concepts)}
