"""From masks to labels: the two named rules of a slice, and the competition of concepts for voxels.

A pair (concept, slice) ends as a ``SliceMap``: logits, whose sign says whether a voxel belongs to the
mask, and a weight. The confidence of a voxel is ``sigmoid(logit) * weight``.

Shapes: Q queries, s side of the model's masks, n h w slices, rows and columns of the region.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

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
    """IoU of the confident instances together and the semantic map; NaN without a confident instance.

    They are two answers of one network to one question; where they differ, a person should look.
    """
    confident = instances[scores > CONFIDENT]
    if len(confident) == 0:
        return float("nan")
    one, other = confident.amax(0) > 0, semantic > 0
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def label_exclusively(
    maps: Mapping[tuple[int, int], SliceMap],
    concepts: Sequence[int],
    shape: tuple[int, int, int],
    restore: Callable[[Tensor], np.ndarray],
    on_slice: Callable[[int], None],
    with_map: bool = False,
) -> Labels:
    """Give every voxel to its most confident concept (the paper's rule for several classes).

    Only a slice of confidences is held at a time, whatever the number of concepts.

    Args:
        maps: (concept, slice) to its map.
        concepts: Those that count. Of equal confidences the first in this order wins.
        shape: Slices, rows and columns of the region.
        restore: Maps ``(m, s, s)`` to the region's pixels ``(m, h, w)``.
        on_slice: Called before each slice with its number; may raise ``Cancelled``.
        with_map: Keep the confidence of every voxel.
    """
    layer = np.zeros(shape, np.uint16)
    confidence_map = np.zeros(shape, np.float16) if with_map else None
    voxels, total = np.zeros(max(concepts, default=0) + 2, np.int64), np.zeros(max(concepts, default=0) + 2)
    for n in range(shape[0]):
        on_slice(n)
        best = np.zeros(shape[1:], np.float32)
        for concept in concepts:
            if (concept, n) in maps:
                confidence = confidence_of(maps[concept, n], restore)
                wins = confidence > best
                best[wins] = confidence[wins]
                layer[n][wins] = concept + 1
        if confidence_map is not None:
            confidence_map[n] = best
        voxels += np.bincount(layer[n].ravel(), minlength=len(voxels))
        total += np.bincount(layer[n].ravel(), best.ravel(), minlength=len(total))
    counts = {concept: int(voxels[concept + 1]) for concept in concepts}
    means = {concept: float(total[concept + 1]) / max(count, 1) for concept, count in counts.items()}
    return Labels([layer], dict.fromkeys(concepts, 0), counts, means, confidence_map)


def label_with_overlap(
    maps: Mapping[tuple[int, int], SliceMap],
    concepts: Sequence[int],
    shape: tuple[int, int, int],
    restore: Callable[[Tensor], np.ndarray],
    on_slice: Callable[[int], None],
    with_map: bool = False,
) -> Labels:
    """Keep every mask whole: each goes into the first layer where it overlaps with no other.

    Arguments as for ``label_exclusively``.
    """
    labels = Labels([np.zeros(shape, np.uint16)], {}, {}, {}, np.zeros(shape, np.float16) if with_map else None)
    for concept in concepts:
        mask, total = np.zeros(shape, bool), 0.0
        for n in range(shape[0]):
            on_slice(n)
            if (concept, n) in maps:
                confidence = confidence_of(maps[concept, n], restore)
                mask[n] = confidence > 0
                if labels.confidence_map is not None:
                    labels.confidence_map[n] = np.maximum(labels.confidence_map[n], confidence)
                total += float(confidence.sum(dtype=np.float64))
        _add_to_first_free_layer(labels, concept, mask)
        labels.voxels[concept] = int(mask.sum())
        labels.confidence[concept] = total / max(labels.voxels[concept], 1)
    return labels


def confidence_of(slice_map: SliceMap, restore: Callable[[Tensor], np.ndarray]) -> np.ndarray:
    """Confidence of the region's pixels, 0 outside the mask: float32 ``(h, w)``."""
    logits = restore(slice_map.logits[None])[0]
    confidence = np.float32(slice_map.weight) / (1.0 + np.exp(-logits))
    return np.where(logits > 0, confidence, np.float32(0.0))


def _add_to_first_free_layer(labels: Labels, concept: int, mask: np.ndarray) -> None:
    free = (number for number, layer in enumerate(labels.layers) if not layer[mask].any())
    number = next(free, len(labels.layers))
    if number == len(labels.layers):
        labels.layers.append(np.zeros(mask.shape, np.uint16))
    labels.layers[number][mask] = concept + 1
    labels.layer_of[concept] = number
