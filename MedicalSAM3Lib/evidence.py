"""Evidence: how sure a run is of a concept at every pixel of a slice, whatever stands behind it.

What follows (``fusion``) asks slice by slice, so that the confidences of a volume never exist at once.

Shapes: n h w slices, rows and columns of the region, s side of the model's masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

if TYPE_CHECKING:
    from MedicalSAM3Lib.fusion import SliceMap

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Patch:
    """An array that is 0 outside a box: the box, and the values in it."""

    box: Box
    values: np.ndarray

    def whole(self, shape: tuple[int, ...]) -> np.ndarray:
        """The array of that shape."""
        array = np.zeros(shape, self.values.dtype)
        array[self.box] = self.values
        return array

    def within(self, box: Box) -> Box:
        """The same box, counted from the patch's own corner."""
        return tuple(
            slice(part.start - own.start, part.stop - own.start) for part, own in zip(box, self.box, strict=True)
        )


class Evidence(Protocol):
    """What speaks for the concepts in a region."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the region."""

    def claim(self, concept: int, n: int) -> Patch | None:
        """Confidence of a slice's pixels, 0 outside the mask: float32 in a box of ``(h, w)``; None where there is no
        mask."""


@dataclass(frozen=True, slots=True)
class StackEvidence:
    """What was seen along one axis.

    Attributes:
        maps: (concept, slice) to its map.
        shape: Slices, rows and columns of the region.
        read: Reads a map ``(s, s)`` on the region's pixels, where it can be above 0; None where it is not.
    """

    maps: Mapping[tuple[int, int], SliceMap]
    shape: tuple[int, int, int]
    read: Callable[[Tensor], Patch | None]

    def claim(self, concept: int, n: int) -> Patch | None:
        """As ``Evidence``."""
        one = self.maps.get((concept, n))
        seen = None if one is None else self.read(one.logits)
        if one is None or seen is None:
            return None
        # Not NumPy: a picture has a million pixels, and PyTorch takes all cores.
        logits = torch.from_numpy(seen.values)
        confidence = torch.where(logits > 0, logits.sigmoid().mul_(one.weight), 0.0)
        return Patch(seen.box, confidence.numpy())


def box_of(mask: np.ndarray) -> Box | None:
    """The smallest box that holds all of a boolean mask; None for an empty one."""
    found = ndimage.find_objects(mask.view(np.uint8))
    return found[0] if found else None


def common_box(one: Box, other: Box) -> Box | None:
    """Where two boxes meet; None where they do not."""
    box = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return box if all(part.start < part.stop for part in box) else None
