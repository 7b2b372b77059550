"""From a volume and typed concepts to a segmentation: the page that names every stage.

preprocess   volume      -> stack        pictures along an axis, on the model's canvas
features     stack       -> features     trunk once a slice, for all concepts
detection    features    -> detections   presence, then masks where presence opens the gate
tracking     detections  -> detections   objects carried up and down by the memory bank, merged with what is seen
vote         detections  -> evidence     where several axes were looked along: what most of them say
sides        evidence    -> evidence     "left" and "right" held to the patient, where a sided concept was found
fusion       evidence    -> labels       concepts that are present compete for voxels
findings     labels      -> segmentation on the input's grid, one measured finding per asked concept; objects apart on
                            request
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.concepts import are_relatives
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import SettingsError, WeightsError
from MedicalSAM3Lib.evidence import Evidence
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.findings import judge, make_findings
from MedicalSAM3Lib.fusion import Labels, label
from MedicalSAM3Lib.instances import keep_apart
from MedicalSAM3Lib.interpret import as_typed, read_all
from MedicalSAM3Lib.ladder import Ladder
from MedicalSAM3Lib.measures import measured
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord, Stopwatch
from MedicalSAM3Lib.runtime import peak_memory_mb, start_peak_memory
from MedicalSAM3Lib.sides import hold_to_sides, needs_sides
from MedicalSAM3Lib.stack import SliceStack, prepare_all
from MedicalSAM3Lib.structures import OnProgress, Progress, Segmentation, Volume
from MedicalSAM3Lib.views import Machine, View, look_along_all, thresholds
from MedicalSAM3Lib.vote import median_presence, vote

if TYPE_CHECKING:
    from MedicalSAM3Lib.model_folder import LoadedModel


def segment(
    volume: Volume,
    concepts: Sequence[str],
    model: LoadedModel,
    settings: SegmentSettings | None = None,
    on_progress: OnProgress | None = None,
    *,
    cache: FeatureCache | None = None,
) -> Segmentation:
    """Segment a volume or an image by typed concepts.

    Args:
        volume: As ``read_volume`` returns it.
        concepts: At least one phrase, none twice.
        model: As ``load_model`` returns it.
        settings: None takes the defaults.
        on_progress: Called at least once a batch of slices; raise ``Cancelled`` in it to stop.
        cache: Keeps what the trunk makes of the volume for the next concepts; changes no result in fp32.

    Returns:
        Labels on the input's grid, and a finding for each concept, in the order asked.

    Raises:
        PromptError, SettingsError: Something asked cannot be done; raised before anything is computed.
        RunError: The computation failed.
        Cancelled: From ``on_progress``.
    """
    return segment_with_report(volume, concepts, model, settings, on_progress, cache=cache)[0]


def segment_with_report(
    volume: Volume,
    concepts: Sequence[str],
    model: LoadedModel,
    settings: SegmentSettings | None = None,
    on_progress: OnProgress | None = None,
    *,
    cache: FeatureCache | None = None,
) -> tuple[Segmentation, RunRecord]:
    """As ``segment``; returns also the record of the run, from which ``write_report`` makes a report."""
    settings, on_progress = settled(settings or SegmentSettings(), model), on_progress or _ignore
    readings = read_all(concepts, model.phrases, verbatim=settings.verbatim)
    phrases = [reading.asked for reading in readings]
    check_settings(settings, model)
    model.tokenizer.encode(phrases)  # a phrase that is too long is refused before anything is computed
    ladder, watch = Ladder(settings), Stopwatch()
    device = ladder.runtime.device
    start_peak_memory(device)

    with watch.stage("preprocess"):
        stacks = prepare_all(volume, model.preprocess, settings)
    with ladder.borrowing(model.model):
        views = look_along_all(stacks, phrases, model, settings, Machine(ladder, watch, on_progress, cache))
    stack, detections = stacks[0], views[0].detections
    evidence: Evidence = views[0].evidence
    calibration, volume_rule = thresholds(model.presence, stack.modality, settings)
    verdicts = [judge(presence, volume_rule) for presence in median_presence(views)]
    found = [number for number, verdict in enumerate(verdicts) if verdict.state == "found"]
    if len(views) > 1:
        with watch.stage("vote"):
            evidence, detections = vote(views, found, on_progress)
    notices = [*_unfamiliar(volume, views, model), *(notice for reading in readings for notice in reading.notices)]
    if not settings.verbatim and needs_sides(readings, found):
        with watch.stage("sides"):
            evidence = hold_to_sides(readings, found, evidence, stack, volume, notices.append)
    with watch.stage("fusion"):
        labels = _label(phrases, found, evidence, settings, on_progress)
    with watch.stage("findings"):
        confidence = _on_input(labels.confidence_map, stack)
        findings = make_findings(phrases, verdicts, detections, labels, stack, calibration.threshold, volume.voxel_ml)
        regions = labels.layers
        if settings.instances:
            findings, regions = keep_apart(findings, labels, views[0].tracks, evidence, stack, volume, on_progress)
        layers = tuple(stack.to_input(region) for region in regions)
        findings = as_typed(measured(findings, layers, volume), readings)

    record = RunRecord(
        input=InputRecord.of(volume),
        model=ModelRecord.of(model),
        settings=settings,
        axis=stack.axis,
        slices=sum(len(view.stack) - len(view.detections.skipped) for view in views),
        device=str(ladder.runtime.device),
        dtype=str(ladder.runtime.dtype).removeprefix("torch."),
        timings_s=watch.seconds,
        peak_memory_mb=peak_memory_mb(device),
        findings=findings,
        notices=(*notices, *ladder.notices),
    )
    return Segmentation(layers, volume.ijk_to_lps, findings, confidence), record


def _unfamiliar(volume: Volume, views: Sequence[View], model: LoadedModel) -> list[str]:
    """What to tell where the model never saw such images."""
    axes = [view.stack.axis for view in views]
    return model.trained_on.notices(views[0].stack.modality, axes, is_picture=volume.is_2d)


def settled(settings: SegmentSettings, model: LoadedModel) -> SegmentSettings:
    """The settings with what "auto" leaves to the model decided; a run records these."""
    return settings if settings.mode != "auto" else settings.model_copy(update={"mode": model.presence.mode})


def check_settings(settings: SegmentSettings, model: LoadedModel) -> None:
    """Refuse, before anything is computed, what this version or this model cannot do.

    Raises:
        SettingsError: Tracking without a tracker.
        WeightsError: The model's folder contradicts itself.
    """
    if settings.mode != "detect" and not model.model.has_tracker:
        raise SettingsError(f"mode: '{settings.mode}' needs a tracker, '{model.name}' has none; use 'detect'.")
    wanted, got = model.model.image_size, model.preprocess.image_size
    if wanted != got:
        raise WeightsError(f"Expected image_size {wanted} in preprocess.json of '{model.name}', got {got}.")


def _label(
    phrases: Sequence[str],
    found: Sequence[int],
    evidence: Evidence,
    settings: SegmentSettings,
    on_progress: OnProgress,
) -> Labels:
    """Put the concepts that are in the volume on its voxels; the others must not take any."""
    n_slices = evidence.shape[0]

    def on_slice(n: int) -> None:
        on_progress(Progress("fusion", n, n_slices))

    # By name, so that the order of asking decides no tie.
    by_name = sorted(found, key=lambda number: phrases[number])
    labels = label(evidence, by_name, _sharing(phrases, settings), on_slice, with_map=settings.confidence_map)
    on_progress(Progress("fusion", n_slices, n_slices))
    return labels


def _on_input(of_voxels: np.ndarray | None, stack: SliceStack) -> np.ndarray | None:
    """The confidence of the region's voxels as that of the input's: float32 ``(K, J, I)``."""
    return None if of_voxels is None else stack.to_input(of_voxels).astype(np.float32)


def _sharing(phrases: Sequence[str], settings: SegmentSettings) -> Callable[[int, int], bool]:
    """Which concepts may both hold a voxel: none, all, or those of which one is a part or a kind of the other."""
    if settings.overlap == "nested":
        return lambda one, other: are_relatives(phrases[one], phrases[other])
    return lambda one, other: settings.overlap == "keep"


def _ignore(progress: Progress) -> None:
    """Take no notice."""
