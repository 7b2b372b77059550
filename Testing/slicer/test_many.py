"""Regions, sequences, batches, models and estimates."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3.MedicalSAM3Slicer import phrases as phrases_module
from MedicalSAM3.MedicalSAM3Slicer.engine_tasks import Estimate
from MedicalSAM3.MedicalSAM3Slicer.grid import trim
from MedicalSAM3.MedicalSAM3Slicer.logic import MedicalSAM3Logic, RunOptions
from MedicalSAM3.MedicalSAM3Slicer.region import RoiBox, readRoi
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from Testing.slicer import mrml
from Testing.slicer.engine_world import World, until
from Testing.slicer.test_segment import SHAPE, array


def roi(center: list[float], size: list[float], axes: np.ndarray | None = None) -> Any:
    """A markups ROI; ``axes`` are its directions in the world."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    node.SetSize(*size)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if axes is None else axes
    matrix[:3, 3] = center
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return node


# --- ROI and slices ---


def test_an_roi_bounds_what_is_looked_at_and_what_is_kept(logic: Any, world: World) -> None:
    volume = mrml.volume(array())
    turn = mrml.OBLIQUE[:3, :3] / np.linalg.norm(mrml.OBLIQUE[:3, :3], axis=0)
    center = (mrml.OBLIQUE @ [1, 2, 2, 1])[:3]
    result = logic.segment(volume, ["liver"], roiNode=roi(list(center), [3.5, 4.0, 2.0], turn))
    assert world.engines.orders[0].settings["roi"] == [0, 4, 0, 5, 2, 3]
    expected = array() == 1
    expected[[0, 1, 3, 4, 5]] = False
    (segmentId,) = result.outcomes[0].segmentIds
    assert np.array_equal(mrml.maskOf(result.segmentationNode, segmentId, SHAPE), expected)


def test_an_oblique_roi_is_exact_in_the_masks(logic: Any) -> None:
    volume = mrml.volume(array(), np.diag([1.0, 1, 1, 1]))
    half = np.sqrt(0.5)
    box = roi([1.0, 2.0, 2.0], [2.0, 2.0, 2.0], np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]]))
    (outcome,) = (result := logic.segment(volume, ["liver"], roiNode=box)).outcomes
    k, j, i = np.indices(SHAPE)
    inside = (np.abs(i - 1) + np.abs(j - 2) <= np.sqrt(2)) & (np.abs(k - 2) <= 1)
    assert np.array_equal(mrml.maskOf(result.segmentationNode, outcome.segmentIds[0], SHAPE), inside & (array() == 1))


def test_an_roi_under_a_transform_lies_where_it_is_seen(scene: Any) -> None:
    node = roi([0.0, 0.0, 0.0], [2.0, 4.0, 6.0])
    node.SetAndObserveTransformNodeID(mrml.transform(np.diag([2.0, 1, 1, 1]) + np.eye(4, k=3) * 10).GetID())
    box = readRoi(node)
    assert box is not None
    assert box.voxelBox(np.eye(4), (50, 50, 50)) == (8, 13, 0, 3, 0, 4)


@pytest.mark.parametrize(("size", "center"), [([0, 1, 1], [0, 0, 0]), ([1, 1, 1], [999, 0, 0])])
def test_an_roi_that_cannot_be_used_is_refused(logic: Any, size: list[float], center: list[float]) -> None:
    reason = logic.why(mrml.volume(array()), "liver", options=RunOptions(roiNode=roi(center, size)))
    assert "place 'R' first" in reason or "holds no voxel" in reason


@given(st.integers(0, 2**16))
def test_the_box_of_an_roi_holds_all_its_voxels(seed: int) -> None:
    random = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
    worldToBox = np.eye(4)
    worldToBox[:3, :3] = axes
    worldToBox[:3, 3] = -axes @ random.uniform(0, 6, 3)
    box = RoiBox(worldToBox, random.uniform(0.8, 5, 3))
    inside = box.holds((0, 6, 0, 7, 0, 8), np.eye(4))
    if not inside.any():
        return
    i0, i1, j0, j1, k0, k1 = box.voxelBox(np.eye(4), SHAPE)
    inside[k0:k1, j0:j1, i0:i1] = False
    assert not inside.any()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)), max_size=6))
