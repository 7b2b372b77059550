"""Enhanced DICOM objects: a volume in one file, each frame where its functional groups say, with its own rescale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.files import list_series, read_volume, write_segmentation
from MedicalSAM3Lib.structures import Finding, Segmentation
from Testing.lib.dicom_worlds import PATIENT
from Testing.lib.file_worlds import counting, write_dicom

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


def item(**values: Any) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def groups_at(height: float, *, orientation: Sequence[float] | None = None, **groups: Dataset) -> Dataset:
    """Functional groups of a frame at a height, with its own orientation where one is given."""
    own = item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, height])])
    if orientation is not None:
        own.PlaneOrientationSequence = [item(ImageOrientationPatient=list(orientation))]
    for name, value in groups.items():
        setattr(own, name, [value])
    return own


def write_enhanced(
    path: Path, frames: Sequence[Dataset], pixels: np.ndarray | None = None, **values: Any
) -> np.ndarray:
    """Write an enhanced MR whose frames have these groups; shared are the spacing and, unless all have it, the axes."""
    pixels = counting((len(frames), 3, 4)).astype(np.int16) if pixels is None else pixels
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.75], SliceThickness=2.0)])
    if not all("PlaneOrientationSequence" in own for own in frames):
        shared.PlaneOrientationSequence = [item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    at_the_top = ("PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope",
                  "RescaleIntercept")  # fmt: skip
    header = {
        **PATIENT,
        **dict.fromkeys(at_the_top),
        "SOPClassUID": ENHANCED_MR,
        "Modality": "MR",
        "NumberOfFrames": len(frames),
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": list(frames),
        **values,
    }
    write_dicom(path, pixels, **header)
    return pixels


def test_frames_are_ordered_by_position_and_rescaled_each_by_its_own(tmp_path: Path) -> None:
    heights, slopes = [4.0, 0.0, 2.0], [1.0, 2.0, 0.5]
    frames = [
        groups_at(height, PixelValueTransformationSequence=item(RescaleSlope=slope, RescaleIntercept=-height))
        for height, slope in zip(heights, slopes, strict=True)
    ]
    pixels = write_enhanced(tmp_path / "in", frames)
    expected = (pixels * np.array(slopes)[:, None, None] - np.array(heights)[:, None, None])[[1, 2, 0]]
    for path in (tmp_path / "in", tmp_path):
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.array, expected)
        np.testing.assert_array_equal(volume.ijk_to_lps, np.diag([0.75, 0.5, 2.0, 1.0]))
        assert (volume.is_2d, volume.modality) == (False, "MR")


@pytest.mark.parametrize(("signed", "expected"), [(False, [[4095, 3995]]), (True, [[-1, -101]])])
def test_monochrome1_is_shown_with_bright_as_high(tmp_path: Path, signed: bool, expected: list[list[int]]) -> None:
    pixels = np.array([[[0, 100]]], np.int16)
    stored = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    write_enhanced(tmp_path / "in", [groups_at(0)], pixels, PhotometricInterpretation="MONOCHROME1", **stored)
    np.testing.assert_array_equal(read_volume(tmp_path / "in").array[0], expected)


def test_volumes_of_several_b_values_are_told_apart(tmp_path: Path) -> None:
    frames = [groups_at(height, MRDiffusionSequence=item(DiffusionBValue=b)) for height in (2, 0) for b in (800.0, 0.0)]
    pixels = write_enhanced(tmp_path / "in", frames)
    with pytest.raises(InputError, match=r"got 2 frames \(b-value 0, 800\); pick one"):
        read_volume(tmp_path / "in")
    np.testing.assert_array_equal(read_volume(tmp_path / "in", frame=0).array, pixels[[3, 1]])
    np.testing.assert_array_equal(read_volume(tmp_path, frame=1).array, pixels[[2, 0]])


def test_stacks_of_several_orientations_are_told_apart(tmp_path: Path) -> None:
    frames = [groups_at(height, orientation=(1, 0, 0, 0, 1, 0)) for height in (0, 2, 4)]
    frames.append(groups_at(0, orientation=(1, 0, 0, 0, 0, -1)))
    pixels = write_enhanced(tmp_path / "in", frames)
    with pytest.raises(InputError, match="Expected one DICOM series, got 2; choose with series="):
        read_volume(tmp_path / "in")
    np.testing.assert_array_equal(read_volume(tmp_path / "in", series="#1").array, pixels[:3])
    assert read_volume(tmp_path / "in", series="#2").is_2d
    assert [series.num_images for series in list_series(tmp_path)] == [3, 1]


def test_a_volume_may_lie_in_several_enhanced_files(tmp_path: Path) -> None:
    first = write_enhanced(tmp_path / "a", [groups_at(height) for height in (6, 2)])
    second = write_enhanced(tmp_path / "b", [groups_at(height) for height in (0, 4)])
    np.testing.assert_array_equal(read_volume(tmp_path).array, [second[0], first[1], second[1], first[0]])


def test_frames_missing_are_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in", [groups_at(height) for height in (0, 2, 6, 8)])
    with pytest.raises(InputError, match=r"gap of 4.00 mm after slice 2 of 4"):
        read_volume(tmp_path / "in")


def test_frames_without_position_are_pictures(tmp_path: Path) -> None:
    frames = [groups_at(0), item()]
    pixels = write_enhanced(tmp_path / "in", frames)
    with pytest.raises(InputError, match="got 2 frames in one file"):
        read_volume(tmp_path / "in")
    np.testing.assert_array_equal(read_volume(tmp_path / "in", frame=1).array[0], pixels[1])


def test_damaged_frames_are_refused(tmp_path: Path) -> None:
    write_enhanced(tmp_path / "in", [groups_at(height) for height in (0, 2)])
    (tmp_path / "in").write_bytes((tmp_path / "in").read_bytes()[:-30])
    with pytest.raises(InputError, match="Expected complete frames"):
        read_volume(tmp_path / "in")


def test_compressed_frames_are_decoded(tmp_path: Path) -> None:
    pixels = write_enhanced(tmp_path / "in", [groups_at(height) for height in (2, 0)])
    data = pydicom.dcmread(tmp_path / "in")
    data.compress(pydicom.uid.RLELossless)
    data.save_as(tmp_path / "in")
    np.testing.assert_array_equal(read_volume(tmp_path / "in").array, pixels[::-1])


@pytest.mark.parametrize("own_axes", [False, True])
@pytest.mark.parametrize("name", ["a.seg.dcm", "a.labelmap.dcm", "a.rtstruct.dcm"])
def test_results_refer_to_the_frames_of_their_volume(tmp_path: Path, name: str, own_axes: bool) -> None:
    """Of two b-values in one file, the second: frames 1, 3 and 5 of the file, which are slices 2, 1 and 0."""
    orientation = (1, 0, 0, 0, 1, 0) if own_axes else None
    frames = [
        groups_at(height, orientation=orientation, MRDiffusionSequence=item(DiffusionBValue=b))
        for height in (4, 2, 0)
        for b in (800.0, 0.0)
    ]
    write_enhanced(tmp_path / "in", frames)
    volume = read_volume(tmp_path / "in", frame=1)
    layer = np.zeros(volume.shape_kji, np.uint16)
    layer[0, 1:, 1:3] = layer[2, 0, 0] = 1
    segmentation = Segmentation((layer,), volume.ijk_to_lps, (Finding("lesion", "found", layer=0, label=1),))
    write_segmentation(tmp_path / name, segmentation, volume)
    data = pydicom.dcmread(tmp_path / name)
    if data.Modality == "RTSTRUCT":
        images = [contour.ContourImageSequence[0] for contour in data.ROIContourSequence[0].ContourSequence]
        series = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        assert [image.ReferencedFrameNumber for image in series.ContourImageSequence] == [5, 3, 1]
    else:
        images = [
            own.DerivationImageSequence[0].SourceImageSequence[0] for own in data.PerFrameFunctionalGroupsSequence
        ]
    assert sorted(int(image.ReferencedFrameNumber) for image in images) == [1, 5]


def test_a_volume_of_several_enhanced_files_has_contours_and_no_seg(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, heights in (("a", (6, 2)), ("b", (0, 4))):
        write_enhanced(tmp_path / "in" / name, [groups_at(height) for height in heights])
    volume = read_volume(tmp_path / "in")
    layer = np.zeros(volume.shape_kji, np.uint16)
    layer[:, 1, 1] = 1
    segmentation = Segmentation((layer,), volume.ijk_to_lps, (Finding("lesion", "found", layer=0, label=1),))
    write_segmentation(tmp_path / "a.rtstruct.dcm", segmentation, volume)
    with pytest.raises(OutputError, match="got a volume of several enhanced files"):
        write_segmentation(tmp_path / "a.seg.dcm", segmentation, volume)
    assert not (tmp_path / "a.seg.dcm").exists()
