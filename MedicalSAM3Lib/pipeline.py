"""From a volume and typed concepts to a segmentation: the page that names every stage.

preprocess   volume      -> stack        pictures along an axis, on the model's canvas
features     stack       -> features     trunk once a slice, for all concepts
detection    features    -> detections   presence, then masks where presence opens the gate
tracking     detections  -> detections   objects carried up and down by the memory bank, merged with what is seen
fusion       detections  -> labels       concepts that are present compete for voxels
findings     labels      -> segmentation on the input's grid, one finding per asked concept
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.concepts import find_concept, normalise
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import PromptError, SettingsError, WeightsError
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.findings import Verdict, judge, make_findings
from MedicalSAM3Lib.fusion import Labels, label_exclusively, label_with_overlap
from MedicalSAM3Lib.ladder import Ladder
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord, Stopwatch
from MedicalSAM3Lib.runtime import peak_memory_mb, start_peak_memory
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import OnProgress, Progress, Segmentation, Volume
from MedicalSAM3Lib.views import Machine, View, look, thresholds

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
    settings, on_progress = settings or SegmentSettings(), on_progress or _ignore
    phrases = check_concepts(concepts)
    check_settings(settings, model)
    model.tokenizer.encode(phrases)  # a phrase that is too long is refused before anything is computed
    ladder, watch = Ladder(settings), Stopwatch()
    device = ladder.runtime.device
    start_peak_memory(device)

    with watch.stage("preprocess"):
        stack = prepare(volume, model.preprocess, settings)
    with ladder.borrowing(model.model):
        view = look(stack, phrases, model, settings, Machine(ladder, watch, on_progress, cache))
    with watch.stage("fusion"):
        calibration, volume_rule = thresholds(model.presence, stack.modality, settings)
        verdicts = [judge(presence, volume_rule) for presence in view.presence]
        labels = _label(phrases, verdicts, view, settings, on_progress)
    with watch.stage("findings"):
        layers = tuple(stack.to_input(layer) for layer in labels.layers)
        of_voxels = labels.confidence_map
        confidence = None if of_voxels is None else stack.to_input(of_voxels).astype(np.float32)
        findings = make_findings(
            phrases, verdicts, view.detections, labels, stack, calibration.threshold, volume.voxel_ml
        )

    record = RunRecord(
        input=InputRecord.of(volume),
        model=ModelRecord.of(model),
        settings=settings,
        axis=stack.axis,
        slices=len(stack) - len(view.detections.skipped),
        device=str(ladder.runtime.device),
        dtype=str(ladder.runtime.dtype).removeprefix("torch."),
        timings_s=watch.seconds,
        peak_memory_mb=peak_memory_mb(device),
        findings=findings,
        notices=ladder.notices,
    )
    return Segmentation(layers, volume.ijk_to_lps, findings, confidence), record


def check_concepts(concepts: Sequence[str]) -> list[str]:
    """Return the phrases as typed.

    Raises:
        PromptError: None, an empty one, or one concept asked for twice, under whatever name.
    """
    if isinstance(concepts, str):
        raise PromptError("Expected a list of concepts, got one text; write ['liver'] for one concept.")
    if not concepts:
        raise PromptError("Expected at least one concept such as 'liver', got none; type what to look for.")
    seen: dict[str, str] = {}
    for phrase in concepts:
        if not normalise(phrase):
            raise PromptError("Expected a concept such as 'liver', got an empty one; type what to look for.")
        concept = find_concept(phrase)
        key = concept.concept_id if concept else normalise(phrase)
        if key in seen:
            raise PromptError(f"'{phrase}' asks for the same concept as '{seen[key]}'; ask for each concept once.")
        seen[key] = phrase
    return list(concepts)


def check_settings(settings: SegmentSettings, model: LoadedModel) -> None:
    """Refuse, before anything is computed, what this version or this model cannot do.

    Raises:
        SettingsError: Tracking without a tracker, a vote over all axes, or instances as separate segments.
        WeightsError: The model's folder contradicts itself.
    """
    if settings.mode != "detect" and not model.model.has_tracker:
        raise SettingsError(f"mode: '{settings.mode}' needs a tracker, '{model.name}' has none; use 'detect'.")
    if settings.axis == "all":
        raise SettingsError("axis: voting over 'all' axes is not there yet in this version; use auto, 0, 1 or 2.")
    if settings.instances:
        raise SettingsError("instances: separate segments are not there yet in this version; leave the setting off.")
    wanted, got = model.model.image_size, model.preprocess.image_size
    if wanted != got:
        raise WeightsError(f"Expected image_size {wanted} in preprocess.json of '{model.name}', got {got}.")


def _label(
    phrases: Sequence[str],
    verdicts: Sequence[Verdict],
    view: View,
    settings: SegmentSettings,
    on_progress: OnProgress,
) -> Labels:
    """Put the concepts that are in the volume on its voxels; the others must not take any."""
    found = [number for number, verdict in enumerate(verdicts) if verdict.state == "found"]
    # By name, so that the order of asking decides no tie.
    found.sort(key=lambda number: phrases[number])
    rule = label_exclusively if settings.overlap == "exclusive" else label_with_overlap

    def on_slice(n: int) -> None:
        on_progress(Progress("fusion", n, len(stack)))

    stack, with_map = view.stack, settings.confidence_map
    labels = rule(view.detections.maps, found, stack.region_shape, stack.restore, on_slice, with_map=with_map)
    on_progress(Progress("fusion", len(stack), len(stack)))
    return labels


def _ignore(progress: Progress) -> None:
    """Take no notice."""
