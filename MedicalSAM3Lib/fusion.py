"""From masks to labels: the two named rules of a slice, and the competition of concepts for voxels.

A pair (concept, slice) ends as a ``SliceMap``: logits, whose sign says whether a voxel belongs to the
mask, and a weight. The confidence of a voxel is ``sigmoid(logit) * weight`` (``evidence``).

Shapes: Q queries, s side of the model's masks, n h w slices, rows and columns of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.evidence import Evidence, Patch, common_box
from MedicalSAM3Lib.layers import Where, add_to_first_free

Rule = Literal["union", "top1"]

CONFIDENT = 0.5
"""Score (query probability times presence) above which an instance counts; SAM3's own threshold."""

_MOST_LOGIT = 30.0


@dataclass(frozen=True, slots=True)
class SliceMap:
    """One concept on one slice: ``logits`` float16 ``(s, s)`` in main memory, ``weight`` 0..1."""

    logits: Tensor
    weight: float


@dataclass(frozen=True, slots=True)
class Labels:
    """Concepts on the voxels of the region.

    Attributes:
        layers: uint16 ``(n, h, w)``; concept p has label p + 1, in one of the layers.
        layer_of: Concept to the layer that holds it.
        voxels: Concept to the number of its voxels, 0 for one that lost them all.
        confidence: Concept to the mean confidence of its voxels, 0 where it has none.
        confidence_map: float16 ``(n, h, w)``, the highest confidence at each voxel, 0 outside all masks; None
            unless it was asked for.
    """

    layers: list[np.ndarray]
    layer_of: dict[int, int]
    voxels: dict[int, int]
    confidence: dict[int, float]
    confidence_map: np.ndarray | None = None


def fuse_slice(instances: Tensor, scores: Tensor, semantic: Tensor, presence: float, rule: Rule) -> SliceMap:
    """Make one map of the detector's answer to a pair.

    Args:
        instances: Mask logits of the queries ``(Q, s, s)``.
        scores: Query probability times presence ``(Q,)``.
        semantic: Logits of the semantic map ``(s, s)``.
        presence: Calibrated probability that the concept is on the slice.
        rule: "union" or "top1".
    """
    if rule == "top1":
        logits, weight = top1(instances, scores)
    else:
        logits, weight = union(instances, scores, semantic), presence
    return SliceMap(logits.clamp(-_MOST_LOGIT, _MOST_LOGIT).half().cpu(), weight)


def queries_that_count(scores: Tensor) -> Tensor:
    """Numbers of the queries that one of the rules reads: of scores ``(Q,)`` the confident ones and the best.

    No mask need be drawn of the others.
    """
    count = scores > CONFIDENT
    count[scores.argmax()] = True
    return torch.nonzero(count)[:, 0]


def top1(instances: Tensor, scores: Tensor) -> tuple[Tensor, float]:
    """Take the mask of the query with the highest score; the score is its weight.

    The paper's rule ("we select the highest-confidence mask generated from the text prompt"), kept so
    that its numbers can be reproduced. It shows one object: of two kidneys, or of many lesions, the others are lost.
    """
    best = int(scores.argmax())
    return instances[best], float(scores[best])


def union(instances: Tensor, scores: Tensor, semantic: Tensor) -> Tensor:
    """Take, at every pixel, the highest logit of the semantic map and of all instances with a score above 0.5.

    The default. A medical concept is mostly a class, not one object: every part of it counts, so instances
    add up. The semantic map is trained on the whole class and holds where queries are unsure; instances hold where
    it misses a small object. Neither says anything unless presence has opened the slice.
    """
    confident = instances[scores > CONFIDENT]
    return torch.cat([semantic[None], confident]).amax(0)


def agreement(instances: Tensor, scores: Tensor, semantic: Tensor) -> float:
    """IoU of the confident instances together and the semantic map; NaN without a confident instance, or a voxel.

    They are two answers of one network to one question; where they differ, a person should look.
    """
    confident = instances[scores > CONFIDENT]
    if len(confident) == 0:
        return float("nan")
    return iou(confident.amax(0) > 0, semantic > 0)