def test_trim_keeps_every_voxel_in_the_smallest_box(voxels: list[tuple[int, int, int]]) -> None:
    crop = np.zeros((4, 5, 6), bool)
    for voxel in voxels:
        crop[voxel] = True
    trimmed = trim(crop, (10, 14, 20, 25, 30, 36))
    if not voxels:
        assert trimmed is None
        return
    assert trimmed is not None
    inner, (k0, k1, j0, j1, i0, i1) = trimmed
    assert (k1 - k0, j1 - j0, i1 - i0) == inner.shape
    assert {tuple(at) for at in np.argwhere(inner) + np.array([k0 - 10, j0 - 20, i0 - 30])} == set(voxels)
    assert all(inner.any(axis=tuple({0, 1, 2} - {axis}))[[0, -1]].all() for axis in range(3))


def test_settings_and_slices_reach_the_engine(logic: Any, world: World) -> None:
    logic.segment(mrml.volume(array()), ["liver"], settings={"speed": "fast"}, slices=(1, 4), overlap="keep")
    settings = world.engines.orders[0].settings
    assert (settings["speed"], settings["slices"], settings["overlap"]) == ("fast", [1, 4], "keep")


# --- sequences ---


def sequence(frames: list[np.ndarray]) -> tuple[Any, Any]:
    """A browser and the volume that shows its frames."""
    first = mrml.volume(frames[0], name="4D")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "frames")
    node.SetIndexName("time")
    for number, frame in enumerate(frames):
        slicer.util.updateVolumeFromArray(first, frame)
        node.SetDataNodeAtValue(first, str(number))
    slicer.mrmlScene.RemoveNode(first)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(node.GetID())
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    return browser, browser.GetProxyNode(node)


def test_each_frame_of_a_sequence(logic: Any, world: World) -> None:
    second = np.where(array() == 2, 0, array()).astype(np.int16)
    second[5, 0, 0:3] = 1
    browser, volume = sequence([array(), second])
    volume.SetAndObserveTransformNodeID(mrml.transform(np.eye(4) + np.eye(4, k=3) * 5).GetID())
    before = mrml.nodes()
    run = logic.startSequence(volume, ["liver", "spleen"])
    result = run.wait()
    states = [(outcome.frame, outcome.phrase, outcome.state) for outcome in result.outcomes]
    assert states == [(0, "liver", "found"), (0, "spleen", "found"), (1, "liver", "found"), (1, "spleen", "not_found")]
    shown = result.segmentationNode
    assert shown.GetParentTransformNode() is volume.GetParentTransformNode()
    assert shown.GetNodeReference("referenceImageGeometryRef") is volume
    for frame, values in ((0, array()), (1, second)):
        browser.SetSelectedItemNumber(frame)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        inner = shown.GetSegmentation()
        names = {inner.GetSegment(one).GetName(): one for one in inner.GetSegmentIDs()}
        assert list(names) == (["liver", "spleen"] if frame == 0 else ["liver"])
        assert np.array_equal(mrml.maskOf(shown, names["liver"], SHAPE), values == 1)
    assert logic.undo()
    assert mrml.nodes() == before


def test_a_frame_that_fails_adds_nothing(slow_logic: Any, slow_world: World) -> None:
    _, volume = sequence([array(), array()])
    before = mrml.nodes()
    run = slow_logic.startSequence(volume, ["liver"])
    slow_world.finish()
    until(lambda: len(slow_world.engines.orders) == 2)
    slow_world.soon(slow_world.engines.fail, slow_world.order().job_id)
    until(lambda: not run.poll())
    assert run.state == "failed"
    assert mrml.nodes() == before


def test_a_volume_without_a_sequence_is_refused(logic: Any) -> None:
    with pytest.raises(UserError, match="shows no sequence"):
        logic.startSequence(mrml.volume(array()), ["liver"])


def test_one_frame_is_a_volume(logic: Any) -> None:
    _, volume = sequence([array(), array()])
    assert logic.sequenceOf(volume) is not None
    assert logic.segment(volume, ["liver"]).outcomes[0].state == "found"


# --- batches ---


def table(node: Any) -> list[list[str]]:
    """Rows of a table node."""
    return [
        [node.GetCellText(row, column) for column in range(node.GetNumberOfColumns())]
        for row in range(node.GetNumberOfRows())
    ]


