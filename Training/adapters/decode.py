"""Raw labels become a mask for each concept: binary, numbered, coloured, one number an object, or an outline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.structures import Volume
from Training.adapters.case import Case
from Training.dataset_spec import INSIDE, DatasetSpec

MOST_OBJECTS = np.iinfo(np.uint16).max

FEW_VALUES = 8
"""A binary mask with more values than these was smoothed; with fewer it holds labels."""


class Masks:
    """Collects what each concept covers on one grid; labels that the dictionary does not know are remembered.

    Attributes:
        spec: The data set, for its dictionary.
        masks_kji: Concept name to uint16 ``(K, J, I)``.
        unexpected: Labels without an entry in the dictionary.
    """

    def __init__(self, spec: DatasetSpec, shape_kji: tuple[int, int, int]) -> None:
        self.spec = spec
        self.shape_kji = shape_kji
        self.masks_kji: dict[str, np.ndarray] = {}
        self.unexpected: list[str] = []

    def add(self, label: str, numbers_kji: np.ndarray) -> None:
        """Add what a label covers.

        Args:
            label: As the dictionary spells it.
            numbers_kji: ``(K, J, I)``, 0 outside. Two plain masks (0 and 1) become one; objects that have
                numbers keep them apart from those that are there already.

        Raises:
            InputError: Another shape than the image, or more objects than a mask can number.
        """
        most = int(numbers_kji.max(initial=0))
        for mask in self._targets(label, numbers_kji.shape):
            offset = int(mask.max(initial=0)) if max(most, mask.max(initial=0)) > 1 else 0
            if offset + most > MOST_OBJECTS:
                raise InputError(f"Expected at most {MOST_OBJECTS} objects in an image, got more.")
            inside = numbers_kji > 0
            mask[inside] = numbers_kji[inside] + offset

    def add_object(self, label: str, inside_kji: np.ndarray) -> None:
        """Add one object of a label, bool ``(K, J, I)``, under a number of its own."""
        for mask in self._targets(label, inside_kji.shape):
            mask[inside_kji] = int(mask.max(initial=0)) + 1

    def note(self, label: str) -> None:
        """Remember a label that the dictionary does not know."""
        if label not in self.unexpected:
            self.unexpected.append(label)

    def case(self, image: Volume, image_file: Path | None, known: Mapping[str, np.ndarray]) -> Case:
        """The case that has these masks, without their stray pixels; the arguments are as ``Case`` says."""
        for mask in self.masks_kji.values():
            pixels = np.count_nonzero(mask.reshape(len(mask), -1), axis=1)
            mask[pixels < self.spec.states.least_pixels] = 0
        return Case(image, image_file, self.masks_kji, known, tuple(self.unexpected))

    def _targets(self, label: str, shape: tuple[int, ...]) -> list[np.ndarray]:
        if shape != self.shape_kji:
            raise InputError(f"Expected labels {self.shape_kji} as the image, got {shape}; see whose they are.")
        concepts = self.spec.concepts_of(label)
        if concepts is None:
            self.note(label)
            return []
        return [self.masks_kji.setdefault(name, np.zeros(self.shape_kji, np.uint16)) for name in concepts]


def add_binary(masks: Masks, raw: np.ndarray, label: str, *, lossy: bool, soft: bool) -> None:
    """Inside or outside: 0/1, 0/255 or any two values; half of the largest divides greys.

    Three values or a few more are labels that nobody named; many are the greys of borders that somebody
    smoothed.

    Args:
        masks: What they are added to.
        raw: ``(K, J, I)`` or colour ``(K, J, I, 3)``.
        label: Of the whole file, "" for "inside".
        lossy: The file was compressed with losses: values near 0 and 255 are those.
        soft: Borders are smoothed, though with a few greys only.
    """
    grey = raw.max(axis=-1) if raw.ndim == 4 else raw
    values = np.unique(grey)
    top = float(values[-1]) if len(values) else 0.0
    if lossy or soft or len(values) > FEW_VALUES:
        # An empty mask that was compressed holds small values: half of 255, not half of its own maximum.
        top = top if top > 255 or (top <= 1 and not lossy) else 255.0
    elif len(values) > 2 or (len(values) == 2 and values[0] != 0) or values[:1].min(initial=0) < 0:
        masks.note(f"grey values {_listed(values)} in a binary mask")
    masks.add(label or INSIDE, (grey > max(0.0, top / 2)).astype(np.uint16))


def add_labels(masks: Masks, raw: np.ndarray) -> None:
    """A number for each label, 0 outside; a colour picture of equal channels is a grey one."""
    if raw.ndim == 4:
        if (raw != raw[..., :1]).any():
            raise InputError("Expected a mask of numbers, got one of colours; use form: colours.")
        raw = raw[..., 0]
    for value in np.unique(raw):
        label = str(int(value)) if float(value).is_integer() else str(float(value))
        if value != 0 or label in masks.spec.labels:
            masks.add(label, (raw == value).astype(np.uint16))


def add_colours(masks: Masks, raw: np.ndarray, *, lossy: bool) -> None:
    """A colour for each label, black outside.

    Args:
        masks: What they are added to.
        raw: ``(K, J, I, 3)``, 0..255.
        lossy: Colours are only near to what they were: the nearest of the dictionary's counts.
    """
    if raw.ndim == 3:
        raw = np.repeat(raw[..., None], 3, axis=-1)
    pixels = raw.astype(np.int32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    if lossy:
        codes = _nearest(pixels, [*masks.spec.labels, *masks.spec.ignored])
    for code in np.unique(codes):
        label = f"#{int(code):06x}"
        if code != 0 or label in masks.spec.labels:
            masks.add(label, (codes == code).astype(np.uint16))


def add_instances(masks: Masks, raw: np.ndarray, label: str) -> None:
    """A number for each object; numbers beyond 65,535 are counted anew."""
    if raw.ndim == 4:
        # Some writers spread a number over three colours.
        raw = raw[..., 0] + 256.0 * raw[..., 1] + 65536.0 * raw[..., 2]
    values, inverse = np.unique(raw, return_inverse=True)
    if len(values) and values[0] < 0:
        masks.note(f"number {values[0]:g} of an object")
    numbers = inverse.reshape(raw.shape) + (0 if len(values) and values[0] == 0 else 1)
    if numbers.max(initial=0) > MOST_OBJECTS:
        raise InputError(f"Expected at most {MOST_OBJECTS} objects in an image, got {numbers.max()}.")
    masks.add(label or INSIDE, numbers.astype(np.uint16))


def add_outline(masks: Masks, raw: np.ndarray, label: str) -> None:
    """A closed curve, filled; where the picture's edge or a gap leaves it open, the ellipse through it.

    Args:
        masks: What they are added to.
        raw: ``(1, J, I)`` or colour.
        label: Of the whole file, "" for "inside".
    """
    grey = raw.max(axis=-1) if raw.ndim == 4 else raw
    curve = grey[0] > grey.max(initial=0) / 2
    filled = ndimage.binary_fill_holes(curve)
    if curve.any() and filled.sum() < 2 * curve.sum():
        filled = _ellipse(np.argwhere(curve), curve.shape) | curve
    masks.add(label or INSIDE, filled[None].astype(np.uint16))


def _ellipse(points_yx: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The inside of the conic that fits the points best (least squares), on the pixels of a picture."""
    if len(points_yx) < 6:
        raise InputError(f"Expected the outline of an ellipse, got {len(points_yx)} pixels.")
    centre, scale = points_yx.mean(0), max(points_yx.std(), 1.0)
    y, x = ((points_yx - centre) / scale).T
    terms = np.stack([x * x, x * y, y * y, x, y, np.ones_like(x)], 1)
    conic = np.linalg.svd(terms)[2][-1]
    if conic[1] ** 2 >= 4 * conic[0] * conic[2]:
        raise InputError("Expected the outline of an ellipse, got a curve that is none.")
    rows, columns = ((np.arange(size) - middle) / scale for size, middle in zip(shape, centre, strict=True))
    yy, xx = np.meshgrid(rows, columns, indexing="ij")
    value = sum(c * term for c, term in zip(conic, (xx * xx, xx * yy, yy * yy, xx, yy, 1.0), strict=True))
    return np.asarray(value * np.sign(conic[0]) <= 0)


def _nearest(pixels: np.ndarray, labels: Iterable[str]) -> np.ndarray:
    """The nearest colour of the dictionary, black among them, as a number for each pixel."""
    palette = sorted({0, *(int(label[1:], 16) for label in labels if label.startswith("#"))})
    best = np.full(pixels.shape[:-1], np.iinfo(np.int32).max, np.int32)
    codes = np.zeros(pixels.shape[:-1], np.int32)
    for code in palette:
        distance = ((pixels - np.array([code >> 16, (code >> 8) & 255, code & 255], np.int32)) ** 2).sum(-1)
        closer = distance < best
        best[closer], codes[closer] = distance[closer], code
    return codes


def _listed(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:5])
    return shown + (f", ... ({len(values)})" if len(values) > 5 else "")
