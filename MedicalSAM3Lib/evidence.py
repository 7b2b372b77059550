"""Evidence: how sure a run is of a concept at every pixel of a slice, whatever stands behind it.

What follows (``fusion``) asks slice by slice, so that the confidences of a volume never exist at once.

Shapes: n h w slices, rows and columns of the region, s side of the model's masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from torch import Tensor

    from MedicalSAM3Lib.fusion import SliceMap

Box = tuple[slice, ...]


class Evidence(Protocol):
    """What speaks for the concepts in a region."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the region."""

    def confidence(self, concept: int, n: int) -> np.ndarray | None:
        """Confidence of a slice's pixels, 0 outside the mask: float32 ``(h, w)``; None where there is no mask."""


@dataclass(frozen=True, slots=True)
class StackEvidence:
    """What was seen along one axis.

    Attributes:
        maps: (concept, slice) to its map.
        shape: Slices, rows and columns of the region.
        restore: Reads maps ``(m, s, s)`` on the region's pixels ``(m, h, w)``.
    """

    maps: Mapping[tuple[int, int], SliceMap]
    shape: tuple[int, int, int]
    restore: Callable[[Tensor], np.ndarray]

    def confidence(self, concept: int, n: int) -> np.ndarray | None:
        """As ``Evidence``."""
        one = self.maps.get((concept, n))
        if one is None:
            return None
        logits = self.restore(one.logits[None])[0]
        confidence = np.float32(one.weight) / (1.0 + np.exp(-logits))
        return np.where(logits > 0, confidence, np.float32(0.0))


@dataclass(frozen=True, slots=True)
class Patch:
    """An array that is 0 outside a box: the box, and the values in it."""

    box: Box
    values: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray) -> Patch | None:
        """Crop to the smallest box that holds all values above 0, without a copy; None where there are none."""
        box = box_of(array > 0)
        return None if box is None else cls(box, array[box])

    def within(self, box: Box) -> Box:
        """The same box, counted from the patch's own corner."""
        return tuple(
            slice(part.start - own.start, part.stop - own.start) for part, own in zip(box, self.box, strict=True)
        )


def box_of(mask: np.ndarray) -> Box | None:
    """The smallest box that holds all of a boolean mask; None for an empty one."""
    found = ndimage.find_objects(mask.view(np.uint8))
    return found[0] if found else None


def common_box(one: Box, other: Box) -> Box | None:
    """Where two boxes meet; None where they do not."""
    box = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return box if all(part.start < part.stop for part in box) else None
