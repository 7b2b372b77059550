"""Choose what the preview figure shows: for each finding the plane, the slice, the cut-out and the window.

Arrays are canonical (see ``geometry``); axes 0, 1, 2 are sagittal, coronal and axial slices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from MedicalSAM3Lib.geometry import pixel_mm, slices_along

MOST_TILES = 8

ACQUIRED_GAIN, CORONAL_GAIN = 1.3, 1.15
"""Readers know the acquired plane best and the sagittal one least: another must show this much more."""

NARROW = 0.4
"""A picture whose short side is less than this part of its long side is a strip."""

MOST_PIXEL_ASPECT = 2.5
"""Pixels longer than this are the gaps between thick slices, not a picture."""

MARGIN_MM = 8.0

MOST_SIDE = 2048
"""Pixels along a side beyond which a picture costs memory and shows nothing more."""

SMOOTH_SIDE = 512
"""Outlines of smaller pictures are drawn on a finer grid, for curves instead of chamfers."""

LUNG_HU = -400.0
"""What is darker than this on average is shown in the lung window."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A slice to draw, and the place of its finding among those given; -1 if it is for all of them."""

    axis: int
    index: int
    finding: int = -1


@dataclass(frozen=True, slots=True)
class View:
    """Part of a slice to show, in pixels of its picture: left, right, bottom and top edge (y grows down)."""

    left: float
    right: float
    bottom: float
    top: float


def choose_tiles(
    masks: Iterable[np.ndarray], spacing_mm: tuple[float, float, float], axis: int, most: int = MOST_TILES
) -> list[Tile]:
    """For each of the first ``most`` findings the slice on which it is largest.

    Args:
        masks: Boolean canonical arrays ``(K, J, I)``, taken one at a time.
        spacing_mm: Canonical, along i, j, k.
        axis: The plane that is taken where no other shows clearly more.
    """
    return [_best_slice(mask, spacing_mm, axis, number) for number, mask in enumerate(islice(masks, most))]


def middle_tile(shape_kji: tuple[int, int, int], axis: int) -> Tile:
    """The slice to show when nothing was found, or when the volume is a picture."""
    return Tile(axis, shape_kji[2 - axis] // 2)


def square_view(picture: np.ndarray, mask: np.ndarray, pixel: tuple[float, float], low: float) -> View:
    """The smallest square in mm around the largest thing that is not background, and around the mask.

    Args:
        picture: Grey ``(H, W)``.
        mask: Boolean ``(H, W)``; all of it lies inside the view.
        pixel: Height and width of a pixel in mm.
        low: Values up to here are background.
    """
    from scipy import ndimage

    # The body is the largest thing in the picture; the table and what hangs beside it may be cut off.
    things, count = ndimage.label(picture > low)
    sizes = np.bincount(things.ravel(), minlength=count + 1)[1:]
    shown = mask | (things == 1 + int(sizes.argmax())) if count else mask
    spans = []
    for axis, length in enumerate(pixel):
        inside = np.flatnonzero((shown.mean(axis=1 - axis) > 0.01) | mask.any(axis=1 - axis))
        first, last = (inside[0], inside[-1]) if inside.size else (0, shown.shape[axis] - 1)
        spans.append(((first + last) / 2, (last - first + 1) * length + 2 * MARGIN_MM))
    half = max(span for _, span in spans) / 2
    (row, _), (column, _) = spans
    return View(column - half / pixel[1], column + half / pixel[1], row + half / pixel[0], row - half / pixel[0])


def shrink(picture: np.ndarray, masks: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], int]:
    """Make a picture no larger than can be seen: every n-th pixel, and the n that it took.

    Args:
        picture: ``(H, W)`` or ``(H, W, 3)``.
        masks: Boolean ``(H, W)``; of these no pixel is lost, for a finding may be as small as that.
    """
    step = -(-max(picture.shape[:2]) // MOST_SIDE)
    if step == 1:
        return picture, masks, step
    rows, columns = (np.arange(0, size, step) for size in picture.shape[:2])
    either = np.logical_or.reduceat
    return picture[::step, ::step], [either(either(mask, rows, axis=0), columns, axis=1) for mask in masks], step


def outline_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns, rows and values of a field whose contour at 0.5 is the mask's, without its stairs.

    A line of one pixel survives this much smoothing; a mask that would not is left as it is. The field
    reaches a pixel beyond the picture, so that a mask at its edge has a closed outline.
    """
    from scipy import ndimage

    field = np.pad(mask, 1).astype(np.float32)
    smooth = ndimage.gaussian_filter(field, 0.6)
    if smooth.max() > 0.5:
        field = ndimage.zoom(smooth, max(1, SMOOTH_SIDE // max(mask.shape)), order=3)
    rows, columns = (np.linspace(-1, size, points) for size, points in zip(mask.shape, field.shape, strict=True))
    return columns, rows, field


def _best_slice(mask: np.ndarray, spacing_mm: tuple[float, float, float], axis: int, number: int) -> Tile:
    best, best_score = Tile(axis, 0, number), -1.0
    for candidate in (0, 1, 2):
        pixel = pixel_mm(spacing_mm, candidate)
        slices = slices_along(mask, candidate)
        sides = slices.shape[1] * pixel[0], slices.shape[2] * pixel[1]
        unfit = min(sides) < NARROW * max(sides) or max(pixel) > MOST_PIXEL_ASPECT * min(pixel)
        if candidate != axis and unfit:
            continue
        areas = slices.sum(axis=(1, 2)) * pixel[0] * pixel[1]
        gain = ACQUIRED_GAIN if candidate == axis else CORONAL_GAIN if candidate == 1 else 1.0
        score = float(areas.max()) * gain
        if score > best_score:
            best, best_score = Tile(candidate, int(areas.argmax()), number), score
    return best
