"""From a DICOM series at any place of a patient to SEG and RTSTRUCT and back, by other readers than the writer.

A mask is checked voxel for voxel on the source's slices, by where each voxel lies in the patient: left is left and head
is head, whichever way rows, columns and slices run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK

from MedicalSAM3Lib.contours import fill
from MedicalSAM3Lib.errors import GeometryError, OutputError
from MedicalSAM3Lib.files import check_output, read_volume, write_segmentation
from MedicalSAM3Lib.structures import Segmentation, Volume
from Testing.lib.dicom_worlds import SPACING_MM, known_segmentation, masks_of, series_at
from Testing.lib.file_worlds import rotation

POSITIONS = ("HFS", "HFP", "FFS", "FFP", "HFDR", "HFDL", "FFDR", "FFDL")


def axis_orientations() -> Iterator[np.ndarray]:
    """All 48 ways in which rows, columns and slices can run along the patient's axes, 24 of them reversed stacks."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            yield np.eye(3)[:, order] * signs


ORIENTATIONS = [axes + 0.0 for axes in axis_orientations()]


def seg_masks(path: Path) -> list[dict[tuple[int, ...], set[tuple[int, int]]]]:
    """Of each segment, by pydicom alone: voxels (column, row) by their frame's position in micrometres."""
    data = pydicom.dcmread(path)
    frames = data.pixel_array.reshape(int(data.NumberOfFrames), data.Rows, data.Columns)
    masks: list[dict[tuple[int, ...], set[tuple[int, int]]]] = [{} for _ in data.SegmentSequence]
    for pixels, own in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        number = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = own.PlanePositionSequence[0].ImagePositionPatient
        place = tuple(round(1000 * float(mm)) for mm in position)
        masks[number - 1][place] = {(int(i), int(j)) for j, i in np.argwhere(pixels)}
    return masks


def check_seg_by_highdicom(path: Path, volume: Volume, segmentation: Segmentation) -> None:
    """The volume that highdicom makes of each segment has its voxels where ours lie in the patient."""
    seg = highdicom.seg.segread(path)
    for number, mask in enumerate(masks_of(segmentation), start=1):
        found = seg.get_volume(segment_numbers=[number], combine_segments=True)
        lps = np.argwhere(found.array > 0) @ found.affine[:3, :3].T + found.affine[:3, 3]
        assert_same_points(lps, voxels_lps(volume, mask))


def check_seg_by_simpleitk(path: Path, volume: Volume, segmentation: Segmentation) -> None:
    """SimpleITK reads frames as slices, in their order; the header says where each lies."""
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    data = pydicom.dcmread(path)
    sources = [pydicom.dcmread(source.path, stop_before_pixels=True) for source in volume.dicom]
    heights = {tuple(map(float, source.ImagePositionPatient)): k for k, source in enumerate(sources)}
    masks, seen = masks_of(segmentation), 0
    for pixels, own in zip(array, data.PerFrameFunctionalGroupsSequence, strict=True):
        k = heights[tuple(map(float, own.PlanePositionSequence[0].ImagePositionPatient))]
        number = own.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(pixels > 0, masks[number - 1][k])
        seen += int((pixels > 0).sum())
    assert seen == sum(int(mask.sum()) for mask in masks)


def check_contours(path: Path, volume: Volume, segmentation: Segmentation) -> None:
    """Each point lies within half a voxel of the mask's border, and filled in the patient's frame they are the mask."""
    to_ijk = np.linalg.inv(volume.ijk_to_lps)
    for roi, mask in zip(pydicom.dcmread(path).ROIContourSequence, masks_of(segmentation), strict=True):
        polygons: list[list[np.ndarray]] = [[] for _ in mask]
        for contour in roi.ContourSequence:
            ijk = np.array(contour.ContourData, float).reshape(-1, 3) @ to_ijk[:3, :3].T + to_ijk[:3, 3]
            assert np.abs(ijk[:, 2] - ijk[:, 2].round()).max() < 1e-2
            polygons[round(ijk[0, 2])].append(ijk[:, :2])
            inside = np.argwhere(mask[round(ijk[0, 2])])[:, ::-1]
            nearest = np.abs(ijk[:, None, :2] - inside[None]).max(axis=2).min(axis=1)
            assert nearest.max() < 0.5 + 1e-2
        for k, slice_mask in enumerate(mask):
            np.testing.assert_array_equal(fill(polygons[k], slice_mask.shape), slice_mask)


def voxels_lps(volume: Volume, mask: np.ndarray) -> np.ndarray:
    """Centres of a mask's voxels in the patient, mm ``(N, 3)``."""
    return np.argwhere(mask)[:, ::-1] @ volume.ijk_to_lps[:3, :3].T + volume.ijk_to_lps[:3, 3]


def assert_same_points(found: np.ndarray, expected: np.ndarray) -> None:
    """The same points, in any order, to a hundredth of the smallest spacing."""
    assert found.shape == expected.shape
    distance = np.linalg.norm(found[:, None] - expected[None], axis=2)
    assert distance.min(axis=1).max() < 0.01 * min(SPACING_MM)
    assert len(set(distance.argmin(axis=1).tolist())) == len(expected)


def round_trip(folder: Path, axes: np.ndarray, position: str, *, overlap: bool) -> Volume:
    """Series, known mask, both objects, every reader."""
    volume = series_at(folder / "in", axes, PatientPosition=position)
    segmentation = known_segmentation(volume, overlap=overlap)
    for name in ("a.seg.dcm", "a.rtstruct.dcm"):
        write_segmentation(folder / name, segmentation, volume)
    check_seg_by_highdicom(folder / "a.seg.dcm", volume, segmentation)
    check_seg_by_simpleitk(folder / "a.seg.dcm", volume, segmentation)
    check_contours(folder / "a.rtstruct.dcm", volume, segmentation)
    return volume


