"""A view: what is seen of a volume along one axis. Features, then detections, then objects carried through.

This is all of a run that computes on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.detector import Detections, Question, detect, encode_text
from MedicalSAM3Lib.evidence import StackEvidence
from MedicalSAM3Lib.feature_cache import FeatureCache, memory_budget
from MedicalSAM3Lib.features import cached_features
from MedicalSAM3Lib.ladder import Batches, Ladder
from MedicalSAM3Lib.mask_file import MaskFile
from MedicalSAM3Lib.merge import with_tracks
from MedicalSAM3Lib.offload import place_for
from MedicalSAM3Lib.presence import PresenceSpec, SliceCalibration, VolumeRule, presence_of_volume
from MedicalSAM3Lib.process_memory import trim
from MedicalSAM3Lib.report import Stopwatch
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack
from MedicalSAM3Lib.structures import OnProgress, Progress
from MedicalSAM3Lib.text_cache import text_cache
from MedicalSAM3Lib.thick import key_slices, on_all_slices, presence_between, tracks_on_all_slices
from MedicalSAM3Lib.tracker import ROWS_AT_ONCE, Track, track
from MedicalSAM3Lib.tracker import STAGE as TRACKING
from MedicalSAM3Lib.tracker_net import BoundTracker

if TYPE_CHECKING:
    from MedicalSAM3Lib.model_folder import LoadedModel

MASKS_OF_BUDGET = 0.25
"""As much as this part of the budget for features may masks take before they, too, go into a file."""


@dataclass(frozen=True, slots=True)
class View:
    """What was seen along one axis.

    Attributes:
        stack: The slices.
        detections: What each of them shows, with the maps that count: of the detector, the tracker, or both.
        presence: Calibrated probability ``(P,)`` that a concept is in the volume; NaN where the model's answer on
            some slice was not a number.
        tracks: The objects that were carried through the slices that were looked at; empty where nobody asks for
            them, or only the detector was asked.
    """

    stack: SliceStack
    detections: Detections
    presence: np.ndarray
    tracks: tuple[Track, ...] = ()

    @property
    def evidence(self) -> StackEvidence:
        """What the maps say on the region's pixels."""
        return StackEvidence(self.detections.maps, self.stack.region_shape, self.stack.read)


@dataclass(frozen=True, slots=True)
class Machine:
    """With what a view is computed: device and number format, time and progress, and what is known already."""

    ladder: Ladder
    watch: Stopwatch
    on_progress: OnProgress
    cache: FeatureCache | None = None


def look(
    stack: SliceStack, phrases: Sequence[str], model: LoadedModel, settings: SegmentSettings, machine: Machine
) -> View:
    """Look for all concepts on all slices of a stack; where memory is full, again with less (``ladder``).

    Raises:
        RunError: Memory is full whatever was tried, or the disk is.
        Cancelled: From ``on_progress``.
    """
    view = machine.ladder.climb(lambda runtime: _look(stack, phrases, model, settings, machine, runtime))
    trim()  # what detector and tracker needed on the way, before labels come on top of it
    return view


def _look(
    stack: SliceStack,
    phrases: Sequence[str],
    model: LoadedModel,
    settings: SegmentSettings,
    machine: Machine,
    runtime: Runtime,
) -> View:
    assert settings.mode != "auto", "the pipeline settles it"
    net, watch, on_progress = model.model, machine.watch, machine.on_progress
    keys = key_slices(stack, settings)
    seen, masks = stack.take(keys), MaskFile(MASKS_OF_BUDGET * memory_budget(settings.memory_budget_gb))
    calibration, volume_rule = thresholds(model.presence, stack.modality, settings)
    ids, mask = model.tokenizer.encode(phrases)
    with watch.stage("features"):
        place_for("trunk", net, runtime)
        features = cached_features(seen, model, runtime, on_progress, settings.memory_budget_gb, machine.cache)
    with features:
        with watch.stage("detection"):
            place_for("text", net, runtime)
            text = encode_text(net, ids, mask, runtime, text_cache(model.weights_hash, runtime.device, runtime.dtype))
            place_for("detector", net, runtime)
            question = Question(text, calibration, settings.rule, with_objects=settings.mode != "detect")
            detections = detect(features, net, question, runtime, on_progress, masks)
            on_slices = presence_between(detections.presence, keys)
            presence = np.array([presence_of_volume(row, stack.slice_mm, volume_rule) for row in on_slices])
        if settings.mode == "detect":
            return View(stack, on_all_slices(detections, keys), presence)
        with watch.stage("tracking"):
            found = np.flatnonzero(presence >= volume_rule.threshold)
            objects = {key: one for key, one in detections.objects.items() if key[0] in found}
            place_for("tracker", net, runtime)
            rows_at_once = Batches(runtime, TRACKING, ROWS_AT_ONCE, "objects")
            bound = BoundTracker(net, features, runtime)
            tracks = track(objects, len(seen), bound, on_progress, rows_at_once, masks)
            merged = on_all_slices(with_tracks(detections, tracks, settings.mode), keys)
            followed = tuple(tracks_on_all_slices(tracks, keys)) if settings.instances else ()
            masks.let_go()
            return View(stack, merged, presence, followed)


def look_along_all(
    stacks: Sequence[SliceStack],
    phrases: Sequence[str],
    model: LoadedModel,
    settings: SegmentSettings,
    machine: Machine,
) -> list[View]:
    """Look along one axis after the other; several of them tell their progress as one, in slices of all stacks.

    Raises:
        RunError, Cancelled: As ``look``.
    """
    if len(stacks) == 1:
        return [look(stacks[0], phrases, model, settings, machine)]
    total, before, views = sum(len(stack) for stack in stacks), 0, []
    for stack in stacks:
        part = _part_of(machine.on_progress, before, len(stack), total)
        views.append(look(stack, phrases, model, settings, replace(machine, on_progress=part)))
        before += len(stack)
    return views


def _part_of(on_progress: OnProgress, before: int, size: int, total: int) -> OnProgress:
    """Report a stage of one stack as a part of ``total`` slices. Tracking counts in detections: their share counts."""

    def on_part(progress: Progress) -> None:
        done = size * progress.done // progress.total if progress.total else size
        on_progress(Progress(progress.stage, before + done, total))

    return on_part


def thresholds(presence: PresenceSpec, modality: str, settings: SegmentSettings) -> tuple[SliceCalibration, VolumeRule]:
    """The model's own calibration, or the user's one threshold for slices and volume."""
    calibration, rule = presence.slice_calibration(modality), presence.volume
    if settings.presence_threshold is None:
        return calibration, rule
    threshold = {"threshold": settings.presence_threshold}
    return calibration.model_copy(update=threshold), rule.model_copy(update=threshold)
