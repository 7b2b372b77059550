"""On each slice of a walk: follow the tracker, start again from the detector, or end.

The tracker knows the object, the detector knows the slice. Both are asked, always:

    tracker   detector                                  verdict
    here      agrees, or is unsure                      follow
    here      nothing there, and that too often         end
    here      is sure of another outline                reseed: the detector's mask, and memory starts from it
    here      agrees and is sure, the last seed is far  reseed, as SAM3 does on every 16th frame
    gone      is sure that it is here                   reseed
    gone      is unsure                                 wait: no mask, but go on
    gone      nothing there                             end

Too often: on more slices than it recognised the object on, and ``PATIENCE`` more. A tracker believes what it remembers,
and one that is wrong would walk to the end of the volume; what the detector has confirmed for long is carried over
as long a gap.

Masks are bool ``(s, s)`` at the mask's own resolution, k objects of the detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from MedicalSAM3Lib.objects import SliceObjects, iou

SAME_IOU = 0.1
"""From this overlap on, detection and track mean the same object (SAM3's association)."""

AGREE_IOU = 0.5
"""Below this overlap they draw another outline (SAM3 calls such a track unmatched)."""

SURE = 0.8
"""Score from which the detector may overrule the tracker (SAM3's reconditioning)."""

REFRESH_SLICES = 16
"""A sure detection this far from the last seed becomes one (SAM3's reconditioning)."""

MOST_GROWTH = 2.0
"""A detection that is larger or smaller by more than this factor is another thing: two objects that touch and are
seen as one, or a part. It does not overrule the tracker."""

PATIENCE = 16
"""Slices that a walk goes on without the detector beyond those on which it had it: as far as the tracker remembers."""

EXPLAINED = 0.5
"""Fraction of a detection that lies in a track's mask, from which on it needs no track of its own."""


Action = Literal["follow", "reseed", "wait", "end"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do; ``object`` is the detection that a reseed takes, -1 otherwise; ``is_recognised`` where the detector
    shows the object too."""

    action: Action
    object: int = -1
    is_recognised: bool = True


def decide(
    mask: Tensor, last: Tensor, is_here: bool, found: SliceObjects | None, since_seed: int, credit: int = 0
) -> Verdict:
    """Choose for one walk on one slice.

    Args:
        mask: What the tracker says.
        last: Where the object was last seen: what a detection is compared with when the tracker lost it.
        is_here: Whether the tracker thinks that the object is on the slice.
        found: What the detector found of the concept on this slice; None for nothing.
        since_seed: Slices to the nearest seed.
        credit: Slices of this walk on which the detector recognised the object, less those on which it did not.
    """
    is_here = is_here and bool(mask.any())
    reference = mask if is_here else last
    best, overlap = _best(reference, found)
    if found is None or overlap < SAME_IOU:
        goes_on = is_here and credit > -PATIENCE
        return Verdict("follow" if goes_on else "end", is_recognised=False)
    sure = float(found.scores[best]) >= SURE and _alike(reference, found.logits[best] > 0)
    if sure and (not is_here or overlap < AGREE_IOU or since_seed >= REFRESH_SLICES):
        return Verdict("reseed", best)
    return Verdict("follow") if is_here else Verdict("wait")


def explained(logits_kss: Tensor, tracked: list[Tensor]) -> Tensor:
    """Which detections ``(k,)`` a track's mask accounts for: logits ``(k, s, s)`` and of each track ``(s, s)``."""
    done = torch.zeros(len(logits_kss), dtype=torch.bool)
    masks = logits_kss > 0
    size = masks.flatten(1).sum(1).clamp(min=1)
    for one in tracked:
        inside = ((one > 0) & masks).flatten(1).sum(1)
        done |= (iou(one > 0, masks) >= AGREE_IOU) | (inside / size >= EXPLAINED)
    return done


def _best(mask: Tensor, found: SliceObjects | None) -> tuple[int, float]:
    if found is None or len(found.scores) == 0:
        return -1, 0.0
    overlaps = iou(mask, found.logits > 0)
    best = int(overlaps.argmax())
    return best, float(overlaps[best])


def _alike(one: Tensor, other: Tensor) -> bool:
    small, large = sorted((int(one.sum()), int(other.sum())))
    return large <= MOST_GROWTH * max(small, 1)
