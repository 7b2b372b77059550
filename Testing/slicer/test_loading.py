"""Images of a folder are read beside the main thread, and lie in the scene as Slicer's own loader puts them there."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from MedicalSAM3.MedicalSAM3Slicer import loading
from MedicalSAM3.MedicalSAM3Slicer.folder import FolderImage
from MedicalSAM3.MedicalSAM3Slicer.loading import LoadTask, addVolume, loadVolume, readFile
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from MedicalSAM3.MedicalSAM3Slicer.volume_input import ijkToRas
from Testing.slicer import mrml

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
GRIDS = {
    "oblique": mrml.OBLIQUE,
    "flipped": mrml.FLIPPED,
    "mirrored": np.diag([-0.5, 0.5, 3.0, 1.0]),
    "head first": np.array([[0, 0, -4.0, 7], [0.25, 0, 0, -8], [0, -1.5, 0, 9], [0, 0, 0, 1]]),
}


def values(dtype: Any = np.int16, shape: tuple[int, ...] = (3, 4, 5)) -> np.ndarray:
    """Voxels that are all different."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def by_slicer(path: Path) -> Any:
    """The node that Slicer's loader makes of a file: ``slicer.util.loadVolume`` calls this."""
    return slicer.modules.volumes.logic().AddArchetypeVolume(str(path), "by Slicer", 0)


def load(path: Path) -> LoadTask:
    """Load a file; the task that did."""
    task = LoadTask(FolderImage(path.name, path))
    task.begin().wait()
    return task


def same(mine: Any, slicers: Any) -> None:
    """The same voxels, of the same type, in the same place to the last bit but for the inverse of a matrix."""
    assert mine.GetClassName() == slicers.GetClassName()
    ours, theirs = slicer.util.arrayFromVolume(mine), slicer.util.arrayFromVolume(slicers)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(ijkToRas(mine), ijkToRas(slicers), rtol=0, atol=1e-12)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_file_is_loaded_as_slicer_loads_it(scene: Any, tmp_path: Path, suffix: str, grid: str) -> None:
    path = mrml.written(tmp_path / f"image{suffix}", values(), GRIDS[grid])
    task = load(path)
    same(task.result, by_slicer(path))
    turn = np.diag([1.0, 1, -1, 1]) + np.eye(4, k=1) * [0, 0, 0, 2] if grid == "mirrored" else np.eye(4)
    written = values()[::-1] if grid == "mirrored" else values()
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(task.result), written)
    np.testing.assert_allclose(ijkToRas(task.result), GRIDS[grid] @ turn, atol=1e-5)
    assert task.result.GetName() == "image"
    assert not task.note


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_numbers_keep_their_type(scene: Any, tmp_path: Path, dtype: Any) -> None:
    path = mrml.written(tmp_path / "image.nrrd", values(dtype))
    same(load(path).result, by_slicer(path))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**16), st.sampled_from(SUFFIXES), st.booleans())
def test_any_grid_is_slicers_grid(scene: Any, tmp_path: Path, seed: int, suffix: str, is_left_handed: bool) -> None:
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    axes[:, 0] *= np.linalg.det(axes) * (-1 if is_left_handed else 1)
    matrix = np.eye(4)
    matrix[:3, :3] = axes * random.uniform(0.3, 6, 3)
    matrix[:3, 3] = random.uniform(-300, 300, 3)
    shape = tuple(random.integers(2, 6, 3))
    path = mrml.written(tmp_path / f"image{suffix}", values(shape=shape), matrix)
    scene.Clear(0)
    same(load(path).result, by_slicer(path))


def test_a_slicer_that_turns_nothing_round_gets_the_file_as_it_is(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mrml.written(tmp_path / "image.nrrd", values(), GRIDS["mirrored"])
    monkeypatch.setattr(slicer, "vtkMRMLVolumeArchetypeStorageNode", object)
    node = load(path).result
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), values())
    np.testing.assert_allclose(ijkToRas(node), GRIDS["mirrored"], atol=1e-5)


