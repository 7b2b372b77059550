"""Left and right held to the patient: what is found for "left kidney" on the patient's right is not accepted.

Of each object (connected part) of a sided concept it is measured how much lies on the wrong side of the body's midline.
An object on the wrong side goes, one that reaches over a little stays whole, one that lies on both sides is cut at the
midline. This happens before concepts compete for voxels, so that what is refused to the left kidney can still be the
right one. It is done for organs in pairs only, where the midline is known (``midline``), and is always told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from MedicalSAM3Lib.concepts import Concept, ancestors, load_concepts
from MedicalSAM3Lib.evidence import Box, Evidence, Patch, box_of, common_box
from MedicalSAM3Lib.interpret import Reading
from MedicalSAM3Lib.midline import Midline, find_midline, parts_of_x
from MedicalSAM3Lib.separate import connected_parts
from MedicalSAM3Lib.stack import SliceStack
from MedicalSAM3Lib.structures import Volume

BAND_MM = 10.0
"""So close to the midline nothing is on the wrong side."""

REACHES_OVER, IS_OVER = 0.15, 0.85
"""Share of an object on the wrong side: up to the first it is whole and right, from the second on it is wrong."""

CROSSING = frozenset(
    "brachiocephalic_vein renal_vein renal_artery iliac_vein iliac_artery anterior_cerebral_artery vas_deferens".split()
)
"""Pairs that reach across the midline by nature."""

HEAD = frozenset({"head", "neck"})
"""What is found in an image that is no wider than a head."""


@dataclass(frozen=True, slots=True)
class OneSided:
    """Evidence without what lies on the wrong side.

    Attributes:
        whole: All evidence.
        removed: Concept to a box of the region and, in it, the voxels that are taken away.
    """

    whole: Evidence
    removed: Mapping[int, tuple[Box, np.ndarray]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """As ``Evidence``."""
        return self.whole.shape

    def claim(self, concept: int, n: int) -> Patch | None:
        """As ``Evidence``."""
        claim = self.whole.claim(concept, n)
        if claim is None or concept not in self.removed:
            return claim
        (slices, *where), gone = self.removed[concept]
        common = common_box(claim.box, tuple(where)) if slices.start <= n < slices.stop else None
        if common is None:
            return claim
        values, inside = claim.values.copy(), Patch(tuple(where), gone[n - slices.start])
        values[claim.within(common)][inside.values[inside.within(common)]] = 0.0
        return Patch(claim.box, values)


def paired_whole(concept: Concept) -> str:
    """The pair of which a concept is one side, or lies in one: "kidney" of the left renal cortex; "" without one.

    The left atrium is not left of the midline, and has no pair: there is no concept of which it is the left one.
    """
    for concept_id in (concept.concept_id, *ancestors(concept.concept_id)):
        whole = concept_id.removeprefix(f"{concept.side}_")
        if concept.side and whole != concept_id and whole in _pairs():
            return whole
    return ""


def needs_sides(readings: Sequence[Reading], found: Sequence[int]) -> bool:
    """Whether a concept that was found has a side to hold it to."""
    return any(
        reading.both or (reading.concept and paired_whole(reading.concept)) for _, reading in _of(readings, found)
    )


def hold_to_sides(
    readings: Sequence[Reading],
    found: Sequence[int],
    evidence: Evidence,
    stack: SliceStack,
    volume: Volume,
    on_notice: Callable[[str], None],
) -> Evidence:
    """Take from each sided concept what lies on the patient's other side.

    Args:
        readings: What was asked.
        found: The numbers of the concepts that are in the volume.
        evidence: Of the region.
        stack: The slices of the region.
        volume: The input.
        on_notice: Called with a sentence for each concept that lost voxels or could not be held to its side.

    Returns:
        The evidence that is left.
    """
    midline = find_midline(volume, stack.modality)
    removed = {}
    for number, reading in _of(readings, found):
        concept = reading.concept
        if concept is None or not (reading.both or paired_whole(concept)):
            continue
        reason = midline.reason or _unfit(concept, midline)
        if midline.x_lps is None or reason:
            on_notice(f"'{reading.typed}' was not held to a side of the patient: {reason}.")
            continue
        mask = _mask(evidence, number)
        over_mm = _over_the_midline(stack, volume, midline.x_lps, 1.0 if concept.side != "left" else -1.0)
        if reading.both:
            missing = _missing_side(mask, over_mm)
            if missing:
                on_notice(f"'{reading.typed}': only the one on the patient's {missing} was found.")
            continue
        gone = wrong_side(mask, over_mm)
        box = box_of(gone)
        if box is not None:
            removed[number] = box, gone[box].copy()
            on_notice(
                f"'{reading.typed}': {int(np.count_nonzero(gone))} of {int(np.count_nonzero(mask))} voxels lay on the "
                f"patient's {'left' if concept.side == 'right' else 'right'} and were not accepted."
            )
    return OneSided(evidence, removed) if removed else evidence


def wrong_side(mask: np.ndarray, over_mm: Sequence[np.ndarray]) -> np.ndarray:
    """The voxels of a mask ``(n, h, w)`` that belong to another side.

    Args:
        mask: Boolean.
        over_mm: How far each voxel lies over the midline, on the wrong side, as arrays to add up.
    """
    gone, box = np.zeros_like(mask), box_of(mask)
    if box is None:
        return gone
    parts, count = connected_parts(mask[box])
    over_mm = [part[box] for part in over_mm]
    sizes, over = np.zeros(count + 1), np.zeros(count + 1)
    for n, part in enumerate(parts):
        sizes += np.bincount(part.ravel(), minlength=count + 1)
        over += np.bincount(part[_over(over_mm, n) > BAND_MM], minlength=count + 1)
    share = over / np.maximum(sizes, 1)
    whole, cut = share >= IS_OVER, (share > REACHES_OVER) & (share < IS_OVER)
    whole[0] = cut[0] = False  # what is no part of the mask
    gone[box] = whole[parts]
    for n, part in enumerate(parts):
        gone[box][n] |= cut[part] & (_over(over_mm, n) > 0)
    return gone


@cache
def _pairs() -> frozenset[str]:
    return frozenset(concept.concept_id for concept in load_concepts() if concept.paired) - CROSSING


def _of(readings: Sequence[Reading], found: Sequence[int]) -> list[tuple[int, Reading]]:
    return [(number, readings[number]) for number in found]


def _unfit(concept: Concept, midline: Midline) -> str:
    """Why a midline says nothing of a concept: in an image as wide as a head a femur is one leg's."""
    if midline.is_trunk or HEAD & {concept.concept_id, *ancestors(concept.concept_id)}:
        return ""
    return "the image is too narrow to show both sides of the trunk"