@pytest.mark.parametrize("number", range(48))
def test_every_axis_orientation(tmp_path: Path, number: int) -> None:
    axes = ORIENTATIONS[number]
    volume = round_trip(tmp_path, axes, POSITIONS[number % 8], overlap=bool(number % 2))
    # Rows and columns run as in the files; slices are read along the normal, so a reversed stack is turned round.
    direction = volume.ijk_to_lps[:3, :3] / SPACING_MM
    np.testing.assert_allclose(direction[:, :2], axes[:, :2], atol=1e-6)
    np.testing.assert_allclose(direction[:, 2], axes[:, 2] * np.sign(np.linalg.det(axes)), atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_oblique_stacks(tmp_path: Path, seed: int) -> None:
    round_trip(tmp_path, rotation(seed), POSITIONS[seed], overlap=bool(seed % 2))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", range(48))
def test_every_orientation_turned_a_little_in_every_position(tmp_path: Path, number: int, seed: int) -> None:
    left, _, right = np.linalg.svd(ORIENTATIONS[number] + 0.3 * np.random.default_rng(seed).normal(size=(3, 3)))
    round_trip(tmp_path, left @ right, POSITIONS[seed], overlap=bool(seed % 2))


@pytest.mark.parametrize("number", range(0, 48, 5))
def test_left_is_left_and_head_is_head(tmp_path: Path, number: int) -> None:
    """A mask of what lies left of the middle, and above it, is written to the left and above in the patient."""
    volume = series_at(tmp_path / "in", ORIENTATIONS[number], PatientPosition=POSITIONS[number % 8])
    segmentation = known_segmentation(volume, overlap=True)
    lps = voxels_lps(volume, np.ones(volume.shape_kji, bool))
    middle = lps.mean(axis=0)
    sides = [(lps[:, axis] > middle[axis]).reshape(volume.shape_kji) for axis in (0, 2)]
    segmentation = Segmentation(
        tuple(side.astype(np.uint16) for side in sides), volume.ijk_to_lps, segmentation.findings[:2]
    )
    for name in ("a.seg.dcm", "a.rtstruct.dcm"):
        write_segmentation(tmp_path / name, segmentation, volume)
    seg = pydicom.dcmread(tmp_path / "a.seg.dcm")
    row, column = np.array(
        seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, float
    ).reshape(2, 3)
    row_mm, column_mm = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    for segment, axis in zip(seg_masks(tmp_path / "a.seg.dcm"), (0, 2), strict=True):
        for place, pixels in segment.items():
            for i, j in pixels:
                point = np.array(place) / 1000 + i * float(column_mm) * row + j * float(row_mm) * column
                assert point[axis] > middle[axis]
    for roi, axis in zip(pydicom.dcmread(tmp_path / "a.rtstruct.dcm").ROIContourSequence, (0, 2), strict=True):
        points = np.concatenate([np.array(contour.ContourData, float) for contour in roi.ContourSequence])
        assert points.reshape(-1, 3)[:, axis].min() > middle[axis] - 0.5 * max(SPACING_MM)


@pytest.mark.parametrize("axes", [np.eye(3), np.diag([1.0, -1.0, -1.0]), rotation(3)], ids=["feet", "head", "oblique"])
@pytest.mark.parametrize("shift", [(0.0, 0.9, 0.0), (-0.3, 0.5, 0.2)])
def test_a_gantry_tilt_is_equal_on_each_source_slice(
    tmp_path: Path, axes: np.ndarray, shift: tuple[float, float, float]
) -> None:
    shift_lps = tuple(axes @ np.array((shift[0], shift[1], 0.0)))
    with pytest.raises(GeometryError, match=r"a gantry tilt\); write the result as DICOM"):
        series_at(tmp_path / "in", axes, shift_lps)
    notices: list[str] = []
    volume = read_volume(tmp_path / "in", tilted=True, on_notice=notices.append)
    degrees = np.degrees(np.arctan2(np.hypot(*shift[:2]), SPACING_MM[2]))
    assert notices == [f"The slices are tilted by {degrees:.2f} degrees (a gantry tilt): each was looked at as it is."]
    assert volume.is_tilted
    np.testing.assert_allclose(volume.spacing_mm, SPACING_MM, rtol=1e-6)
    segmentation = known_segmentation(volume)
    for name in ("a.seg.dcm", "a.rtstruct.dcm"):
        write_segmentation(tmp_path / name, segmentation, volume)
    sources = [pydicom.dcmread(source.path) for source in volume.dicom]
    places = [tuple(round(1000 * float(mm)) for mm in source.ImagePositionPatient) for source in sources]
    for found, mask in zip(seg_masks(tmp_path / "a.seg.dcm"), masks_of(segmentation), strict=True):
        expected = {
            place: {(int(i), int(j)) for j, i in np.argwhere(slice_mask)}
            for place, slice_mask in zip(places, mask, strict=True)
            if slice_mask.any()
        }
        assert found == expected
    for name in ("a.seg.nrrd", "a.nii.gz"):
        with pytest.raises(OutputError, match="cannot hold slices that do not lie straight above each other"):
            check_output(tmp_path / name, volume=volume)


def test_a_straight_series_is_not_changed_by_asking_for_tilted_ones(tmp_path: Path) -> None:
    straight = series_at(tmp_path / "in", rotation(2))
    asked = read_volume(tmp_path / "in", tilted=True)
    np.testing.assert_array_equal(asked.ijk_to_lps, straight.ijk_to_lps)
    assert not asked.is_tilted
