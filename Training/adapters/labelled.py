"""What an adapter yields: one image and what is known about each concept in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class LabelledVolume:
    """An image with its masks, before it becomes rows of a manifest.

    Attributes:
        volume_id: Unique in the manifest; a file name, so without spaces.
        image: The image as published.
        masks_kji: Concept id to bool ``(K, J, I)`` on the image's grid.
        known_slices: Slices ``(first, last)``, inclusive, on which the masks are complete.
        absent: Concept ids that are verified to be nowhere in this volume.
        splits: Split of each slice; "" leaves a slice out (margins between splits).
    """

    dataset: str
    volume_id: str
    patient: str
    modality: str
    licence: str
    image: sitk.Image
    masks_kji: dict[str, np.ndarray]
    known_slices: tuple[int, int]
    splits: tuple[str, ...]
    absent: tuple[str, ...] = field(default=())


def held_out_slabs(count: int, period: int, slab: int, margin: int = 1) -> tuple[str, ...]:
    """Split the slices of one volume: thin slabs for validation and test in turn, margins left out.

    Neighbouring slices are nearly the same picture, so single held-out slices would flatter; a slab with
    a margin on both sides is the least that one patient allows.

    Args:
        count: Slices of the volume.
        period: Slices from one slab to the next.
        slab: Slices of a slab.
        margin: Slices on each side of a slab that no split uses.
    """
    splits = ["train"] * count
    for number, first in enumerate(range(period // 2, count - slab - margin, period)):
        for k in range(max(0, first - margin), min(count, first + slab + margin)):
            splits[k] = ""
        for k in range(first, first + slab):
            splits[k] = "val" if number % 2 == 0 else "test"
    return tuple(splits)