def test_a_batch_goes_on_after_a_failure(logic: Any, tmp_path: Path) -> None:
    one, two = mrml.volume(array(), name="one"), mrml.volume(array(), mrml.FLIPPED, "two")
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    three = mrml.written(tmp_path / "three.nrrd", array())
    before = mrml.nodes()
    batch = logic.startBatch([one, empty, two, three], "liver, brain tumor")
    assert [entry.state for entry in batch.entries] == ["waiting"] * 4
    result = batch.wait()
    assert [entry.state for entry in batch.entries] == ["done", "failed", "done", "done"]
    assert "'empty' is empty" in batch.entries[1].error
    rows = table(result)
    assert [row[:3] for row in rows] == [
        ["one", "liver", "found"], ["one", "brain tumor", "not found"], ["empty", "", "failed"],
        ["two", "liver", "found"], ["two", "brain tumor", "not found"],
        ["three.nrrd", "liver", "found"], ["three.nrrd", "brain tumor", "not found"],
    ]  # fmt: skip
    assert rows[0][3:6] == ["0.98", "0.90", "0.06"]
    assert rows[2][7] == batch.entries[1].error
    assert logic.undo()
    assert [node for node in mrml.nodes() if node[1] != "three"] == before


def test_a_cancelled_batch_keeps_what_is_done(slow_logic: Any, slow_world: World) -> None:
    volumes = [mrml.volume(array(), name=name) for name in ("one", "two", "three")]
    batch = slow_logic.startBatch(volumes, "liver")
    batch.poll()
    slow_world.finish()
    until(lambda: batch.poll() and batch.entries[0].state == "done" and slow_world.engines.running)
    batch.poll()
    assert batch.progress.stage.startswith("two: ")
    batch.cancel()
    assert [entry.state for entry in batch.entries] == ["done", "cancelled", "cancelled"]
    assert [row[2] for row in table(batch.result)] == ["found", "cancelled", "cancelled"]
    assert not batch.poll()


def test_a_batch_of_nothing_is_refused(logic: Any) -> None:
    with pytest.raises(UserError, match="at least one volume"):
        logic.startBatch([], "liver")


# --- the engine ---


def test_the_engine_says_that_it_is_there(logic: Any) -> None:
    lines = logic.testEngine().wait()
    assert lines[0] == "The engine answers: fake on cpu."
    assert any("demonstration" in line for line in lines)
    assert logic.capabilities().wait()["api"] == "1"


def test_an_estimate_says_time_memory_and_processor(logic: Any, world: World) -> None:
    volume = mrml.volume(array())
    told = logic.estimate(volume, "liver").wait()
    assert told.sentence == (
        "About 2 min, 3.0 GB of memory. It runs on the processor, which is slow; a GPU or a remote server is many "
        "times faster. Only 2.0 GB are free: choose an ROI or fewer slices."
    )
    sent = world.sent()
    logic.segment(volume, "liver")
    assert world.sent() == sent
    assert Estimate(12.0, 100.0, 900.0, 4200.0, "cuda:0").sentence == (
        "About 12 s, 0.1 GB of memory, 4.2 GB on the GPU."
    )


def test_models_are_listed_with_their_licence(logic: Any) -> None:
    models = {model["name"]: model for model in logic.listModels().wait()}
    assert models["tiny"]["state"] == "ready"
    assert all({"licence", "licence_text", "bytes"} <= set(model) for model in models.values())
    with pytest.raises(UserError):
        logic.downloadModel("no-such-model", True).wait()
    with pytest.raises(UserError):
        logic.removeModel("no-such-model").wait()


def test_words_are_learnt_beside_the_main_thread(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    here = threading.current_thread()
    for name in ("completions", "likelyMeant"):
        real = getattr(phrases_module, name)

        def noted(*words: Any, name: str = name, real: Any = real) -> Any:
            asked.append((name, threading.current_thread() is here))
            return real(*words)

        monkeypatch.setattr(phrases_module, name, noted)
    MedicalSAM3Logic().learnWords().wait()
    assert asked == [("completions", False), ("likelyMeant", False)]


def test_completion_asks_no_engine(scene: Any) -> None:
    assert MedicalSAM3Logic().complete("kidn")[0] == "kidney"
