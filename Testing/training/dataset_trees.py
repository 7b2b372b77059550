"""Small data sets on disk, each in its published layout, that remember what an adapter must find in them."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

SHAPE = (32, 48)
"""Rows and columns; multiples of 8, so that boxes on that raster survive JPEG."""


@dataclass(frozen=True)
class Expected:
    """What is known about one image.

    Attributes:
        masks: Concept name to bool ``(K, J, I)``.
        patient: As published, "" for nobody known.
        absent: Concepts that are known to be nowhere in it.
        objects: Concept name to how many objects are told apart, where that counts.
        known: Concept name to the slices on which it was looked for; all of them unless named.
        tolerance: Pixels that may differ, where a curve has to be guessed.
    """

    masks: Mapping[str, np.ndarray]
    patient: str = ""
    absent: Sequence[str] = ()
    objects: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tolerance: int = 0


class Tree:
    """Writes files under a folder, and collects what is expected of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cases: dict[str, Expected] = {}
        self.problems: Counter[str] = Counter()

    def path(self, name: str) -> Path:
        """The path of a file, whose folder is there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, name: str, *, shape: tuple[int, int] = SHAPE, colour: bool = True) -> None:
        """A picture like no other: blocks of colour that its name decides."""
        self.picture(name, pattern(name, shape, colour=colour))

    def picture(self, name: str, array: np.ndarray, **options: Any) -> None:
        """A picture of these values, in the format of the suffix."""
        Image.fromarray(array).save(self.path(name), **{"quality": 95, **options})

    def binary(self, name: str, inside: np.ndarray, value: int = 255) -> None:
        """A mask with two values."""
        self.picture(name, inside.astype(np.uint8) * np.uint8(value))

    def expect(self, name: str, masks: Mapping[str, np.ndarray] | None = None, **facts: Any) -> None:
        """What is known about an image; masks of pictures may be ``(J, I)``."""
        volumes = {concept: mask[None] if mask.ndim == 2 else mask for concept, mask in (masks or {}).items()}
        self.cases[name] = Expected(volumes, **facts)

    def volume(self, name: str, array: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 2.0)) -> None:
        """A volume ``(K, J, I)`` as NIfTI, NRRD or MetaImage."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing[: image.GetDimension()])
        sitk.WriteImage(image, str(self.path(name)), useCompression=True)

    def text(self, name: str, content: str) -> None:
        """A text file."""
        self.path(name).write_text(content, encoding="utf-8")

    def json(self, name: str, content: Any) -> None:
        """A JSON file."""
        self.text(name, json.dumps(content))


def pattern(name: str, shape: tuple[int, ...] = SHAPE, *, colour: bool = False) -> np.ndarray:
    """uint8 blocks of 8 x 8 pixels that a name decides, ``(J, I)`` or ``(J, I, 3)``."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    blocks = rng.integers(0, 256, (*(side // 8 for side in shape), *([3] if colour else [])), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)


def grey_volume(name: str, shape_kji: tuple[int, int, int] = (4, *SHAPE)) -> np.ndarray:
    """uint8 slices that a name decides, each like no other."""
    return np.stack([pattern(f"{name}{k}", shape_kji[1:]) for k in range(shape_kji[0])])


def box(top: int, left: int, height: int, width: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """bool ``(J, I)`` with a box, in units of 8 pixels."""
    mask = np.zeros(shape, bool)
    mask[8 * top : 8 * (top + height), 8 * left : 8 * (left + width)] = True
    return mask


def slab(top: int, left: int, height: int, width: int, slices: Sequence[int], count: int = 4) -> np.ndarray:
    """bool ``(K, J, I)`` with a box on some slices."""
    mask = np.zeros((count, *SHAPE), bool)
    mask[list(slices)] = box(top, left, height, width)
    return mask


NOTHING = box(0, 0, 0, 0)

Builder = Callable[[Tree], None]


def labelme(shapes: Sequence[tuple[str, str, Sequence[Sequence[float]]]], size: tuple[int, int] = SHAPE) -> Any:
    """The JSON of LabelMe: (label, shape type, corners) each."""
    return {
        "version": "5.0.1",
        "imageHeight": size[0],
        "imageWidth": size[1],
        "shapes": [{"label": label, "shape_type": kind, "points": points} for label, kind, points in shapes],
    }


def corners(top: int, left: int, height: int, width: int) -> list[list[float]]:
    """Corners (x, y) of a box in units of 8 pixels whose fill, border included, is that box."""
    right, bottom = 8.0 * (left + width) - 1, 8.0 * (top + height) - 1
    return [[8.0 * left, 8.0 * top], [right, 8.0 * top], [right, bottom], [8.0 * left, bottom]]


def flat(points: Sequence[Sequence[float]]) -> list[float]:
    """Corners as COCO writes them: x, y, x, y, ..."""
    return [value for point in points for value in point]
