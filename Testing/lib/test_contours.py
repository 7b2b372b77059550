"""Outlines of masks: filled again they are the mask, and they stay within half a voxel of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from MedicalSAM3Lib.contours import fill, trace


def mask_of(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)), shift=st.floats(-1e-3, 1e-3))
@settings(max_examples=300, deadline=None)
def test_any_mask_comes_back_also_from_rounded_points(mask: np.ndarray, shift: float) -> None:
    polygons = trace(mask)
    np.testing.assert_array_equal(fill(polygons, mask.shape), mask)
    noise = np.random.default_rng(0)
    moved = [np.round(polygon + shift, 3) + noise.choice((-1e-4, 1e-4)) for polygon in polygons]
    np.testing.assert_array_equal(fill(moved, mask.shape), mask)


@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
@settings(max_examples=100, deadline=None)
def test_points_lie_half_way_between_inside_and_outside(mask: np.ndarray) -> None:
    padded = np.pad(mask, 1)
    for i, j in np.concatenate([np.zeros((0, 2)), *trace(mask)]):
        ends = [padded[int(np.floor(j)) + 1, int(np.floor(i)) + 1], padded[int(np.ceil(j)) + 1, int(np.ceil(i)) + 1]]
        assert sorted(ends) == [False, True]


def test_holes_are_keyholes_and_islands_are_their_own() -> None:
    mask = mask_of("#######", "#.....#", "#..#..#", "#.....#", "#######", ".......", "##.....")
    polygons = trace(mask)
    assert len(polygons) == 3
    ring = max(polygons, key=len)
    assert len(ring) == 8 + 8 + 2
    steps = np.roll(ring, -1, axis=0) - ring
    area = 0.5 * np.sum(ring[:, 0] * np.roll(ring[:, 1], -1) - ring[:, 1] * np.roll(ring[:, 0], -1))
    # 7 x 5 voxels less four cut corners, less the hole of 5 x 3 and its four corners.
    assert abs(area) == 35 - 4 / 8 - (15 - 4 / 8)
    assert np.abs(steps).sum() > 0


def test_many_holes_at_one_corner_of_the_outline_are_all_kept() -> None:
    mask = np.ones((9, 9), bool)
    mask[1:8:2, 1:8:2] = False
    (polygon,) = trace(mask)
    np.testing.assert_array_equal(fill([polygon], mask.shape), mask)


def test_nothing_has_no_outline_and_no_outline_fills_nothing() -> None:
    assert trace(np.zeros((3, 4), bool)) == []
    assert not fill([], (3, 4)).any()


def test_what_reaches_past_the_picture_is_cut() -> None:
    square = np.array([(-5.0, -5.0), (9.0, -5.0), (9.0, 9.0), (-5.0, 9.0)])
    assert fill([square], (2, 3)).all()
