"""Measures against answers that are known: boxes, balls, single voxels, objects, pictures; and by trying all pairs."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.geometry import canonical_of, input_axis
from MedicalSAM3Lib.measures import measure, measured
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.structures import Finding, Measures, ObjectPart, Volume
from Testing.lib.fakes import fake_model
from Testing.lib.file_worlds import affine, affines, rotation
from Testing.lib.phantoms import oblique_affine, spheres

SPACING = (0.5, 0.75, 2.0)


def volume_of(shape: tuple[int, ...], ijk_to_lps: np.ndarray | None = None, **more: object) -> Volume:
    return Volume(np.zeros(shape, np.float32), np.diag([*SPACING, 1.0]) if ijk_to_lps is None else ijk_to_lps, **more)  # type: ignore[arg-type]


def corners_mm(mask: np.ndarray, ijk_to_lps: np.ndarray) -> np.ndarray:
    """All corners of all voxels."""
    kji = np.argwhere(mask)[:, None] + np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    return kji.reshape(-1, 3)[:, ::-1] @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]


def longest(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[:, None] - points[None], axis=-1).max())


def assert_alike(one: Measures | None, other: Measures) -> None:
    """Equal but for rounding, which depends on where the box begins."""
    assert one is not None
    for field in fields(Measures):
        assert getattr(one, field.name) == pytest.approx(getattr(other, field.name)), field.name


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_an_oblique_box_has_its_diagonals(seed: int) -> None:
    # Axes near the patient's, so that "axial" is known: k lies closest to head-foot.
    turned = oblique_affine(
        (0.5, 0.75, 2.0), order=((0, 1, 2), (1, 0, 2))[seed % 2], signs=(1, -1, (-1) ** (seed // 2))
    )
    volume = volume_of((9, 20, 30), turned)
    volume.array[2:6] = 40
    mask = np.zeros(volume.shape_kji, bool)
    mask[3:7, 4:12, 5:21] = True
    got = measure(mask, volume)
    i, j, k = 16 * 0.5, 8 * 0.75, 4 * 2.0
    assert got.axial_long_mm == pytest.approx(np.hypot(i, j))
    assert got.axial_short_mm == pytest.approx(j * np.hypot(i, j) / i)  # from one corner straight to the other side
    assert got.axial_slice == 3
    assert got.largest_mm == pytest.approx(np.sqrt(i * i + j * j + k * k))
    assert got.centroid_lps_mm == pytest.approx((turned @ (12.5, 7.5, 4.5, 1))[:3])
    assert (got.intensity_mean, got.intensity_sd) == pytest.approx((30, 40 * np.sqrt(3) / 4))


def test_a_single_voxel_is_its_own_diagonal() -> None:
    volume = volume_of((3, 4, 5))
    volume.array[2, 3, 4] = -1000
    mask = np.zeros(volume.shape_kji, bool)
    mask[2, 3, 4] = True
    got = measure(mask, volume)
    assert got.axial_long_mm == pytest.approx(np.hypot(0.5, 0.75))
    assert got.largest_mm == pytest.approx(np.linalg.norm(SPACING))
    assert got.centroid_lps_mm == pytest.approx((2.0, 2.25, 4.0))
    assert (got.axial_slice, got.intensity_mean, got.intensity_sd) == (2, -1000, 0)


def test_an_ellipsoid_has_its_axes_within_a_voxel() -> None:
    spacing = (0.5, 0.5, 1.0)
    volume = volume_of((60, 120, 120), affine(np.eye(3), spacing, (1, 2, 3)))
    k, j, i = np.ogrid[:60, :120, :120]
    mask = ((i - 60) * 0.5 / 25) ** 2 + ((j - 60) * 0.5 / 15) ** 2 + ((k - 30) / 20) ** 2 <= 1
    got = measure(mask, volume)
    for value, axis in ((got.axial_long_mm, 50), (got.axial_short_mm, 30), (got.largest_mm, 50)):
        assert value is not None
        assert axis <= value <= axis + np.linalg.norm(spacing)
    assert got.axial_slice == 30
    assert got.centroid_lps_mm == pytest.approx((31, 32, 33))


def test_the_short_axis_is_measured_on_the_slice_of_the_long_one() -> None:
    mask = np.zeros((4, 30, 30), bool)
    mask[1, 10, 5:25] = True  # long and thin
    mask[2, 5:17, 5:17] = True  # shorter and thick
    got = measure(mask, volume_of(mask.shape, np.eye(4)))
    assert got.axial_slice == 1
    assert got.axial_long_mm == pytest.approx(np.hypot(20, 1))
    assert got.axial_short_mm < 2


@pytest.mark.parametrize(("order", "array_axis"), [((2, 0, 1), 2), ((1, 2, 0), 1)])
def test_axial_is_across_head_foot_however_the_slices_lie(order: tuple[int, int, int], array_axis: int) -> None:
    # Column i of the affine is the patient axis along which index i runs.
    turned = np.eye(4)
    turned[:3, :3] = np.eye(3)[:, list(order)]
    assert input_axis(canonical_of(turned), 2) == array_axis
    mask = np.ones((3, 4, 5), bool)
    got = measure(mask, volume_of(mask.shape, turned))
    assert got.axial_long_mm == pytest.approx(np.hypot(*np.delete([3, 4, 5], array_axis)))


@settings(max_examples=60, deadline=None)
@given(st.data(), affines())
def test_diameters_are_those_of_all_pairs_of_corners(data: st.DataObject, ijk_to_lps: np.ndarray) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3))
    mask = np.random.default_rng(data.draw(st.integers(0, 1000))).random(shape) < data.draw(st.sampled_from([0.1, 0.6]))
    mask.flat[data.draw(st.integers(0, mask.size - 1))] = True
    got = measure(mask, volume_of(shape, ijk_to_lps))
    assert got.largest_mm == pytest.approx(longest(corners_mm(mask, ijk_to_lps)), rel=1e-9)
    # A slice has a thickness, and diagonals through it are not on it: flatten it first.
    axis = input_axis(canonical_of(ijk_to_lps), 2)
    on_slices = []
    for n in np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))):
        points = corners_mm(np.take(mask, [n], axis), ijk_to_lps)
        normal = ijk_to_lps[:3, 2 - axis] / np.linalg.norm(ijk_to_lps[:3, 2 - axis])
        on_slices.append(longest(points - np.outer(points @ normal, normal)))
    assert got.axial_long_mm == pytest.approx(max(on_slices), rel=1e-7)
    assert 0 < got.axial_short_mm <= got.axial_long_mm * (1 + 1e-9)
    where = np.argwhere(mask)[:, ::-1].mean(0)
    assert got.centroid_lps_mm == pytest.approx(ijk_to_lps[:3, :3] @ where + ijk_to_lps[:3, 3], abs=1e-6)


def test_the_short_axis_does_not_depend_on_how_the_mask_is_turned() -> None:
    mask = np.zeros((1, 12, 12), bool)
    mask[0, 2:5, 1:11] = mask[0, 5:9, 4:6] = True
    volume = volume_of(mask.shape, np.eye(4))
    wanted = measure(mask, volume)
    # The longest diagonal is that of the 10 x 7 hull's corners or of the 10 x 3 box; all eight views have the same.
    for turned in (mask[:, ::-1], mask[:, :, ::-1], mask.transpose(0, 2, 1), mask[:, ::-1].transpose(0, 2, 1)):
        got = measure(turned, volume)
        assert (got.axial_long_mm, got.axial_short_mm) == pytest.approx((wanted.axial_long_mm, wanted.axial_short_mm))


def test_of_a_picture_only_its_plane_is_measured_and_of_colour_no_intensity() -> None:
    mask = np.ones((1, 3, 4), bool)
    grey = measure(mask, volume_of((1, 3, 4), np.eye(4), is_2d=True))
    assert (grey.axial_long_mm, grey.largest_mm, grey.intensity_mean) == (5, None, 0)
    colour = measure(mask, volume_of((1, 3, 4, 3), np.eye(4), is_2d=True))
    assert (colour.intensity_mean, colour.intensity_sd) == (None, None)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        measure(np.zeros((2, 2, 2), bool), volume_of((2, 2, 2)))


def test_a_finding_is_measured_as_a_whole_and_object_by_object() -> None:
    layer = np.zeros((2, 10, 20), np.uint16)
    layer[:, 1:3, 1:3], layer[:, 1:3, 11:14] = 4, 5
    volume = volume_of(layer.shape, affine(rotation(0), (1, 1, 1), (0, 0, 0)))
    volume.array[layer == 5] = 100
    parts = tuple(ObjectPart(label, 8, 0.008, (0, 1), 0.9) for label in (4, 5))
    asked = (Finding("x", "not_found"), Finding("cell", "found", layer=0, label=4, objects=parts))
    absent, cell = measured(asked, [layer], volume)
    assert absent.measures is None
    assert_alike(cell.measures, measure(layer > 0, volume))
    for part in cell.objects:
        assert_alike(part.measures, measure(layer == part.label, volume))
    assert [part.measures.intensity_mean for part in cell.objects if part.measures] == [0, 100]


def test_the_pipeline_measures_what_it_found_on_the_inputs_grid() -> None:
    volume, masks = spheres({255.0: (0.2, 0.5, 0.5), 250.0: (0.8, 0.5, 0.5)})
    chosen = make_settings(speed="exact", instances=True)
    result = segment(volume, ["cell", "nonsense"], fake_model({"cell": (0.75, 1.5)}), chosen)
    cell, nonsense = result.findings
    assert nonsense.measures is None
    assert_alike(cell.measures, measure(result.mask_kji(cell), volume))
    assert len(cell.objects) == len(masks) == 2
    for number, part in enumerate(cell.objects, start=1):
        assert_alike(part.measures, measure(result.object_mask_kji(cell, number), volume))
        assert 40 < part.measures.axial_long_mm < 56  # a ball of 44 mm
