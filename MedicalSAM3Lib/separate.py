"""Tell the objects of one concept apart: which voxel of its mask belongs to which. Arrays only, no torch.

The mask is given; no voxel is added or lost. Who owns a voxel is settled in this order:

    claimed   the most confident of the objects that were followed through the volume
    beside    a part that nobody claims joins what it touches; where it touches several, each voxel the nearest
    alone     a part that touches nothing is an object of its own
    apart     what one claim holds side by side is several objects; what it holds one slice after the other, with a
              gap, is one
    speck     what is smaller than ``LEAST_OBJECT_VOXELS`` joins the nearest object

So two objects that touch stay two where they were followed apart, and one that was followed across a gap stays one.
Without claims the connected parts are the objects. Parts connect over corners (26 neighbours).

Why "apart": weights that were trained on one mask a concept show all lesions of a slice as one thing, and following
it must not count less than the connected parts do.

Shapes: n h w slices, rows and columns of the box around the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

LEAST_OBJECT_VOXELS = 3
"""Smaller parts are specks: they stay in the mask, but are no objects of their own."""

NEIGHBOURS = np.ones((3, 3, 3), bool)

READING_ORDER = {0: ((1, 1), (2, 1), (0, 1)), 1: ((1, 1), (0, 1), (2, 1)), 2: ((0, -1), (1, 1), (2, 1))}
"""Slice axis to (axis of the stack, direction): from head to foot, then front to back, then right to left; in a
picture from top to bottom, then left to right.

By place and not by size: ribs and vertebrae are counted so, and a lesion that grew by a voxel does not change its
number with another of its size. Who wants the largest first finds the sizes in the report.
"""

Claims = Callable[[int], Iterable[tuple[int, np.ndarray]]]
"""For slice n of the box: owners, from 1, each with its confidence ``(h, w)`` in each voxel, 0 where it is not."""


def separate(
    mask: np.ndarray, claims: Claims, spacing_mm: tuple[float, float, float], axis: int, most: int
) -> np.ndarray:
    """Number the objects of a mask.

    Args:
        mask: Boolean ``(n, h, w)``, not empty.
        claims: What is known of the objects. May raise ``Cancelled``.
        spacing_mm: Between slices, rows and columns.
        axis: Patient axis across which the slices lie.
        most: If there are more objects, only so many of the largest are told apart.

    Returns:
        int32 ``(n, h, w)``: 1, 2, ... in ``READING_ORDER`` on the mask, 0 outside.
    """
    owners = _claimed(mask, claims)
    if owners.any():
        _adopt(owners, mask, spacing_mm)
        _part(owners)
    else:
        owners, _ = connected_parts(mask)
    _settle_specks(owners, mask, spacing_mm, most)
    return _in_order(owners, axis)


def connected_parts(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label the parts of a mask that connect over corners: int32 of its shape, and their number."""
    return ndimage.label(mask, np.ones((3,) * mask.ndim, bool))


def _claimed(mask: np.ndarray, claims: Claims) -> np.ndarray:
    """The most confident owner of each voxel, 0 where there is none; of equals the first."""
    owners = np.zeros(mask.shape, np.int32)
    for n in range(len(mask)):
        best = np.zeros(mask.shape[1:], np.float32)
        for owner, confidence in claims(n):
            wins = mask[n] & (confidence > best)
            best[wins] = confidence[wins]
            owners[n][wins] = owner
    return owners


def _adopt(owners: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> None:
    """Give every part that nobody owns to what it touches, or make it an object; in place."""
    parts, _ = connected_parts(mask & (owners == 0))
    new = int(owners.max()) + 1
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        # A voxel more on each side; the other parts do not reach this one, so their order does not matter.
        wide = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        part, around = parts[wide] == number, owners[wide]
        contact = ndimage.binary_dilation(part, NEIGHBOURS) & (around > 0)
        touched = np.unique(around[contact])
        if len(touched) > 1:
            around[part] = _nearest(around, contact, part, spacing_mm)
        else:
            around[part] = touched[0] if len(touched) else new
            new += len(touched) == 0


def _part(owners: np.ndarray) -> None:
    """Make objects of the parts of each owner of which two, that are no specks, lie on one slice; in place."""
    new = int(owners.max()) + 1
    for owner, box in enumerate(ndimage.find_objects(owners), start=1):
        if box is None:
            continue
        parts, count = connected_parts(owners[box] == owner)
        if count == 1:
            continue
        sizes = np.bincount(parts.ravel())
        on_slice = np.zeros(len(parts), int)
        for part, (slices, _, _) in enumerate(ndimage.find_objects(parts), start=1):
            on_slice[slices] += sizes[part] >= LEAST_OBJECT_VOXELS
        if on_slice.max() > 1:
            owners[box][parts > 0] = parts[parts > 0] + (new - 1)
            new += count


def _settle_specks(owners: np.ndarray, mask: np.ndarray, spacing_mm: tuple[float, float, float], most: int) -> None:
    """Give the voxels of specks, and of objects beyond ``most``, to the nearest of the others; in place."""
    sizes = np.zeros(int(owners.max()) + 1, np.int64)
    for plane in owners:
        sizes += np.bincount(plane.ravel(), minlength=len(sizes))
    sizes[0] = 0
    keeps = sizes >= LEAST_OBJECT_VOXELS
    if keeps.sum() > most:
        keeps[np.argsort(-sizes, kind="stable")[most:]] = False
    if not keeps.any():  # specks alone are one object
        owners[mask] = 1
        return
    settled = keeps[owners]
    strays = mask & ~settled
    if strays.any():
        # The nearest voxel of an object lies on its surface: the others need not be searched.
        surface = settled & ~ndimage.binary_erosion(settled)
        owners[strays] = _nearest(owners, surface, strays, spacing_mm)


def _nearest(
    owners: np.ndarray, among: np.ndarray, voxels: np.ndarray, spacing_mm: tuple[float, float, float]
) -> np.ndarray:
    """For each of some voxels the owner of the nearest, in mm, among others: int32 ``(v,)``."""
    tree = cKDTree(np.argwhere(among) * spacing_mm)
    _, index = tree.query(np.argwhere(voxels) * spacing_mm)
    return owners[among][index]


def _in_order(owners: np.ndarray, axis: int) -> np.ndarray:
    """Number anew from 1, by the objects' centres in reading order."""
    length = int(owners.max()) + 1
    sizes, sums = np.zeros(length), np.zeros((3, length))
    for n, plane in enumerate(owners):
        rows, columns = np.nonzero(plane)
        here = plane[rows, columns]
        of_slice = np.bincount(here, minlength=length)
        sizes += of_slice
        sums += n * of_slice, np.bincount(here, rows, length), np.bincount(here, columns, length)
    there = np.flatnonzero(sizes)
    centres = sums[:, there] / sizes[there]
    first, second, third = (sign * centres[of_stack] for of_stack, sign in READING_ORDER[axis])
    numbers = np.zeros(length, np.int32)
    numbers[there[np.lexsort((third, second, first))]] = np.arange(1, len(there) + 1)
    return numbers[owners]
