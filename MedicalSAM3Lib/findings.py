"""One answer per asked concept: is it there, how large is it, and where should a person look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from MedicalSAM3Lib.concepts import colour_of, find_concept
from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.fusion import Labels
from MedicalSAM3Lib.presence import VolumeRule
from MedicalSAM3Lib.separate import LEAST_OBJECT_VOXELS, connected_parts
from MedicalSAM3Lib.stack import SliceStack
from MedicalSAM3Lib.structures import Codes, Finding, State

UNSURE_BAND = 0.15
"""A slice whose presence is this close to the threshold could as well have been decided the other way."""

LEAST_AGREEMENT = 0.5
"""Below this IoU the instances and the semantic map of a slice tell two stories."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Presence of one concept in the volume, and what follows; ``reason`` is empty when found."""

    state: State
    presence: float | None
    reason: str = ""


def judge(presence: float, rule: VolumeRule) -> Verdict:
    """Decide from its presence in the volume, NaN where that is not known, whether a concept is there."""
    if np.isnan(presence):
        return Verdict("failed", None, "The model's answer was not a number; run again with speed 'exact'.")
    if presence < rule.threshold:
        reason = f"Its presence is {presence:.2f}, below {rule.threshold:.2f}."
        return Verdict("not_found", float(presence), reason)
    return Verdict("found", float(presence))


def make_findings(
    phrases: Sequence[str],
    verdicts: Sequence[Verdict],
    detections: Detections,
    labels: Labels,
    stack: SliceStack,
    threshold: float,
    voxel_ml: float,
) -> tuple[Finding, ...]:
    """Write the answers, in the order asked.

    Args:
        labels: Of the concepts whose verdict is "found", on the region of ``stack``.
        threshold: Of a slice's presence.
        voxel_ml: Volume of a voxel in millilitres.
    """
    boxes = [ndimage.find_objects(layer) for layer in labels.layers]
    findings = []
    for number, (phrase, verdict) in enumerate(zip(phrases, verdicts, strict=True)):
        review = _review_slices(detections, number, threshold, stack)
        common = _identity(phrase) | {"phrase": phrase, "presence": verdict.presence}
        voxels = labels.voxels.get(number, 0)
        if voxels == 0:
            state: State = "not_found" if verdict.state == "found" else verdict.state
            reason = verdict.reason or _why_empty(detections, number)
            findings.append(Finding(state=state, reason=reason, review_slices=review, **common))  # type: ignore[arg-type]
            continue
        layer, label = labels.layer_of[number], number + 1
        box = boxes[layer][label - 1]
        findings.append(
            Finding(
                state="found",
                confidence=labels.confidence[number],
                voxels=voxels,
                volume_ml=voxels * voxel_ml,
                slice_range=slice_range(stack, box[0].start, box[0].stop),
                review_slices=review,
                instances=count_instances(labels.layers[layer][box] == label),
                layer=layer,
                label=label,
                **common,  # type: ignore[arg-type]
            )
        )
    return tuple(findings)


def count_instances(mask: np.ndarray) -> int:
    """Count the connected parts (26 neighbours) of a mask that are no specks; at least 1."""
    parts, count = connected_parts(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    return max(1, int((sizes >= LEAST_OBJECT_VOXELS).sum()))


def slice_range(stack: SliceStack, start: int, stop: int) -> tuple[int, int]:
    """First and last of some slices of the stack, half-open, in the input's own numbering."""
    ends = stack.slice_numbers[[start, stop - 1]]
    return int(ends.min()), int(ends.max())


def _identity(phrase: str) -> dict[str, object]:
    concept = find_concept(phrase)
    if concept is None:
        return {"colour": colour_of(phrase), "codes": Codes()}
    return {"concept_id": concept.concept_id, "colour": concept.colour, "codes": concept.codes}


def _review_slices(detections: Detections, concept: int, threshold: float, stack: SliceStack) -> tuple[int, ...]:
    unsure = np.abs(detections.presence[concept] - threshold) <= UNSURE_BAND
    unsure[list(detections.skipped)] = False  # half way from present to absent: of that the model said nothing
    with_two_stories = detections.agreement[concept] < LEAST_AGREEMENT
    return tuple(sorted(int(number) for number in stack.slice_numbers[unsure | with_two_stories]))


def _why_empty(detections: Detections, concept: int) -> str:
    has_mask = any(key[0] == concept and bool((one.logits > 0).any()) for key, one in detections.maps.items())
    if has_mask:
        return "It seems present, but every voxel is more confidently another concept or outside the region."
    return "It seems present, but no voxel is confident enough for a mask."