def _over_the_midline(stack: SliceStack, volume: Volume, midline_mm: float, sign: float) -> list[np.ndarray]:
    """How far each voxel of the region lies over the midline, to the left (sign 1) or to the right (-1), in mm."""
    parts = [stack.from_input(part) for part in parts_of_x(volume, sign)]
    return [*parts, np.broadcast_to(np.float64(-sign * midline_mm), parts[0].shape)]


def _over(parts: Sequence[np.ndarray], n: int) -> np.ndarray:
    return np.sum([part[n] for part in parts], axis=0)


def _mask(evidence: Evidence, concept: int) -> np.ndarray:
    mask = np.zeros(evidence.shape, bool)
    for n in range(len(mask)):
        claim = evidence.claim(concept, n)
        if claim is not None:
            mask[n][claim.box] = claim.values > 0
    return mask


def _missing_side(mask: np.ndarray, left_mm: Sequence[np.ndarray]) -> str:
    """The side on which all of a mask of both lies, "" when both are there."""
    left = sum(int(np.count_nonzero(part & (_over(left_mm, n) > 0))) for n, part in enumerate(mask))
    share = left / max(int(np.count_nonzero(mask)), 1)
    return "" if 0.05 <= share <= 0.95 or not mask.any() else "left" if share > 0.5 else "right"
