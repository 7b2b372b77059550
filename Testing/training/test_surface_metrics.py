"""NSD and HD95 beside two implementations that share no code with MONAI's"""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import cKDTree

from MedicalSAM3Lib.overlap import dice
from Training.surface_metrics import compare_outlines, compare_surfaces

SPACINGS = st.tuples(*[st.sampled_from((0.7, 1.0, 2.5))] * 3)


def blob(seed: int, shape: tuple[int, ...] = (9, 16, 18)) -> np.ndarray:
    """A random smooth thing."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    return noise > np.quantile(noise, 0.8)


def hd95_by_tree(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> float:
    borders = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) * spacing for mask in (one, other)]
    ways = [np.quantile(cKDTree(there).query(here)[0], 0.95) for here, there in (borders, borders[::-1])]
    return float(max(ways))


def hd95_by_itk(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> float:
    images = [sitk.GetImageFromArray(np.pad(mask, 2).astype(np.uint8)) for mask in (one, other)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    borders = [sitk.LabelContour(image, False) for image in images]
    maps = [sitk.Abs(sitk.SignedMaurerDistanceMap(border, False, False, True)) for border in borders]
    arrays = [(sitk.GetArrayFromImage(border) > 0, sitk.GetArrayFromImage(far)) for border, far in zip(borders, maps)]  # noqa: B905
    return float(max(np.quantile(arrays[1][1][arrays[0][0]], 0.95), np.quantile(arrays[0][1][arrays[1][0]], 0.95)))


def nsd_by_deepmind(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    surface_distance = pytest.importorskip("surface_distance")
    found = surface_distance.compute_surface_distances(np.pad(other, 2), np.pad(one, 2), spacing)
    return float(surface_distance.compute_surface_dice_at_tolerance(found, tolerance))


def nsd_by_code(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> float:
    """Surface elements at the corners of voxels by SciPy, their areas from DeepMind's table."""
    tables = pytest.importorskip("surface_distance.lookup_tables")
    areas = tables.create_table_neighbour_code_to_surface_area(np.array(spacing))
    kernel = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]])
    corners = []
    for mask in (one, other):
        wide = np.pad(mask, 2).astype(int)
        code = sum(
            kernel[k, j, i] * np.roll(wide, (-k, -j, -i), (0, 1, 2))
            for k in range(2) for j in range(2) for i in range(2)
        )  # fmt: skip
        at = np.argwhere((code > 0) & (code < 255))
        corners.append((at * spacing, areas[code[tuple(at.T)]]))
    (here, own), (there, theirs) = corners
    near = cKDTree(there).query(here)[0] <= tolerance, cKDTree(here).query(there)[0] <= tolerance
    return float((own[near[0]].sum() + theirs[near[1]].sum()) / (own.sum() + theirs.sum()))


# surface-distance asks SciPy for functions by their old places.
@pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), SPACINGS, st.sampled_from((0.6, 1.3, 2.2)))
def test_surfaces_agree_with_two_others(seed: int, spacing: tuple[float, float, float], tolerance: float) -> None:
    one, other = blob(seed), blob(seed + 1)
    found = compare_surfaces(one, other, spacing, tolerance)
    assert found.nsd == pytest.approx(nsd_by_deepmind(one, other, spacing, tolerance), abs=1e-3)
    assert found.nsd == pytest.approx(nsd_by_code(one, other, spacing, tolerance), abs=1e-3)
    assert found.hd95_mm == pytest.approx(hd95_by_tree(one, other, spacing), abs=0.1 * min(spacing))
    assert found.hd95_mm == pytest.approx(hd95_by_itk(one, other, spacing), abs=0.1 * min(spacing))