def iou(one: Tensor, other: Tensor) -> float:
    """Voxels of both masks over voxels of either; NaN where both are empty."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else float("nan")


def label(
    evidence: Evidence,
    concepts: Sequence[int],
    may_share: Callable[[int, int], bool],
    on_slice: Callable[[int], None],
    with_map: bool = False,
) -> Labels:
    """Give every voxel to the concepts that hold it against their rivals.

    Two concepts that may not share a voxel are rivals. A concept holds a voxel that it claims (confidence above 0)
    unless a rival that claims it too is more confident. So where none may share, each voxel goes to its most
    confident concept (the paper's rule for several classes); where all may, every mask stays whole.

    Only a slice of confidences is held at a time.

    Args:
        evidence: Of the region.
        concepts: Those that count. Of equal confidences the first in this order wins.
        may_share: Whether two concepts, the earlier first, may both hold a voxel.
        on_slice: Called before each slice with its number; may raise ``Cancelled``.
        with_map: Keep the confidence of every voxel.
    """
    rivals = {pair for pair in combinations(concepts, 2) if not may_share(*pair)}
    layers = [np.zeros(evidence.shape, np.uint16)]
    confidence_map = np.zeros(evidence.shape, np.float16) if with_map else None
    voxels, total = dict.fromkeys(concepts, 0), dict.fromkeys(concepts, 0.0)
    for n in range(evidence.shape[0]):
        on_slice(n)
        claims = {concept: evidence.claim(concept, n) for concept in concepts}
        held_by = _hold({key: claim for key, claim in claims.items() if claim}, rivals, evidence.shape[1:])
        for concept, held in held_by:
            mask = held.values > 0
            where: Where = (n, *held.box)
            add_to_first_free(layers, where, mask, concept + 1)
            voxels[concept] += int(np.count_nonzero(mask))
            total[concept] += float(held.values.sum(dtype=np.float64))
            if confidence_map is not None:
                confidence_map[where] = np.maximum(confidence_map[where], held.values)
    means = {concept: total[concept] / max(count, 1) for concept, count in voxels.items()}
    return Labels(*_each_in_one_layer(layers, concepts), voxels, means, confidence_map)


def _hold(
    claims: dict[int, Patch], rivals: set[tuple[int, int]], shape_hw: tuple[int, int]
) -> Iterator[tuple[int, Patch]]:
    """What is left of the claims to a slice: 0 where a rival is surer, or as sure and earlier.

    Claims are compared as they were made: one that loses to a second still beats a third.
    """
    owner = _surest(claims, shape_hw) if rivals else None
    for concept, claim in claims.items():
        others = {other: each for other, each in claims.items() if other != concept}
        against = {other for other in others if (concept, other) in rivals or (other, concept) in rivals}
        if owner is not None and len(against) == len(others):
            lost = owner[claim.box] != concept
        else:
            lost = np.zeros(claim.values.shape, bool)
            for other in against:
                _lose(lost, claim, others[other], is_earlier=(concept, other) in rivals)
        yield concept, Patch(claim.box, np.where(lost, np.float32(0.0), claim.values))


def _surest(claims: dict[int, Patch], shape_hw: tuple[int, int]) -> np.ndarray:
    """The concept ``(h, w)`` with the highest claim to each pixel, of equal ones the first; -1 where there is none.

    One pass for all: who has no friends holds what is the highest, whoever the others are.
    """
    best, owner = np.zeros(shape_hw, np.float32), np.full(shape_hw, -1, np.int32)
    for concept, claim in claims.items():
        before = best[claim.box]
        is_surer = claim.values > before
        np.copyto(before, claim.values, where=is_surer)
        np.copyto(owner[claim.box], concept, where=is_surer)
    return owner


def _lose(lost: np.ndarray, claim: Patch, rival: Patch, is_earlier: bool) -> None:
    """Mark, in place, where a rival is surer than a claim, or as sure and earlier."""
    common = common_box(claim.box, rival.box)
    if common is None:
        return
    ours, theirs = claim.values[claim.within(common)], rival.values[rival.within(common)]
    lost[claim.within(common)] |= theirs > ours if is_earlier else theirs >= ours


def _each_in_one_layer(layers: list[np.ndarray], concepts: Sequence[int]) -> tuple[list[np.ndarray], dict[int, int]]:
    """Gather each concept, which lies in other layers on other slices, in the first layer where it meets no other."""
    if len(layers) == 1:
        return layers, dict.fromkeys(concepts, 0)
    gathered, layer_of = [np.zeros_like(layers[0])], {}
    for concept in concepts:
        mask = np.zeros(layers[0].shape, bool)
        for layer in layers:
            mask |= layer == concept + 1
        layer_of[concept] = add_to_first_free(gathered, (), mask, concept + 1)
    return gathered, layer_of
