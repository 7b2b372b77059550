"""NIfTI: header, affine and voxels against nibabel, and every kind of damage."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.nifti import parse_header, read_nifti
from Testing.lib.file_worlds import RAS_TO_LPS, affines, counting


def save(path: Path, array_kji: np.ndarray, ras: np.ndarray | None, kind: Any = None, **header: Any) -> Path:
    image = (kind or nib.Nifti1Image)(array_kji.T, ras)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@given(matrix=affines(), big_endian=st.booleans(), second=st.booleans(), gz=st.booleans())
@settings(max_examples=25, deadline=None)
def test_volume_and_affine_as_nibabel_reads_them(
    tmp_path_factory: pytest.TempPathFactory, matrix: np.ndarray, big_endian: bool, second: bool, gz: bool
) -> None:
    path = tmp_path_factory.mktemp("nifti") / ("x.nii.gz" if gz else "x.nii")
    kind = nib.Nifti2Image if second else nib.Nifti1Image
    header = kind.header_class(endianness=">" if big_endian else "<")
    array = counting((3, 4, 5))
    nib.save(kind(array.T, RAS_TO_LPS @ matrix, header), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.ijk_to_lps, RAS_TO_LPS @ nib.load(path).affine)
    assert (volume.name, volume.modality, volume.is_2d) == ("x", "", False)


@given(matrix=affines())
@settings(max_examples=25, deadline=None)
def test_the_qform_is_read_where_there_is_no_sform(
    tmp_path_factory: pytest.TempPathFactory, matrix: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("nifti") / "x.nii"
    image = nib.Nifti1Image(counting((2, 3, 4)).T, None)
    image.set_qform(RAS_TO_LPS @ matrix, code=1)
    nib.save(image, path)
    np.testing.assert_allclose(read_volume(path).ijk_to_lps, matrix, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_every_voxel_type(tmp_path: Path, dtype: str) -> None:
    array = counting((2, 3, 4)).astype(dtype)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "x.nii", array, np.eye(4))).array, array)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", counting((2, 3, 4)).astype(np.int16), np.eye(4))
    data = bytearray(path.read_bytes())
    struct.pack_into("<2f", data, 112, 2.0, -1024.0)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_volume(path).array, counting((2, 3, 4)) * 2 - 1024)


def test_units_of_metres_become_millimetres(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", counting((2, 3, 4)), np.diag([0.001, 0.002, 0.003, 1.0]), xyzt_units=1)
    assert read_volume(path).spacing_mm == pytest.approx((1.0, 2.0, 3.0))


def test_no_orientation_is_said(tmp_path: Path) -> None:
    notices: list[str] = []
    path = save(tmp_path / "x.nii", counting((2, 3, 4)), None, pixdim=[1, 2, 3, 4, 1, 1, 1, 1])
    volume = read_volume(path, on_notice=notices.append)
    assert volume.spacing_mm == (2.0, 3.0, 4.0)
    assert "no orientation" in notices[0]


def test_colour_volume(tmp_path: Path) -> None:
    rgb = np.zeros((4, 3, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"], rgb["B"] = 200, 7
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "x.nii")
    volume = read_volume(tmp_path / "x.nii")
    assert volume.array.shape == (2, 3, 4, 3)
    assert volume.array[0, 0, 0].tolist() == [200, 0, 7]


def test_a_frame_of_4d_must_be_picked(tmp_path: Path) -> None:
    array = counting((5, 2, 3, 4))
    path = save(tmp_path / "x.nii.gz", array, np.eye(4))
    with pytest.raises(InputError, match=r"5 frames; pick one with frame= \(--frame\), 0 to 4"):
        read_volume(path)
    with pytest.raises(InputError, match="0 to 4, got 5"):
        read_volume(path, frame=5)
    np.testing.assert_array_equal(read_volume(path, frame=3).array, array[3])


def test_a_plane_is_2d(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "x.nii", counting((3, 4)), np.eye(4)))
    assert volume.is_2d
    assert volume.array.shape == (1, 3, 4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = save(tmp_path / f"x{suffix}", noise, np.eye(4))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"truncated|damaged header"):
        read_volume(path)


def test_damage_in_the_middle_of_a_gzip_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)), np.eye(4))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read_volume(path)


def test_a_header_that_promises_more_than_memory_is_refused_before_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", counting((2, 3, 4)), np.eye(4))
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<4h", data, 40, 3, 30000, 30000, 30000)
    path.write_bytes(gzip.compress(data))
    with pytest.raises(InputError, match=r"promises 30000 x 30000 x 30000 values, which need 216,000.0 GB"):
        read_volume(path)


@pytest.mark.parametrize(
    ("offset", "format_", "values", "says"),
    [
        (0, "<i", (7,), "another format"),
        (344, "<4s", (b"ni1\0",), "another format"),
        (40, "<h", (0,), "sizes of at least 1"),
        (42, "<h", (-3,), "sizes of at least 1"),
        (70, "<h", (32,), "datatype 32"),
        (108, "<f", (float("nan"),), "damaged"),
        (108, "<f", (0.0,), "damaged"),
    ],
)
def test_a_damaged_header_is_refused(
    tmp_path: Path, offset: int, format_: str, values: tuple[Any, ...], says: str
) -> None:
    data = bytearray(save(tmp_path / "x.nii", counting((2, 3, 4)), np.eye(4)).read_bytes())
    struct.pack_into(format_, data, offset, *values)
    with pytest.raises(InputError, match=says):
        parse_header(bytes(data[:540]))


def test_text_with_a_nifti_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.nii.gz"
    path.write_text("not a gzip file")
    with pytest.raises(InputError, match="truncated or damaged"):
        read_nifti(path)