@pytest.mark.filterwarnings("ignore:.*scipy.ndimage:DeprecationWarning")
@pytest.mark.parametrize(("seed", "spacing"), [(0, (1.0, 1.0)), (1, (0.7, 2.5)), (2, (2.5, 0.7))])
def test_outlines_of_a_slice_agree_with_two_others(seed: int, spacing: tuple[float, float]) -> None:
    one, other = blob(seed, (24, 30)), blob(seed + 1, (24, 30))
    found = compare_surfaces(one, other, spacing, 1.3)
    assert found.nsd == pytest.approx(nsd_by_deepmind(one, other, spacing, 1.3), abs=1e-3)
    assert found.hd95_mm == pytest.approx(hd95_by_tree(one, other, spacing), abs=0.1 * min(spacing))
    assert found.hd95_mm == pytest.approx(hd95_by_itk(one, other, spacing), abs=0.1 * min(spacing))


@pytest.mark.parametrize("seed", range(4))
def test_dice_agrees_with_two_others(seed: int) -> None:
    one, other = blob(seed), blob(seed + 7)
    measures = sitk.LabelOverlapMeasuresImageFilter()
    measures.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (one, other)))
    assert dice(one, other) == pytest.approx(measures.GetDiceCoefficient(), abs=1e-6)
    surface_distance = pytest.importorskip("surface_distance")
    assert dice(one, other) == pytest.approx(surface_distance.compute_dice_coefficient(other, one), abs=1e-6)


def test_two_cubes_at_a_known_distance() -> None:
    one, other = np.zeros((2, 12, 12, 12), bool)
    one[3:6, 3:6, 3:6] = True
    other[3:6, 3:6, 5:8] = True
    assert compare_surfaces(one, other, (1.0, 1.0, 3.0), 1.0).hd95_mm == pytest.approx(6.0)
    assert compare_surfaces(one, other, (1.0, 1.0, 3.0), 6.0).nsd == 1.0
    assert compare_surfaces(one, one, (1.0, 1.0, 3.0), 0.0) == compare_surfaces(other, other, (1.0, 1.0, 3.0), 0.0)


def test_a_single_slice_has_an_outline() -> None:
    one, other = np.zeros((2, 1, 20, 20), bool)
    one[0, 4:10, 4:10] = other[0, 4:10, 6:12] = True
    in_volume, in_picture = (
        compare_surfaces(a, b, spacing, 1.0)
        for a, b, spacing in ((one, other, (9.0, 1.0, 1.0)), (one[0], other[0], (1.0, 1.0)))
    )
    assert in_volume == in_picture
    assert in_volume.hd95_mm == 2.0
    assert 0.0 < in_volume.nsd < 1.0


def test_empty_masks_have_no_surface() -> None:
    empty, full = np.zeros((4, 5, 6), bool), np.ones((4, 5, 6), bool)
    nothing = compare_surfaces(empty, empty, (1.0, 1.0, 1.0), 1.0)
    assert math.isnan(nothing.nsd) and math.isnan(nothing.hd95_mm)  # noqa: PT018
    for pair in ((empty, full), (full, empty)):
        missed = compare_surfaces(*pair, (1.0, 1.0, 1.0), 1.0)
        assert missed.nsd == 0.0
        assert math.isnan(missed.hd95_mm)


@pytest.mark.parametrize(
    ("shape", "spacing", "tolerance"),
    [((4, 5, 7), (1.0, 1.0, 1.0), 1.0), ((4, 5, 6), (1.0, 1.0), 1.0), ((4, 5, 6), (1.0, 0.0, 1.0), 1.0),
     ((4, 5, 6), (1.0, 1.0, 1.0), -1.0), ((4, 5, 6), (1.0, 1.0, 1.0), math.nan)],
)  # fmt: skip
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        compare_surfaces(np.ones((4, 5, 6), bool), np.ones(shape, bool), spacing, tolerance)


def test_cut_ends_are_no_surface() -> None:
    one, other = np.zeros((2, 3, 20, 20), bool)
    one[:, 4:10, 4:10] = other[:, 4:10, 6:12] = True
    cut = compare_outlines(one, other, (9.0, 1.0, 1.0), 1.0, axis=0)
    assert cut == compare_surfaces(one[0], other[0], (1.0, 1.0), 1.0)
    assert cut.nsd < compare_surfaces(one, other, (9.0, 1.0, 1.0), 1.0).nsd
    nothing = compare_outlines(one & False, other & False, (9.0, 1.0, 1.0), 1.0, axis=0)
    assert math.isnan(nothing.nsd)
