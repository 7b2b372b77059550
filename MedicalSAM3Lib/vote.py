"""Views along several axes vote: each is consistent within its own slices only, together they hold a volume.

Shapes: P concepts, n h w slices, rows and columns of the region of the first view, whose grid is that of the vote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.evidence import Evidence, Patch, box_of
from MedicalSAM3Lib.overlap import iou
from MedicalSAM3Lib.structures import OnProgress, Progress

if TYPE_CHECKING:
    from MedicalSAM3Lib.detector import Detections
    from MedicalSAM3Lib.views import View

STAGE = "vote"

_LEAST = np.finfo(np.float16).smallest_subnormal
"""Confidence of a voxel that was voted in, at least: rounding must not take it out again."""


@dataclass(frozen=True, slots=True)
class VotedEvidence:
    """What the views say together, as ``Evidence``.

    Attributes:
        shape: Slices, rows and columns of the region.
        patches: Concept to its confidence, float16 in three dimensions; without those that no voxel was voted to.
    """

    shape: tuple[int, int, int]
    patches: Mapping[int, Patch]

    def claim(self, concept: int, n: int) -> Patch | None:
        """As ``Evidence``."""
        patch = self.patches.get(concept)
        if patch is None or not patch.box[0].start <= n < patch.box[0].stop:
            return None
        return Patch(patch.box[1:], patch.values[n - patch.box[0].start].astype(np.float32))


def median_presence(views: Sequence[View]) -> np.ndarray:
    """Presence ``(P,)`` in the volume: of three views two must agree, as for a voxel; NaN where any does not know."""
    return np.median([view.presence for view in views], axis=0)


def vote(views: Sequence[View], concepts: Sequence[int], on_progress: OnProgress) -> tuple[VotedEvidence, Detections]:
    """Let the views vote on every voxel.

    Args:
        views: At least one; the first is the one whose slices the user knows.
        concepts: Those that are in the volume; the others need no vote.
        on_progress: Called before each slice; ``done`` counts slices of all views and concepts. May raise
            ``Cancelled``.

    Returns:
        The evidence on the first view's region, and the first view's detections as the findings need them: where a
        slice's own mask is not what was voted, that counts as disagreement there, and a concept that no
        voxel was voted to has no map.
    """
    first, slices = views[0], sum(len(view.stack) for view in views)
    done, total = 0, len(concepts) * slices

    def on_slice() -> None:
        nonlocal done
        on_progress(Progress(STAGE, done, total))
        done += 1

    patches: dict[int, Patch] = {}
    voted = VotedEvidence(first.stack.region_shape, patches)
    agreement = first.detections.agreement.copy()
    for concept in concepts:
        patch = _poll(views, concept, on_slice)
        if patch is not None:
            patches[concept] = patch
        agreement[concept] = np.fmin(agreement[concept], _agreement(first.evidence, voted, concept))
    on_progress(Progress(STAGE, total, total))
    silent = set(concepts) - set(patches)
    maps = {key: one for key, one in first.detections.maps.items() if key[0] not in silent}
    return voted, replace(first.detections, agreement=agreement, maps=maps)


def _poll(views: Sequence[View], concept: int, on_slice: Callable[[], None]) -> Patch | None:
    """Count the votes for one concept: its confidence where it has the voxel, None where it has none.

    A voxel is the concept's where half or more of the views say so: two of three. One view alone may be wrong
    across its slices, where it looks at each by itself, and so neither adds a voxel nor takes one away;
    asking all three would lose every part that is hard to see along one axis. The confidence is the mean over all
    views, with 0 where a view says no, so that a voxel two views agree on is less sure than one all three see.
    """
    stack = views[0].stack
    total_kji = np.zeros(stack.input_shape, np.float32)
    votes_kji = np.zeros(stack.input_shape, np.uint8)
    for view in views:
        total, votes, evidence = view.stack.from_input(total_kji), view.stack.from_input(votes_kji), view.evidence
        for n in range(len(view.stack)):
            on_slice()
            seen = evidence.claim(concept, n)
            if seen is not None:
                total[n][seen.box] += seen.values
                votes[n][seen.box] += seen.values > 0
    has_it = 2 * stack.from_input(votes_kji) >= len(views)
    box = box_of(has_it)
    if box is None:
        return None
    mean = (stack.from_input(total_kji)[box] / np.float32(len(views))).astype(np.float16)
    return Patch(box, np.where(has_it[box], np.maximum(mean, _LEAST), np.float16(0.0)))


def _agreement(one: Evidence, other: Evidence, concept: int) -> np.ndarray:
    """IoU ``(n,)`` of a concept's masks on each slice; NaN where neither has one."""
    agreed = np.full(one.shape[0], np.nan)
    for n in range(one.shape[0]):
        masks = [_mask(evidence, concept, n) for evidence in (one, other)]
        if any(mask.any() for mask in masks):
            agreed[n] = iou(*masks)
    return agreed


def _mask(evidence: Evidence, concept: int, n: int) -> np.ndarray:
    claim = evidence.claim(concept, n)
    return np.zeros(evidence.shape[1:], bool) if claim is None else claim.whole(evidence.shape[1:]) > 0
