"""Detector and tracker on one slice become one map. Two answers to one question, each with its confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.fusion import SliceMap, iou
from MedicalSAM3Lib.presence import Mode
from MedicalSAM3Lib.walks import Track, TrackedMask, masks_by_slice

MOST_LOGIT = 8.0
"""Logits are cut here before they are averaged: one network's excess must not silence the other."""

ABSENT_LOGIT = -4.0
"""What a detector that sees nothing says of every voxel."""


def with_tracks(detections: Detections, tracks: Sequence[Track], mode: Mode) -> Detections:
    """The same findings with merged maps, and with the agreement of detector and tracker in place of the
    detector's own; without objects, which are in the maps by now."""
    tracked = masks_by_slice(tracks)
    agreed = detections.agreement.copy()
    for key in {*detections.maps, *tracked}:
        agreed[key] = agreement(detections.maps.get(key), tracked.get(key, ()))
    maps = merge(detections.maps, detections.presence, tracks, mode)
    return replace(detections, maps=maps, objects={}, agreement=agreed)


def merge(
    detected: Mapping[tuple[int, int], SliceMap], presence: np.ndarray, tracks: Sequence[Track], mode: Mode
) -> dict[tuple[int, int], SliceMap]:
    """Merge all maps of a volume.

    Args:
        detected: (concept, slice) to the detector's map, where its gate was open.
        presence: Calibrated presence ``(P, N)``.
        tracks: All objects.
        mode: "detect" and "track" take one side alone, "fuse" both by ``merge_slice``.
    """
    if mode == "detect":
        return dict(detected)
    tracked = masks_by_slice(tracks)
    if mode == "track":
        return {key: _of_tracks(masks) for key, masks in tracked.items()}
    keys = sorted(set(detected) | set(tracked))
    return {key: merge_slice(detected.get(key), float(presence[key]), tracked.get(key, ())) for key in keys}


def merge_slice(detected: SliceMap | None, presence: float, tracked: Sequence[TrackedMask]) -> SliceMap:
    """Average the logits of both, weighted by how sure each is.

    Where the detector's gate opened it has the weight p, its presence, and the tracker c (1 - p): the confidence c of
    its best object, as far as the detector leaves room for doubt. Where the gate stayed closed the detector says "not
    here" of every voxel (logit -4) with weight 1 - p, and the tracker has c. The tracker's logit is the highest of its
    objects; where it has no object it says nothing.

    Why: what was carried to a slice has passed through others, and what is seen on it has not: a sure detector
    is right more often. So the tracker fills gaps and helps where the detector wavers. The detector's "no" must count,
    or a track that runs on beyond the organ would never end; the tracker's silence must not, because a part that the
    detector alone found may have been too unsure to start a track.

    Measured with the bundled model on runs of validation slices (28 concepts, mean Dice; detect alone 0.6992, track
    alone 0.6736): this rule 0.6996; equal say, c in place of c (1 - p), 0.6965; half of that 0.6978, a quarter 0.6991.
    """
    if not tracked:
        if detected is None:
            raise ValueError("expected a detection, tracked masks or both, got neither")
        return detected
    followed = _of_tracks(tracked)
    if detected is None:
        ours, weight, say = torch.full_like(followed.logits, ABSENT_LOGIT), 1.0 - presence, followed.weight
    else:
        ours, weight, say = detected.logits, presence, followed.weight * (1.0 - presence)
    total = weight + say
    if total == 0.0:
        return followed
    logits = (weight * _cut(ours) + say * _cut(followed.logits)) / total
    sure = max(followed.weight, 0.0 if detected is None else detected.weight)
    return SliceMap(logits.half(), sure)


def agreement(detected: SliceMap | None, tracked: Sequence[TrackedMask]) -> float:
    """IoU of what both show on a slice; NaN where neither shows anything. Where it is low, a person should look."""
    one = None if detected is None else detected.logits > 0
    other = _of_tracks(tracked).logits > 0 if tracked else None
    if one is None or other is None:
        shown = other if one is None else one
        return 0.0 if shown is not None and bool(shown.any()) else float("nan")
    return iou(one, other)


def _of_tracks(masks: Sequence[TrackedMask]) -> SliceMap:
    """All objects of a concept together."""
    return SliceMap(torch.stack([mask.logits for mask in masks]).amax(0), max(mask.confidence for mask in masks))


def _cut(logits: Tensor) -> Tensor:
    return logits.float().clamp(-MOST_LOGIT, MOST_LOGIT)
