"""NRRD as the client sends it: voxels and axes come back to the last bit, whoever reads them."""

from __future__ import annotations

import io
from pathlib import Path

import nrrd
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.nrrd_file import storable, write_nrrd

TYPES = ["u1", "i1", "<u2", "<i2", ">i2", "<u4", "<i4", "<u8", "<i8", "<f4", ">f4", "<f8"]


def written(array: np.ndarray, affine: np.ndarray, **more: object) -> bytes:
    file = io.BytesIO()
    write_nrrd(file, array, affine, **more)  # type: ignore[arg-type]
    return file.getvalue()


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[[one, one, other, other], [one, other, one, other]] = [
            np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        ]  # fmt: skip
        turn = turn @ step
    return turn


@given(
    name=st.sampled_from(TYPES),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    angles=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9.0)] * 3),
    flips=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
    origin=st.tuples(*[st.floats(-500.0, 500.0)] * 3),
)
def test_a_volume_comes_back_as_it_was(
    name: str,
    shape: tuple[int, int, int],
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    flips: tuple[float, float, float],
    origin: tuple[float, float, float],
) -> None:
    array = np.random.default_rng(0).integers(0, 100, shape).astype(name)
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) * spacing * flips
    affine[:3, 3] = origin
    data, header = _parsed(written(array, affine))
    assert data.dtype == np.dtype(name).newbyteorder("<")
    assert np.array_equal(data.transpose(), array)
    assert np.array_equal(header["space directions"].T, affine[:3, :3])
    assert np.array_equal(header["space origin"], affine[:3, 3])


def _parsed(raw: bytes) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    file = io.BytesIO(raw)
    header = nrrd.read_header(file)
    return nrrd.read_data(header, file), header


def test_the_library_reads_it_with_its_oblique_axes(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation((0.3, -0.2, 1.0)) * [0.7, 0.7, -2.5]
    affine[:3, 3] = [1.5, -2.25, 99.125]
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    (tmp_path / "x.nrrd").write_bytes(written(array, affine))
    volume = read_volume(tmp_path / "x.nrrd")
    assert np.array_equal(volume.array, array)
    np.testing.assert_allclose(volume.ijk_to_lps, affine, atol=1e-12, rtol=0)


def test_colours_come_back(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3)).astype(np.uint8)
    (tmp_path / "x.nrrd").write_bytes(written(array, np.eye(4), inner="RGB-color"))
    assert np.array_equal(read_volume(tmp_path / "x.nrrd").array, array)


def test_equal_volumes_are_equal_files_and_a_view_is_no_other_volume() -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    whole = written(array, np.eye(4))
    assert whole == written(np.asfortranarray(array), np.eye(4)) == written(array.astype(">i2"), np.eye(4))
    assert whole != written(array[::-1], np.eye(4))


def test_truth_values_and_half_numbers_are_stored_as_what_nrrd_has() -> None:
    assert storable(np.ones((1, 1, 1), bool)).dtype == np.uint8
    assert storable(np.ones((1, 1, 1), np.float16)).dtype == np.float32


@pytest.mark.parametrize(
    ("array", "inner"),
    [
        (np.zeros((2, 2, 2), np.complex64), ""),
        (np.zeros((2, 2), np.uint8), ""),
        (np.zeros((2, 2, 2, 3), np.uint8), ""),
        (np.zeros((2, 2, 2), np.uint8), "list"),
    ],
)
def test_what_is_no_volume_is_refused(array: np.ndarray, inner: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        written(array, np.eye(4), inner=inner)
