"""A folder as a batch: what is found in it, DICOM by the library's reader, and what cannot be read fails alone."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer

from MedicalSAM3.MedicalSAM3Slicer.loading import LoadTask, addVolume, imageOfVolume
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from MedicalSAM3.MedicalSAM3Slicer.volume_input import readVolume
from MedicalSAM3Lib.structures import Volume
from Testing.lib.file_worlds import write_dicom, write_series
from Testing.slicer import mrml
from Testing.slicer.engine_world import until
from Testing.slicer.test_many import table
from Testing.slicer.test_segment import array


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files that Slicer loads, two series, one of them with a slice missing, and what is none of these."""
    root = tmp_path / "images"
    mrml.written(root / "one.nrrd", array())
    write_series(root / "scan", [0.0, 2.0, 4.0])
    write_series(root / "scan", [0.0, 2.0, 9.0], SeriesNumber=5, SeriesInstanceUID="1.2.4")
    for name in ("b/two.nii.gz", "one.seg.nrrd", ".hidden.nrrd", "notes.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not read here")
    return root


def test_images_and_series_are_found_and_nothing_else(logic: Any, folder: Path) -> None:
    images = logic.lookThrough(folder).wait()
    assert [image.name for image in images] == [
        "b/two.nii.gz", "one.nrrd", "scan: CT series 4, 3 images", "scan: CT series 5, 3 images",
    ]  # fmt: skip
    assert not any(secret in str(image.name) for image in images for secret in ("Secret", "secret"))


@pytest.mark.parametrize("content", [{}, {"notes.txt": b"hello"}])
def test_a_folder_without_images_is_a_sentence(logic: Any, tmp_path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="holds no image that can be read"):
        logic.lookThrough(tmp_path).wait()


def test_a_folder_is_a_batch_and_a_failure_stops_nothing(logic: Any, folder: Path) -> None:
    batch = logic.startBatch(logic.lookThrough(folder).wait(), "liver")
    until(lambda: not batch.poll())
    assert [entry.state for entry in batch.entries] == ["failed", "done", "done", "failed"]
    rows = table(batch.result)
    assert [row[:3] for row in rows] == [
        ["b/two.nii.gz", "", "failed"], ["one.nrrd", "liver", "found"],
        ["scan: CT series 4, 3 images", "liver", "found"], ["scan: CT series 5, 3 images", "", "failed"],
    ]  # fmt: skip
    assert "slices" in rows[3][7] or "spaced" in rows[3][7]


def test_a_series_lies_where_its_header_says(logic: Any, tmp_path: Path) -> None:
    stack = write_series(tmp_path / "scan", [4.0, 0.0, 2.0])
    (image,) = logic.lookThrough(tmp_path / "scan").wait()
    node = LoadTask(image).begin().wait()
    assert node.GetScene() is slicer.mrmlScene
    assert node.GetName() == "CT series 4, 3 images"
    voxels = slicer.util.arrayFromVolume(node)
    np.testing.assert_array_equal(voxels, stack)
    assert voxels.dtype == np.int16
    lps = readVolume(node, "CT").ijkToLps
    np.testing.assert_allclose(lps, np.diag([0.75, 0.5, 2.0, 1.0]))


def test_values_that_are_not_whole_stay_and_colours_are_colours(scene: Any) -> None:
    half = np.full((2, 3, 4), 0.5, np.float32)
    assert (
        slicer.util.arrayFromVolume(addVolume("MR", imageOfVolume(Volume(half, np.eye(4), "MR")))).dtype == np.float32
    )
    colour = np.full((1, 3, 4, 3), 200, np.float32)
    node = addVolume("photo", imageOfVolume(Volume(colour, np.eye(4), "RGB", True)))
    assert node.GetClassName() == "vtkMRMLVectorVolumeNode"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), colour.astype(np.uint8))


def test_a_cancelled_batch_reads_no_further_series(logic: Any, folder: Path) -> None:
    images = [image for image in logic.lookThrough(folder).wait() if "series" in image.name]
    batch = logic.startBatch(images, "liver")
    batch.poll()
    batch.cancel()
    assert [entry.state for entry in batch.entries] == ["cancelled", "cancelled"]
    assert slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") == []
    assert batch.result is None


def test_a_slicer_without_the_readers_says_what_to_do(
    logic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dicom(tmp_path / "1.dcm", np.zeros((3, 4), np.int16))
    (image,) = logic.lookThrough(tmp_path).wait()
    real = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in ("pydicom", "SimpleITK"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "SimpleITK", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    for task in (logic.lookThrough(tmp_path), LoadTask(image).begin()):
        with pytest.raises(UserError, match=r"lacks what reads DICOM.*Add loaded volumes"):
            task.wait()


def test_a_series_that_goes_meanwhile_fails(logic: Any, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", [0.0, 2.0])
    (image,) = logic.lookThrough(tmp_path).wait()
    for file in (tmp_path / "scan").iterdir():
        file.unlink()
    batch = logic.startBatch([image], "liver")
    until(lambda: not batch.poll())
    assert batch.entries[0].state == "failed"
    assert batch.entries[0].error
    assert str(tmp_path) not in batch.entries[0].error
