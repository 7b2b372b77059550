"""Speed "fast": where slices are thin, only every k-th is looked at, and those between are interpolated.

The seam is in ``views``: features, detector and tracker get a stack of the key slices and know of no others. What
they answer is put on all slices here, after tracking and before fusion. So concepts compete for the voxels of every
slice, the presence of a volume counts all of them, and only tracks stay on the slices that were looked at.

Shapes: P concepts, N slices, K key slices, s side of a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.fusion import SliceMap
from MedicalSAM3Lib.merge import MOST_LOGIT
from MedicalSAM3Lib.stack import SliceStack
from MedicalSAM3Lib.tracker import Track

MOST_MM = 3.0
"""Most distance between slices that are looked at; a usual thickness of clinical CT, on which readers rely."""

ABSENT_LOGIT = -MOST_LOGIT
"""What a key slice without a map says of every voxel: as sure as the surest map, so that an object ends half way."""


def key_slices(stack: SliceStack, settings: SegmentSettings) -> np.ndarray:
    """Numbers ``(K,)`` of the slices to look at, ascending, the first and the last always among them.

    All of them, unless the speed is "fast" and at least two steps between slices fit into ``MOST_MM``.
    """
    step = 1
    if settings.speed == "fast":
        step = max(1, int(MOST_MM / stack.slice_mm + 1e-6))  # 3 mm of 0.6 are five steps, however that rounds
    return np.unique(np.append(np.arange(0, len(stack), step), len(stack) - 1))


def presence_between(presence: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Presence ``(P, N)`` of all slices from that of the key slices ``(P, K)``: linear between two of them.

    A slice between two, of which one is not a number, has none.
    """
    whole = np.stack([np.interp(np.arange(keys[-1] + 1), keys, row) for row in presence])
    whole[:, keys] = presence
    return whole


def on_all_slices(detections: Detections, keys: np.ndarray) -> Detections:
    """Put what key slices show on all slices.

    Between two key slices logits (cut at 8, so that both ends count the same) and weights are interpolated linearly.
    Where one of the two has no map, it counts as logit -8, and its presence as weight; where neither has, there is
    no map. ``agreement`` stays unknown between them: nobody has looked.

    Args:
        detections: Of K slices.
        keys: Their numbers among all N; those of all slices change nothing.
    """
    n_slices = int(keys[-1]) + 1
    if len(keys) == n_slices:
        return detections
    agreement = np.full((len(detections.agreement), n_slices), np.nan)
    agreement[:, keys] = detections.agreement
    maps = {(concept, int(keys[n])): one for (concept, n), one in detections.maps.items()}
    for concept in {concept for concept, _ in detections.maps}:
        maps.update(_maps_between(detections, concept, keys))
    return replace(
        detections,
        presence=presence_between(detections.presence, keys),
        agreement=agreement,
        maps=maps,
        objects={(concept, int(keys[n])): one for (concept, n), one in detections.objects.items()},
        skipped=frozenset(range(n_slices)) - frozenset(keys.tolist()),
    )


def tracks_on_all_slices(tracks: Iterable[Track], keys: np.ndarray) -> list[Track]:
    """The same objects, with the numbers that their slices have among all slices."""
    return [Track(one.concept, {int(keys[n]): mask for n, mask in one.masks.items()}) for one in tracks]


def _maps_between(detections: Detections, concept: int, keys: np.ndarray) -> Iterator[tuple[tuple[int, int], SliceMap]]:
    """(concept, slice) and map of the slices between key slices."""
    for number in range(len(keys) - 1):
        below, above = (detections.maps.get((concept, n)) for n in (number, number + 1))
        if below is None and above is None:
            continue
        first, last = int(keys[number]), int(keys[number + 1])
        low, high = (_cut(one) for one in (below, above))
        weights = [
            float(np.nan_to_num(detections.presence[concept, n])) if one is None else one.weight
            for n, one in ((number, below), (number + 1, above))
        ]
        for n in range(first + 1, last):
            way = (n - first) / (last - first)
            logits = torch.as_tensor((1 - way) * low + way * high)
            yield (concept, n), SliceMap(logits.half(), (1 - way) * weights[0] + way * weights[1])


def _cut(one: SliceMap | None) -> Tensor | float:
    """Logits of a key slice; a number for all voxels where it has no map."""
    return ABSENT_LOGIT if one is None else one.logits.float().clamp(-MOST_LOGIT, MOST_LOGIT)
