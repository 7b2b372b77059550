"""Geometry: there and back exactly, pictures the right way up, and affines that are refused or repaired."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib import geometry
from MedicalSAM3Lib.errors import GeometryError
from MedicalSAM3Lib.structures import Volume
from Testing.lib.file_worlds import affine, affines, counting, rotation, shapes_kji

AXIS_ALIGNED = [
    np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((-1, 1), repeat=3)
]
"""All 48 ways in which an array's axes can lie along the patient's, left-handed ones too."""


def coordinates(matrix: np.ndarray, shape_kji: tuple[int, int, int]) -> np.ndarray:
    """LPS position of every voxel, ``(K, J, I, 3)``."""
    k, j, i = np.indices(shape_kji)
    return np.stack([i, j, k], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]


@given(matrix=affines(), shape=shapes_kji)
@settings(max_examples=60, deadline=None)
def test_canonical_view_and_back_is_exact(matrix: np.ndarray, shape: tuple[int, int, int]) -> None:
    canonical = geometry.canonical_of(matrix)
    array = counting((*shape, 3))
    view = canonical.to_canonical(array)
    assert np.shares_memory(view, array)
    np.testing.assert_array_equal(canonical.to_input(view), array)
    np.testing.assert_array_equal(canonical.to_input(view[..., 0]), array[..., 0])


@pytest.mark.parametrize("axes", AXIS_ALIGNED)
def test_canonical_axes_run_to_left_posterior_superior(axes: np.ndarray) -> None:
    matrix = affine(axes, (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    canonical = geometry.canonical_of(matrix)
    lps = canonical.to_canonical(coordinates(matrix, (3, 4, 5)))
    for axis, coordinate in ((2, 0), (1, 1), (0, 2)):
        assert (np.diff(lps[..., coordinate], axis=axis) > 0).all()
    steps = [abs(float(np.diff(lps[..., 2 - axis], axis=axis).flat[0])) for axis in (2, 1, 0)]
    assert canonical.spacing_mm((1.0, 2.0, 3.0)) == pytest.approx(steps)


@given(matrix=affines())
@settings(max_examples=60, deadline=None)
def test_oblique_axes_are_each_used_once_and_run_the_right_way(matrix: np.ndarray) -> None:
    canonical = geometry.canonical_of(matrix)
    assert sorted(canonical.permutation) == [0, 1, 2]
    lps = canonical.to_canonical(coordinates(matrix, (2, 2, 2)))
    total = sum(float(np.diff(lps[..., 2 - axis], axis=axis).flat[0] > 0) for axis in (0, 1, 2))
    assert total == 3


def test_pictures_face_the_reader() -> None:
    lps = coordinates(np.eye(4), (3, 4, 5))
    left, back, up = lps[..., 0], lps[..., 1], lps[..., 2]
    for axis, rows, columns in ((2, back, left), (1, -up, left), (0, -up, back)):
        assert (np.diff(geometry.slices_along(rows, axis), axis=1) > 0).all()
        assert (np.diff(geometry.slices_along(columns, axis), axis=2) > 0).all()
    for axis, across in ((0, left), (1, back), (2, up)):
        assert (np.diff(geometry.slices_along(across, axis), axis=0) > 0).all()


@given(axis=st.sampled_from([0, 1, 2]), shape=shapes_kji, colour=st.booleans())
def test_slices_and_back_is_exact(axis: int, shape: tuple[int, int, int], colour: bool) -> None:
    array = counting((*shape, 3) if colour else shape)
    slices = geometry.slices_along(array, axis)
    assert slices.shape[0] == shape[2 - axis]
    np.testing.assert_array_equal(geometry.volume_from_slices(slices, axis), array)


@given(matrix=affines(), shape=shapes_kji, axis=st.sampled_from([0, 1, 2]))
@settings(max_examples=40, deadline=None)
def test_slice_numbers_are_the_inputs_own(matrix: np.ndarray, shape: tuple[int, int, int], axis: int) -> None:
    canonical = geometry.canonical_of(matrix)
    array = counting(shape)
    slices = geometry.slices_along(canonical.to_canonical(array), axis)
    numbers = geometry.input_slice_index(canonical, axis, len(slices))
    for picture, number in zip(slices, numbers, strict=True):
        own = np.take(array, number, axis=geometry.input_axis(canonical, axis))
        np.testing.assert_array_equal(np.sort(picture, axis=None), np.sort(own, axis=None))


def test_pixel_size_is_height_by_width() -> None:
    assert [geometry.pixel_mm((1.0, 2.0, 3.0), axis) for axis in (0, 1, 2)] == [(3.0, 2.0), (3.0, 1.0), (2.0, 1.0)]


@given(matrix=affines())
@settings(max_examples=40, deadline=None)
def test_a_good_affine_is_left_alone(matrix: np.ndarray) -> None:
    stored = matrix.astype(np.float32)
    checked, notice = geometry.check_affine(stored)
    assert notice is None
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, stored)


def test_an_affine_off_by_rounding_is_repaired_with_a_notice() -> None:
    axes = rotation(3).round(3)
    checked, notice = geometry.check_affine(affine(axes, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0)))
    assert notice is not None
    assert "repaired" in notice
    repaired = checked[:3, :3] / np.linalg.norm(checked[:3, :3], axis=0)
    np.testing.assert_allclose(repaired.T @ repaired, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(repaired, axes, atol=2e-3)
    np.testing.assert_array_equal(checked[:3, 3], (1.0, 2.0, 3.0))


def sheared(by: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 1] = by
    return matrix


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.eye(3), "4x4"),
        (np.ones((4, 4)), "last row"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "finite"),
        (np.diag([1.0, np.inf, 1.0, 1.0]), "finite"),
        (np.diag([1.0, 1e300, 1.0, 1.0]), "finite"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), "spacing above 0"),
        (sheared(0.2), "sheared by 11.3"),
        (sheared(0.003), "sheared by 0.17 degrees"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "sheared by 90"),
    ],
)
def test_an_affine_that_cannot_be_trusted_is_refused(matrix: np.ndarray, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        geometry.check_affine(matrix)


def volume_of(shape: tuple[int, int, int], spacing: tuple[float, float, float], *, is_2d: bool = False) -> Volume:
    # Array axis k runs front to back, j head to foot, i left to right: a coronal acquisition.
    axes = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)
    return Volume(np.zeros(shape, np.float32), affine(axes, spacing, (0, 0, 0)), is_2d=is_2d)


@pytest.mark.parametrize(
    ("volume", "axis"),
    [
        (volume_of((9, 9, 9), (1, 1, 1)), 2),
        (volume_of((9, 9, 9), (1, 1, 1.4)), 2),
        (volume_of((9, 9, 9), (1, 1, 5)), 1),
        (volume_of((9, 9, 9), (5, 1, 1)), 0),
        (volume_of((1, 9, 9), (1, 1, 1)), 1),
        (volume_of((9, 1, 9), (1, 1, 1)), 2),
        (volume_of((9, 9, 1), (1, 1, 9)), 0),
        (volume_of((1, 1, 9), (1, 1, 1)), 1),
        (volume_of((1, 1, 1), (1, 1, 1)), 2),
        (volume_of((1, 9, 9), (1, 1, 1), is_2d=True), 1),
    ],
)
def test_auto_axis_follows_the_thick_slices(volume: Volume, axis: int) -> None:
    assert geometry.choose_axis(volume, preferred=2) == axis
