"""NRRD and MetaImage: exact geometry, frames, colours, damage, and a quiet screen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib.errors import GeometryError, InputError
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.outputs import set_affine
from Testing.lib.file_worlds import affine, affines, counting, rotation, shapes_kji


def save(path: Path, array: np.ndarray, matrix: np.ndarray | None = None, *, vector: bool = False) -> Path:
    image = SimpleITK.GetImageFromArray(array, isVector=vector)
    if matrix is not None:
        set_affine(image, matrix)
    SimpleITK.WriteImage(image, str(path))
    return path


@given(matrix=affines(), shape=shapes_kji, suffix=st.sampled_from([".nrrd", ".mha"]))
@settings(max_examples=40, deadline=None)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, matrix: np.ndarray, shape: tuple[int, int, int], suffix: str
) -> None:
    path = save(tmp_path_factory.mktemp("itk") / f"x{suffix}", counting(shape), matrix)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, counting(shape))
    np.testing.assert_allclose(volume.ijk_to_lps, matrix, rtol=1e-6, atol=1e-6)
    assert volume.name == "x"


def test_a_right_anterior_superior_nrrd_comes_as_lps(tmp_path: Path) -> None:
    import nrrd

    header = {
        "space": "right-anterior-superior",
        "space directions": [[1, 0, 0], [0, 2, 0], [0, 0, -3]],
        "space origin": [10, 20, 30],
    }
    nrrd.write(str(tmp_path / "x.nrrd"), counting((2, 3, 4)).T, header)
    volume = read_volume(tmp_path / "x.nrrd")
    np.testing.assert_array_equal(volume.ijk_to_lps[:3], [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, -3, 30]])
    np.testing.assert_array_equal(volume.array, counting((2, 3, 4)))


def test_a_sheared_nrrd_is_refused(tmp_path: Path) -> None:
    import nrrd

    header = {
        "space": "left-posterior-superior",
        "space directions": [[1, 0, 0], [0.2, 1, 0], [0, 0, 1]],
        "space origin": [0, 0, 0],
    }
    nrrd.write(str(tmp_path / "x.nrrd"), counting((2, 3, 4)).T, header)
    with pytest.raises(GeometryError, match=r"sheared by 11.31 degrees"):
        read_volume(tmp_path / "x.nrrd")


def test_an_nrrd_off_by_rounding_is_repaired_with_a_notice(tmp_path: Path) -> None:
    notices: list[str] = []
    matrix = affine(rotation(3).round(3), (1.0, 2.0, 3.0), (1.0, 2.0, 3.0))
    read_volume(save(tmp_path / "x.nrrd", counting((2, 3, 4)), matrix), on_notice=notices.append)
    assert len(notices) == 1
    assert "repaired" in notices[0]


def test_a_frame_of_4d_must_be_picked(tmp_path: Path) -> None:
    array = counting((5, 2, 3, 4))
    path = save(tmp_path / "x.nrrd", array)
    with pytest.raises(InputError, match="got 5 frames"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, frame=3).array, array[3])
    np.testing.assert_array_equal(read_volume(path, frame=3).ijk_to_lps, np.eye(4))


def test_one_value_of_a_vector_must_be_picked(tmp_path: Path) -> None:
    array = counting((2, 3, 4, 6))
    path = save(tmp_path / "x.nrrd", array, vector=True)
    with pytest.raises(InputError, match="got 6 frames"):
        read_volume(path)
    np.testing.assert_array_equal(read_volume(path, frame=4).array, array[..., 4])


def test_vectors_in_time_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nrrd", counting((2, 3, 4, 5, 6)), vector=True)
    with pytest.raises(InputError, match="got 6 in each of 2 frames"):
        read_volume(path)


def test_a_colour_volume_keeps_its_colours(tmp_path: Path) -> None:
    array = counting((2, 3, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "x.mha", array, vector=True)).array, array)


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    image = SimpleITK.Cast(SimpleITK.GetImageFromArray(counting((2, 3, 4))), SimpleITK.sitkComplexFloat32)
    SimpleITK.WriteImage(image, str(tmp_path / "x.nrrd"))
    with pytest.raises(InputError, match="complex"):
        read_volume(tmp_path / "x.nrrd")


def test_a_plane_is_2d(tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "x.mha", counting((3, 4))))
    assert volume.is_2d
    assert volume.array.shape == (1, 3, 4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_truncated_file_is_one_error_and_no_noise(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / f"x{suffix}", counting((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError, match="truncated") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_header_that_promises_more_than_memory_is_refused_before_reading(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nrrd", counting((2, 3, 4)))
    path.write_bytes(path.read_bytes().replace(b"sizes: 4 3 2", b"sizes: 40000 30000 20000"))
    with pytest.raises(InputError, match="promises 40000 x 30000 x 20000"):
        read_volume(path)


@pytest.mark.parametrize("dimensions", [b"-3", b"0", b"x", b"99"])
def test_a_metaimage_that_would_crash_the_reader_is_refused(tmp_path: Path, dimensions: bytes) -> None:
    path = save(tmp_path / "x.mha", counting((2, 3, 4)))
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = " + dimensions))
    with pytest.raises(InputError, match=r"damaged .*\(x.mha\)"):
        read_volume(path)


def test_text_with_an_nrrd_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.nrrd"
    path.write_text("hello")
    with pytest.raises(InputError, match=r"damaged .*\(x.nrrd\)"):
        read_volume(path)