def test_a_picture_of_one_slice_and_a_flat_image(scene: Any, tmp_path: Path) -> None:
    path = mrml.written(tmp_path / "flat.nrrd", np.full((1, 4, 5), 7, np.int16))
    node = load(path).result
    same(node, by_slicer(path))
    assert node.GetDisplayNode().GetWindow() > 0


def test_an_image_is_shown_from_its_dark_to_its_bright_voxels(scene: Any, tmp_path: Path) -> None:
    array = values(np.float32, (10, 20, 30))
    array[0, 0, 0] = np.nan
    node = load(mrml.written(tmp_path / "image.nrrd", array)).result
    low, high = node.GetDisplayNode().GetWindowLevelMin(), node.GetDisplayNode().GetWindowLevelMax()
    assert (low, high) == pytest.approx((6, 5993), abs=2)
    assert np.isnan(slicer.util.arrayFromVolume(node)[0, 0, 0])
    nothing = loading.ReadImage(readFile(tmp_path / "image.nrrd", True).image, np.eye(4), (0.0, 1.0))  # type: ignore[union-attr]
    assert addVolume("x", nothing).GetDisplayNode().GetWindowLevelMax() == 1.0
    assert loading._shown(np.full(3, np.nan)) == (0.0, 1.0)


def test_files_are_read_beside_the_main_thread(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []
    real = loading.readFile

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(loading, "readFile", noted)
    load(mrml.written(tmp_path / "image.nii.gz", values()))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize("why", ["colours", "no reader"])
def test_what_only_slicers_loader_knows_is_left_to_it_and_said(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    asked: list[str] = []

    def by_loader(path: str) -> Any:
        asked.append(path)
        assert threading.current_thread() is threading.main_thread()
        return mrml.volume(values(), name="by the loader")

    monkeypatch.setattr(slicer.util, "loadVolume", by_loader)
    if why == "no reader":
        monkeypatch.setattr(loading, "READER", "vtkThatIsNowhere")
    colours = values(np.uint8, (2, 3, 4, 3)) if why == "colours" else values()
    path = mrml.written(tmp_path / "image.nrrd", colours)
    task = load(path)
    assert asked == [str(path)]
    assert task.result.GetName() == "by the loader"
    assert task.note == "Slicer's window waited while this was loaded: only its own loader knows this kind of image."


def test_what_is_no_image_is_a_sentence_without_its_folder(scene: Any, tmp_path: Path) -> None:
    for name, content in (("broken.nii.gz", b"no image"), ("broken.nrrd", b"NRRD0004\n"), ("empty.mha", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"^'{name}' could not be loaded as a volume\.$"):
            load(tmp_path / name)
    with pytest.raises(UserError, match=r"^'gone\.nii' could not be loaded"):
        load(tmp_path / "gone.nii")
    assert mrml.nodes() == []


def test_the_loader_of_slicer_refuses_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> Any:
        raise RuntimeError(path)

    monkeypatch.setattr(slicer.util, "loadVolume", refuse)
    with pytest.raises(UserError, match=r"^'x\.nrrd' could not be loaded"):
        loadVolume(tmp_path / "x.nrrd")


def test_a_cancelled_loading_adds_nothing(scene: Any, tmp_path: Path) -> None:
    path = mrml.written(tmp_path / "image.nrrd", values())
    task = LoadTask(FolderImage("image", path)).begin()
    task.cancel()
    task._thread.join()
    assert not task.poll()
    assert mrml.nodes() == []


def test_the_modules_own_test_of_loading_passes_on_slicers_classes(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(node: Any, path: str) -> None:
        mrml.written(Path(path), slicer.util.arrayFromVolume(node), ijkToRas(node))

    monkeypatch.setattr(slicer.util, "saveNode", save)
    monkeypatch.setattr(slicer.util, "loadVolume", lambda path: by_slicer(Path(path)))
    own = module.code.MedicalSAM3Test()
    own.setUp()
    own.test_ImageOfAFolderIsLoadedAsSlicerLoadsIt()
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 3
    assert not (Path(slicer.app.temporaryPath) / "MedicalSAM3Test.nrrd").exists()
