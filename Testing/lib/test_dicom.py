"""DICOM: order by position, several series, what is refused, and no patient data in any message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib.errors import GeometryError, InputError
from MedicalSAM3Lib.files import list_series, read_volume
from Testing.lib.file_worlds import rotation, write_dicom, write_series

SECRETS = ("Secret", "secret", "1.2.3")


def refused(path: Path, says: str, error: type[Exception] = InputError, **choice: Any) -> str:
    """Reading fails with this message, which is one line without patient data."""
    with pytest.raises(error, match=says) as caught:
        read_volume(path, **choice)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in SECRETS)
    return message


def test_slices_are_ordered_by_position(tmp_path: Path) -> None:
    stack = write_series(tmp_path / "Secret^Name", [4.0, 0.0, 6.0, 2.0, 8.0])
    volume = read_volume(tmp_path / "Secret^Name")
    np.testing.assert_array_equal(volume.array, stack)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.ijk_to_lps, np.diag([0.75, 0.5, 2.0, 1.0]))
    assert (volume.modality, volume.is_2d, volume.name) == ("CT", False, "CT series")


def test_an_oblique_series_lies_where_its_header_says(tmp_path: Path) -> None:
    axes = rotation(1)
    axes *= np.sign(np.linalg.det(axes))
    for k in range(4):
        write_dicom(
            tmp_path / f"{9 - k}.dcm",
            np.full((3, 5), k, np.int16),
            ImageOrientationPatient=[*axes[:, 0], *axes[:, 1]],
            ImagePositionPatient=list(np.array([5.0, 6.0, 7.0]) + axes[:, 2] * 2.5 * k),
        )
    volume = read_volume(tmp_path)
    assert volume.array[:, 0, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(volume.ijk_to_lps[:3, :3], axes * (0.75, 0.5, 2.5), atol=1e-6)
    np.testing.assert_allclose(volume.ijk_to_lps[:3, 3], (5.0, 6.0, 7.0), atol=1e-6)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    for k, (slope, intercept) in enumerate([(1, -1024), (0.5, 3), (2, 0)]):
        values = {"RescaleSlope": slope, "RescaleIntercept": intercept, "ImagePositionPatient": [0, 0, k]}
        write_dicom(tmp_path / f"{k}", np.full((2, 2), -10, np.int16), **values)
    assert read_volume(tmp_path).array[:, 0, 0].tolist() == [-1034.0, -2.0, -20.0]


def test_monochrome1_is_shown_with_bright_as_high(tmp_path: Path) -> None:
    pixels = np.array([[0, 100], [200, 255]], np.uint8)
    values = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    dark = read_volume(write_dicom(tmp_path / "a", pixels, PhotometricInterpretation="MONOCHROME1", **values))
    light = read_volume(write_dicom(tmp_path / "b", pixels, **values))
    np.testing.assert_array_equal(light.array[0], pixels)
    np.testing.assert_array_equal(dark.array[0], 255 - pixels)


def test_a_single_file_is_a_picture_in_its_place(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "Secret", np.arange(12, dtype=np.int16).reshape(3, 4), ImagePositionPatient=[1, 2, 3])
    volume = read_volume(path)
    assert volume.is_2d
    assert volume.name == "CT series"
    assert volume.array.shape == (1, 3, 4)
    np.testing.assert_array_equal(volume.ijk_to_lps[:3, 3], (1, 2, 3))
    assert volume.spacing_mm == (0.75, 0.5, 2.0)


def test_a_radiograph_without_position_has_its_pixel_size(tmp_path: Path) -> None:
    values = {"ImageOrientationPatient": None, "ImagePositionPatient": None, "PixelSpacing": None, "Modality": "DX"}
    path = write_dicom(tmp_path / "a", np.zeros((3, 4), np.int16), ImagerPixelSpacing=[0.2, 0.1], **values)
    assert read_volume(path).spacing_mm == (0.1, 0.2, 2.0)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_are_0_to_255(tmp_path: Path, bits: int) -> None:
    full = 2**bits - 1
    pixels = np.array([[[full, 0, 0], [0, full, full]]], f"u{bits // 8}")
    values = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0}
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0, "Rows": 1}
    path = write_dicom(tmp_path / "a", pixels, Columns=2, **values, **colour)
    np.testing.assert_array_equal(read_volume(path).array[0, 0], [[255, 0, 0], [0, 255, 255]])


def test_several_series_are_listed_and_one_is_taken(tmp_path: Path) -> None:
    write_series(tmp_path / "a", [0, 2, 4])
    stack = write_series(tmp_path / "b", [0, 3], SeriesNumber=7, SeriesInstanceUID="1.2.3.7", Modality="MR")
    message = refused(tmp_path, "got 2; choose with series=")
    assert "#1 number 4: CT 3 images 3 x 4, 0.50 x 0.75 x 2.00 mm" in message
    assert "#2 number 7: MR 2 images 3 x 4, 0.50 x 0.75 x 3.00 mm" in message
    assert [(series.number, series.num_images) for series in list_series(tmp_path)] == [(4, 3), (7, 2)]
    for choice in (7, "7", "#2"):
        np.testing.assert_array_equal(read_volume(tmp_path, series=choice).array, stack)
    refused(tmp_path, "got 0 for '9' of 2", series=9)
    refused(tmp_path, "got 0 for '#3' of 2", series="#3")


def test_series_of_one_number_are_told_apart_by_place(tmp_path: Path) -> None:
    write_series(tmp_path / "a", [0, 2, 4])
    write_series(tmp_path / "b", [0, 3], SeriesInstanceUID="1.2.3.7")
    refused(tmp_path, "got 2 for '4' of 2", series=4)
    assert read_volume(tmp_path, series="#2").array.shape[0] == 2


def test_a_scout_in_the_same_series_counts_as_another(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2, 4])
    write_dicom(tmp_path / "scout", np.zeros((3, 4), np.int16), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    refused(tmp_path, "got 2; choose")


def test_many_series_are_not_all_listed(tmp_path: Path) -> None:
    for number in range(14):
        write_dicom(tmp_path / f"{number}", np.zeros((3, 4), np.int16), SeriesInstanceUID=f"1.2.3.{number}")
    assert refused(tmp_path, "got 14").endswith("and 2 more.")


def test_frames_at_the_same_places_must_be_picked(tmp_path: Path) -> None:
    for time in range(3):
        for k in range(4):
            values = {"ImagePositionPatient": [0, 0, 2 * k], "AcquisitionNumber": 3 - time}
            write_dicom(tmp_path / f"{time}-{k}", np.full((2, 2), 10 * (3 - time) + k, np.int16), **values)
    refused(tmp_path, "got 3 frames; pick one")
    assert read_volume(tmp_path, frame=1).array[:, 0, 0].tolist() == [20, 21, 22, 23]


def test_copies_of_a_file_are_left_out_with_a_notice(tmp_path: Path) -> None:
    stack = write_series(tmp_path, [0, 2, 4])
    first = sorted(tmp_path.iterdir())[0]
    (tmp_path / "copy").write_bytes(first.read_bytes())
    notices: list[str] = []
    np.testing.assert_array_equal(read_volume(tmp_path, on_notice=notices.append).array, stack)
    assert notices == ["1 files are copies of others in the series and were left out."]


@pytest.mark.parametrize(
    ("heights", "says"),
    [
        ([0, 2, 4, 8, 10], "gap of 4.00 mm after slice 3 of 5: slices are missing"),
        ([0, 2, 4.5, 6, 8], "evenly spaced slices, got steps from 1.50 to 2.50 mm"),
        ([0, 2, 2, 4], "got 1 of 3 more than once"),
    ],
)
def test_slices_out_of_step_are_refused(tmp_path: Path, heights: list[float], says: str) -> None:
    write_series(tmp_path, heights)
    refused(tmp_path, says)


def test_rounded_positions_are_read_with_a_notice(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2.05, 4, 6])
    notices: list[str] = []
    assert read_volume(tmp_path, on_notice=notices.append).spacing_mm[2] == 2.0
    assert "uneven by up to 0.050 mm" in notices[0]


def test_a_gantry_tilt_is_refused(tmp_path: Path) -> None:
    for k in range(4):
        write_dicom(tmp_path / f"{k}", np.zeros((2, 2), np.int16), ImagePositionPatient=[0, 0.5 * k, 2 * k])
    refused(tmp_path, "sheared by 14.04 degrees .a gantry tilt", GeometryError)


def test_several_images_without_position_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2], ImagePositionPatient=None, ImageOrientationPatient=None)
    refused(tmp_path, "got 2 images without")


def test_a_multi_frame_file_asks_for_a_frame(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    path = write_dicom(
        tmp_path / "a", pixels, NumberOfFrames=2, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3", Modality="OT"
    )
    refused(path, "got 2 frames in one file .* pick one with frame=")
    np.testing.assert_array_equal(read_volume(path, frame=1).array[0], pixels[1])
    write_dicom(tmp_path / "b", pixels, NumberOfFrames=2)
    refused(tmp_path, "got 2 multi-frame files")


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "got 0 files")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "got 1 file, and none is one")
    with pytest.raises(InputError, match="not a folder"):
        list_series(tmp_path / "notes.txt")


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    stack = write_series(tmp_path, [0, 2, 4])
    report = write_dicom(tmp_path / "report", np.zeros((1, 1), np.int16), Rows=None, Columns=None, Modality="SR")
    np.testing.assert_array_equal(read_volume(tmp_path).array, stack)
    refused(report, "a DICOM file without one")


def test_truncated_pixels_are_refused_without_noise(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_dicom(tmp_path / "a", np.zeros((64, 64), np.int16))
    path.write_bytes(path.read_bytes()[:-3000])
    refused(path, "truncated")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "JPEGLSNearLossless_08.dcm", "JPGExtended.dcm", "image_dfl.dcm"],
)
def test_compressed_files_are_decoded(name: str) -> None:
    from pydicom.data import get_testdata_file

    volume = read_volume(str(get_testdata_file(name, download=False)))
    assert volume.array.max() > volume.array.min()
    if name.startswith("MR_small"):
        plain = read_volume(str(get_testdata_file("MR_small.dcm", download=False)))
        np.testing.assert_array_equal(volume.array, plain.array)
