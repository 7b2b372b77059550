"""The tracker's steps bound to the features of one volume: what ``tracker.track`` asks.

The trunk has run; a slice costs the tracker's neck, a fifteenth of it, and that once for all objects that are on
the slice at the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.features import TrunkFeatures
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.tracker_steps import (
    Answer,
    Recalled,
    SliceImage,
    follow,
    limits_of,
    look,
    memorise,
    take_mask,
)

SLICES_KEPT = 24
"""Of each concept two fronts of walks pass a slice each, at places of their own: a dozen concepts at once. At full size
a slice takes 13 MB in a half format."""


class BoundTracker:
    """A network and the features of one volume.

    Args:
        net: With a tracker.
        features: Trunk tokens of all slices of the stack.
        runtime: Device and number format.
    """

    def __init__(self, net: MedicalSam3, features: TrunkFeatures, runtime: Runtime) -> None:
        self._net, self._features, self._runtime = net, features, runtime
        self._kept: OrderedDict[int, SliceImage] = OrderedDict()
        self.limits = limits_of(net)

    def look(self, slices: Sequence[int]) -> SliceImage:
        """A row for each slice; each different slice goes through the neck once while it is kept."""
        needed = dict.fromkeys(slices)
        missing = [n for n in needed if n not in self._kept]
        if missing:
            with self._runtime.computing():
                images = self._features.each("tracking", missing, self._look)
            self._kept.update(zip(missing, images, strict=True))
        rows = [self._kept[n] for n in needed]
        for n in needed:
            self._kept.move_to_end(n)
        while len(self._kept) > max(SLICES_KEPT, len(needed)):
            self._kept.popitem(last=False)
        stacked = SliceImage(
            torch.cat([one.fine for one in rows]),
            torch.cat([one.middle for one in rows]),
            torch.cat([one.coarse for one in rows]),
            torch.cat([one.position for one in rows]),
        )
        number = {n: row for row, n in enumerate(needed)}
        return stacked.take(torch.tensor([number[n] for n in slices], device=stacked.coarse.device))

    def _look(self, slices: Sequence[int]) -> list[SliceImage]:
        images = look(self._net, self._features.take(slices))
        return [images.take(torch.tensor([row], device=images.coarse.device)) for row in range(len(slices))]

    def take_mask(self, image: SliceImage, logits_bss: Tensor) -> Answer:
        """Start from the sign of the detector's logits ``(B, s, s)``, drawn at the size of the input."""
        size = (self._net.image_size, self._net.image_size)
        with self._runtime.computing():
            logits = logits_bss.to(image.coarse.device).float()[:, None]
            masks = functional.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0
            return take_mask(self._net, image, masks.float())

    def follow(self, image: SliceImage, recalled: Recalled) -> Answer:
        """Find the objects by what is remembered."""
        with self._runtime.computing():
            return follow(self._net, image, recalled)

    def memorise(self, image: SliceImage, answer: Answer) -> Tensor:
        """Memories ``(B, L, M)``."""
        with self._runtime.computing():
            return memorise(self._net, image, answer)
