"""The front door: what goes in comes back voxel for voxel, and bad input is one clear line."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from MedicalSAM3Lib import files
from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.outputs import set_affine
from MedicalSAM3Lib.structures import Volume
from Testing.lib.file_worlds import affine, affines, counting, rotation, segmentation_of, shapes_kji, write_dicom


def save(path: Path, array: np.ndarray, matrix: np.ndarray | None = None) -> Path:
    image = SimpleITK.GetImageFromArray(array)
    set_affine(image, np.eye(4) if matrix is None else matrix)
    SimpleITK.WriteImage(image, str(path))
    return path


@given(
    matrix=affines(),
    shape=shapes_kji,
    source=st.sampled_from(["x.nii.gz", "x.nrrd", "x.mha"]),
    result=st.sampled_from(["y.seg.nrrd", "y.nii.gz", "y.nii"]),
)
@settings(max_examples=60, deadline=None)
def test_from_file_to_file_is_exact(
    tmp_path_factory: pytest.TempPathFactory, matrix: np.ndarray, shape: tuple[int, int, int], source: str, result: str
) -> None:
    folder = tmp_path_factory.mktemp("files")
    volume = files.read_volume(save(folder / source, counting(shape), matrix))
    np.testing.assert_array_equal(volume.array, counting(shape))
    np.testing.assert_allclose(volume.ijk_to_lps, matrix, rtol=1e-6, atol=1e-4)
    segmentation = segmentation_of(volume)
    files.write_segmentation(folder / result, segmentation, volume)
    image = SimpleITK.ReadImage(str(folder / result))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), segmentation.layers[0])
    axes = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_allclose(axes, volume.ijk_to_lps[:3, :3], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(image.GetOrigin(), volume.ijk_to_lps[:3, 3], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("fill", [0.0, -1000.0])
def test_a_constant_image_and_a_single_voxel_are_images(tmp_path: Path, fill: float) -> None:
    constant = files.read_volume(save(tmp_path / "x.nii", np.full((3, 4, 5), fill, np.float32)))
    assert (constant.array == fill).all()
    single = files.read_volume(save(tmp_path / "x.mha", np.full((1, 1, 1), fill, np.float32)))
    assert single.shape_kji == (1, 1, 1)


def test_paths_may_be_strings(tmp_path: Path) -> None:
    assert files.read_volume(str(save(tmp_path / "x.nrrd", counting((2, 2, 2))))).name == "x"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.nii.gz", None, "does not exist"),
        ("empty.nii.gz", b"", "an empty file: empty.nii.gz"),
        ("notes.txt", b"hello", "or DICOM, got notes.txt"),
        ("short", b"x", "or DICOM, got short"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        files.read_volume(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_series_is_for_folders(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", counting((2, 2, 2)))
    with pytest.raises(InputError, match="leave series="):
        files.read_volume(path, series=1)


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nrrd", "x.mha"])
def test_nan_and_infinity_are_counted_and_refused(tmp_path: Path, name: str) -> None:
    array = counting((2, 3, 4))
    array[0, 0, :2], array[1, 1, 1] = np.nan, np.inf
    with pytest.raises(InputError, match="got 2 NaN and 1 infinite of 24"):
        files.read_volume(save(tmp_path / name, array))


def test_a_value_beyond_float32_counts_as_infinite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 infinite"):
        files.read_volume(save(tmp_path / "x.nrrd", np.array([[[1e300, 0.0]]])))


def test_notices_go_to_the_log_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(tmp_path / "x.mha", counting((2, 2, 2)), affine(rotation(3).round(3), (1, 1, 1), (0, 0, 0)))
    with caplog.at_level(logging.WARNING, "MedicalSAM3Lib"):
        files.read_volume(path)
    assert "repaired" in caplog.text


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    volume = Volume(counting((2, 3, 4)), np.eye(4))
    other = segmentation_of(replace(volume, array=counting((2, 3, 5))))
    with pytest.raises(OutputError, match=r"Expected masks of \(2, 3, 4\)"):
        files.write_segmentation(tmp_path / "x.seg.nrrd", other, volume)
    assert not list(tmp_path.iterdir())


def test_outputs_are_checked_before_anything_is_computed(tmp_path: Path) -> None:
    for name in ("x.seg.nrrd", "x.nii", "x.nii.gz", "x.png"):
        files.check_output(tmp_path / name)
    files.check_output(tmp_path / "report.json", (".json",))
    with pytest.raises(OutputError, match=r"ends in .seg.nrrd or .nii.gz or .nii or .png or .dcm, got x.nrrd"):
        files.check_output(tmp_path / "x.nrrd")
    with pytest.raises(OutputError, match="a PNG mask is for one picture"):
        files.check_output(tmp_path / "x.png", volume=Volume(counting((2, 2, 2)), np.eye(4)))


SOURCES = ["x.nii", "x.nii.gz", "x.nrrd", "x.mha", "x.png", "x.jpg", "x.tif", "x.dcm"]


@pytest.mark.parametrize("name", SOURCES)
def test_damaged_bytes_are_read_or_refused_but_never_crash(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(SOURCES.index(name))
    path = tmp_path / name
    if name.endswith("dcm"):
        write_dicom(path, counting((8, 9)).astype(np.int16))
    elif name.endswith((".png", ".jpg", ".tif")):
        Image.fromarray(random.integers(0, 256, (12, 13, 3), dtype=np.uint8)).save(path)
    else:
        save(path, counting((3, 8, 9)).astype(np.int16))
    intact = path.read_bytes()
    for _ in range(40):
        data = bytearray(intact[: random.integers(len(intact) // 2, len(intact) + 1)])
        for at in random.integers(min(len(data), 600), size=3):
            data[at] = random.integers(256)
        path.write_bytes(data)
        with suppress(InputError):
            files.read_volume(path, on_notice=lambda _: None)
    assert capfd.readouterr() == ("", "")
