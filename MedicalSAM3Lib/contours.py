"""Outlines of a mask on one slice, and back: the polygons of an RTSTRUCT.

An outline runs half-way between the voxels of a mask and those outside, so that filling it by voxel centres gives the
mask again. Each part of the mask is one closed polygon; its holes are joined to its outer line by a cut of no width
("keyhole"), which every reader fills alike, by whichever rule. Points are (i, j): along a row, along a column.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy.spatial import KDTree


def trace(mask_ji: np.ndarray) -> list[np.ndarray]:
    """Closed polygons around a boolean mask ``(J, I)``: float64 ``(N, 2)`` each, the first point not repeated."""
    from contourpy import contour_generator

    rows, columns = np.flatnonzero(mask_ji.any(axis=1)), np.flatnonzero(mask_ji.any(axis=0))
    if not rows.size:
        return []
    corner = np.array((columns[0] - 1.0, rows[0] - 1.0))
    part = mask_ji[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A rim of background closes the lines of what touches the edge of the picture.
    generator = contour_generator(z=np.pad(part, 1).astype(float), fill_type="OuterOffset")
    polygons = []
    for points, offsets in zip(*generator.filled(0.5, 1.5), strict=True):
        rings = [_straightened(points[begin : end - 1]) for begin, end in pairwise(offsets)]
        polygons.append(_keyholed(rings) + corner)
    return polygons


def fill(polygons: list[np.ndarray], shape_ji: tuple[int, int]) -> np.ndarray:
    """Boolean mask ``(J, I)`` of the voxels whose centre lies inside polygons, by the even-odd rule.

    Each edge flips all voxels to its right, row by row, in the rows that it crosses.
    """
    flips = np.zeros((shape_ji[0], shape_ji[1] + 1), np.uint8)
    begins = np.concatenate([np.zeros((0, 2)), *polygons])
    ends = np.concatenate([np.zeros((0, 2)), *(np.roll(polygon, -1, axis=0) for polygon in polygons)])
    upper = np.where((begins[:, 1] <= ends[:, 1])[:, None], begins, ends)
    lower = np.where((begins[:, 1] <= ends[:, 1])[:, None], ends, begins)
    first = np.clip(np.ceil(upper[:, 1]), 0, shape_ji[0]).astype(int)
    counts = np.clip(np.ceil(lower[:, 1]), 0, shape_ji[0]).astype(int) - first
    edge = np.repeat(np.arange(len(counts)), counts)
    row = first[edge] + np.arange(len(edge)) - (np.cumsum(counts) - counts)[edge]
    (i0, j0), (i1, j1) = upper[edge].T, lower[edge].T
    crossing = i0 + (row - j0) * (i1 - i0) / (j1 - j0)
    np.bitwise_xor.at(flips, (row, np.clip(np.ceil(crossing), 0, shape_ji[1]).astype(int)), 1)
    return np.bitwise_xor.accumulate(flips[:, :-1], axis=1).astype(bool)


def _straightened(ring: np.ndarray) -> np.ndarray:
    """A ring without the points that lie on the line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _keyholed(rings: list[np.ndarray]) -> np.ndarray:
    """An outer ring and its holes as one: each hole is entered and left where it is nearest to the outer ring."""
    outer, joined = rings[0], []
    tree = KDTree(outer)
    for hole in rings[1:]:
        distances, nearest = tree.query(hole)
        start = int(distances.argmin())
        joined.append((int(nearest[start]), np.roll(hole, -start, axis=0)))
    pieces, done = [], 0
    for bridge, hole in sorted(joined, key=lambda pair: pair[0]):
        pieces += [outer[done : bridge + 1], hole, hole[:1]]
        done = bridge
    return np.concatenate([*pieces, outer[done:]])
