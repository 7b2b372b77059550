"""DICOM series that are not as they should be, and other images: each is handled or refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.files import list_series, read_volume, write_segmentation
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume
from Testing.lib.file_worlds import write_dicom, write_series


def one_voxel_each(volume: Volume) -> Segmentation:
    layer = np.zeros(volume.shape_kji, np.uint16)
    layer[:, 1, 2] = 1
    return Segmentation((layer,), volume.ijk_to_lps, (Finding("lesion", "found", layer=0, label=1),))


def test_slices_of_one_identifier_are_all_read_and_cannot_be_referred_to(tmp_path: Path) -> None:
    """Some tools that remove personal data give all images one identifier."""
    stack = write_series(tmp_path / "in", [0, 4, 2], SOPInstanceUID="1.2.3.5", FrameOfReferenceUID="1.2.3.9")
    volume = read_volume(tmp_path / "in")
    np.testing.assert_array_equal(volume.array, stack)
    with pytest.raises(OutputError, match=r"Expected an identifier .SOPInstanceUID. of its own for each slice"):
        write_segmentation(tmp_path / "a.seg.dcm", one_voxel_each(volume), volume)


def test_cosines_that_jitter_about_a_rounding_are_one_orientation(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(5):
        angle = np.arcsin(0.0050 + (-1) ** k * 2e-5)
        cosines = [np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0]
        place = {"ImageOrientationPatient": [f"{cosine:.6f}" for cosine in cosines], "ImagePositionPatient": [0, 0, k]}
        write_dicom(folder / str(k), np.full((3, 4), k, np.int16), FrameOfReferenceUID="1.2.3.9", **place)
    volume = read_volume(folder)
    assert volume.array[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    write_segmentation(tmp_path / "a.seg.dcm", one_voxel_each(volume), volume)
    assert pydicom.dcmread(tmp_path / "a.seg.dcm").NumberOfFrames == 5


def test_orientations_that_differ_are_stacks_of_their_own(tmp_path: Path) -> None:
    """Three planes of a localizer in one series, and a fourth image that is turned by a degree."""
    turned = [np.cos(np.radians(1)), np.sin(np.radians(1)), 0, -np.sin(np.radians(1)), np.cos(np.radians(1)), 0]
    planes = {"axial": [1, 0, 0, 0, 1, 0], "coronal": [1, 0, 0, 0, 0, -1], "sagittal": [0, 1, 0, 0, 0, -1]}
    for name, cosines in {**planes, "turned": [f"{cosine:.6f}" for cosine in turned]}.items():
        write_dicom(tmp_path / name, np.zeros((3, 4), np.int16), ImageOrientationPatient=cosines)
    assert len(list_series(tmp_path)) == 4


def test_volumes_of_several_b_values_are_told_apart(tmp_path: Path) -> None:
    # Acquired b by b, each from another end, so that instance numbers alone would mix them.
    for number, (b, k) in enumerate(
        [(0, 0), (0, 1), (0, 2), (800, 2), (800, 1), (800, 0), (400, 0), (400, 1), (400, 2)]
    ):
        values = {"DiffusionBValue": float(b), "ImagePositionPatient": [0, 0, k], "InstanceNumber": number}
        write_dicom(tmp_path / str(number), np.full((2, 2), b + k, np.int16), Modality="MR", **values)
    with pytest.raises(InputError, match=r"got 3 frames \(b-value 0, 400, 800\); pick one"):
        read_volume(tmp_path)
    assert read_volume(tmp_path, frame=1).array[:, 0, 0].tolist() == [400, 401, 402]
    assert read_volume(tmp_path, frame=2).array[:, 0, 0].tolist() == [800, 801, 802]


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("TemporalPositionIdentifier", [1, 2, 3], r"\(time 1, 2, 3\)"),
        ("EchoTime", [4.6, 2.3], r"\(echo time in ms 2.3, 4.6\)"),
        ("TemporalPositionIdentifier", list(range(1, 21)), r"\(time 1, .*12, ...\)"),
        ("TriggerTime", [0.0, 50.0], r"got 2 frames;"),
    ],
)
def test_times_and_echoes_are_named(tmp_path: Path, name: str, values: list[Any], says: str) -> None:
    for number, value in enumerate(values):
        for k in range(2):
            place = {"ImagePositionPatient": [0, 0, k], name: value}
            write_dicom(tmp_path / f"{number}-{k}", np.full((2, 2), number, np.int16), Modality="MR", **place)
    with pytest.raises(InputError, match=says):
        read_volume(tmp_path)
    least = int(np.argmin(values))
    assert set(read_volume(tmp_path, frame=0).array.ravel().tolist()) == {least}


def test_several_b_values_that_make_no_whole_volumes_are_refused(tmp_path: Path) -> None:
    for k, b_values in enumerate([(0, 400), (0, 800)]):
        for b in b_values:
            values = {"DiffusionBValue": float(b), "ImagePositionPatient": [0, 0, k]}
            write_dicom(tmp_path / f"{k}-{b}", np.zeros((2, 2), np.int16), **values)
    with pytest.raises(InputError, match="Expected the same times, b-values and echoes at each slice position"):
        read_volume(tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"ImagePositionPatient": None}, "got 3 images without"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "got 3 images without"),
    ],
)
def test_slices_without_a_place_are_refused(tmp_path: Path, values: dict[str, Any], says: str) -> None:
    write_series(tmp_path, [0, 2, 4], **values)
    with pytest.raises(InputError, match=says):
        read_volume(tmp_path)


def test_a_slice_that_lost_its_place_is_not_forgotten(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2, 4])
    write_dicom(tmp_path / "lost", np.zeros((3, 4), np.int16), ImagePositionPatient=None)
    with pytest.raises(InputError, match="got 4 images without"):
        read_volume(tmp_path)


def test_a_file_whose_header_is_damaged_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    stack = write_series(tmp_path, [0, 2, 4, 6])
    top = next(path for path in tmp_path.iterdir() if pydicom.dcmread(path).ImagePositionPatient[2] == 6)
    data, place = top.read_bytes(), b"\\0.0\\6.0"
    assert data.count(place) == 1
    top.write_bytes(data.replace(place, b"\\0.0\\x.0"))
    notices: list[str] = []
    np.testing.assert_array_equal(read_volume(tmp_path, on_notice=notices.append).array, stack[:3])
    assert notices == ["1 DICOM files have a damaged header and were left out."]


def test_a_distance_that_is_negative_does_not_turn_a_picture_round(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a", np.zeros((3, 4), np.int16), SpacingBetweenSlices=-3.0)
    np.testing.assert_array_equal(read_volume(path).ijk_to_lps, np.diag([0.75, 0.5, 3.0, 1.0]))


def test_monochrome1_is_turned_within_its_stored_bits_and_then_rescaled(tmp_path: Path) -> None:
    values = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "RescaleSlope": 2, "RescaleIntercept": 3}
    path = write_dicom(
        tmp_path / "a", np.array([[0, 100]], np.uint16), PhotometricInterpretation="MONOCHROME1", **values
    )
    assert read_volume(path).array.ravel().tolist() == [8193.0, 7993.0]


PHOTOGRAPHS = [
    "SC_rgb_dcmtk_+eb+cy+np.dcm",  # YBR_FULL_422, JPEG
    "SC_rgb_jpeg_dcmtk.dcm",  # YBR_FULL, JPEG
    "SC_rgb_dcmtk_+eb+cr.dcm",  # RGB, JPEG
    "SC_ybr_full_422_uncompressed.dcm",
    "examples_jpeg2k.dcm",  # YBR_RCT, JPEG 2000
    "SC_rgb_jls_lossy_line.dcm",  # JPEG-LS
    "SC_rgb_rle.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_colour_photographs_have_their_colours_however_stored(name: str) -> None:
    path = get_testdata_file(name, download=False)
    volume = read_volume(str(path))
    assert volume.is_2d
    np.testing.assert_allclose(volume.array[0], pydicom.dcmread(str(path)).pixel_array, atol=2)


def test_a_palette_is_looked_up_in_pictures_and_in_series(tmp_path: Path) -> None:
    colours = np.zeros((3, 256), np.uint8)
    colours[:, 7] = 200, 100, 50
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", "BitsAllocated": 8, "BitsStored": 8}
    for colour, table in zip(("Red", "Green", "Blue"), colours, strict=True):
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{colour}PaletteColorLookupTableData"] = (table.astype(np.uint16) * 257).tobytes()
    palette.update(HighBit=7, PixelRepresentation=0, RescaleSlope=None, RescaleIntercept=None)
    for k in range(2):
        pixels = np.array([[7, 0], [0, 7]], np.uint8)
        write_dicom(tmp_path / str(k), pixels, **palette, ImagePositionPatient=[0, 0, k])
    volume = read_volume(tmp_path)
    assert volume.array.shape == (2, 2, 2, 3)
    assert volume.array[1, 0].tolist() == [[200, 100, 50], [0, 0, 0]]


@pytest.mark.parametrize("name", ["MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_other_transfer_syntaxes_hold_the_same_picture(name: str) -> None:
    plain = read_volume(str(get_testdata_file("MR_small.dcm", download=False)))
    np.testing.assert_array_equal(read_volume(str(get_testdata_file(name, download=False))).array, plain.array)


@pytest.mark.parametrize("name", ["a.seg.dcm", "a.rtstruct.dcm"])
def test_a_single_image_has_its_result_too(tmp_path: Path, name: str) -> None:
    path = write_dicom(tmp_path / "in", np.zeros((8, 8), np.int16), FrameOfReferenceUID="1.2.3.9")
    volume = read_volume(path)
    write_segmentation(tmp_path / name, one_voxel_each(volume), volume)
    assert pydicom.dcmread(tmp_path / name).Modality == name.split(".")[1].upper()
