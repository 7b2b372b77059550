"""Everything that can go wrong: a sentence for a clinician each, nothing half-added, cancel at each stage."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer

from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic, RunOptions
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from MedicalSAM3Lib import client as client_module
from MedicalSAM3Lib import client_check
from MedicalSAM3Lib.tokens import Token
from Testing.slicer import mrml
from Testing.slicer.engine_world import World, serving_world, until
from Testing.slicer.test_segment import array


@pytest.fixture
def volume(scene: Any) -> Any:
    return mrml.volume(array())


def ended(run: Any) -> Any:
    """The run once it has ended."""
    until(lambda: not run.poll())
    return run


# --- refused before it starts ---


def test_no_volume(logic: Any) -> None:
    assert logic.why(None, "liver") == "Choose a volume first."
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert "'empty' is empty" in logic.why(empty, "liver")
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    assert "'labels' is a label map" in logic.why(labels, "liver")
    with pytest.raises(UserError, match="Choose a volume first"):
        logic.start(None, "liver")


@pytest.mark.parametrize("text", ["", " , ;\n", []])
def test_empty_text(logic: Any, volume: Any, text: Any) -> None:
    assert logic.why(volume, text) == "Type at least one concept, for instance: liver, left kidney."


def test_one_concept_twice(logic: Any, volume: Any) -> None:
    assert "ask for each concept once" in logic.why(volume, ["left kidney", "Kidney, left"])


def test_what_can_start_has_no_reason(logic: Any, volume: Any) -> None:
    assert logic.why(volume, "liver, spleen") == ""


def test_a_volume_of_no_scene(logic: Any, volume: Any) -> None:
    slicer.mrmlScene.RemoveNode(volume)
    assert "'CT' was removed" in logic.why(volume, "liver")


def test_a_bent_volume(logic: Any, volume: Any) -> None:
    bent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    grid = slicer.vtkOrientedBSplineTransform()
    bent.SetAndObserveTransformFromParent(grid)
    volume.SetAndObserveTransformNodeID(bent.GetID())
    assert "harden the transform first" in logic.why(volume, "liver")


def test_a_sheared_volume(logic: Any, volume: Any) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.5
    volume.SetAndObserveTransformNodeID(mrml.transform(shear).GetID())
    with pytest.raises(UserError, match="right angles"):
        logic.start(volume, "liver")


def test_a_segmentation_of_another_geometry(logic: Any, volume: Any) -> None:
    other = mrml.volume(array(), mrml.FLIPPED, "MR")
    node = logic.segment(other, ["liver"]).segmentationNode
    before = mrml.contents(node)
    with pytest.raises(UserError, match="belongs to another volume: its voxels are not those of 'CT'"):
        logic.segment(volume, ["liver"], node)
    assert mrml.contents(node) == before


def test_a_segmentation_of_surfaces(logic: Any, volume: Any) -> None:
    node = logic.segment(volume, ["liver"]).segmentationNode
    node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    assert "holds surfaces instead of masks" in logic.why(volume, "liver", node)


# --- goes wrong in the middle ---


@pytest.mark.parametrize("close", [False, True], ids=["removed", "scene closed"])
def test_the_volume_goes_in_the_middle(slow_logic: Any, slow_world: World, volume: Any, close: bool) -> None:
    run = slow_logic.start(volume, "liver")
    jobId = slow_world.order().job_id
    slicer.mrmlScene.Clear(0) if close else slicer.mrmlScene.RemoveNode(volume)
    before = mrml.nodes()
    assert ended(run).error == "The volume was removed while it was being segmented; nothing was added."
    until(lambda: jobId in slow_world.engines.cancelled)
    assert mrml.nodes() == before


def test_the_target_goes_in_the_middle(slow_logic: Any, slow_world: World, volume: Any) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    run = slow_logic.start(volume, "liver", node)
    slow_world.order()
    slicer.mrmlScene.RemoveNode(node)
    assert "The chosen segmentation was removed" in ended(run).error


def test_the_volume_gets_another_size(slow_logic: Any, slow_world: World, volume: Any) -> None:
    run = slow_logic.start(volume, "liver")
    slow_world.order()
    slicer.util.updateVolumeFromArray(volume, np.zeros((2, 3, 4), np.int16))
    before = mrml.nodes()
    slow_world.finish()
    assert "got another size" in ended(run).error
    assert mrml.nodes() == before


def test_the_job_fails(slow_logic: Any, slow_world: World, volume: Any) -> None:
    run = slow_logic.start(volume, "liver")
    slow_world.soon(slow_world.engines.fail, slow_world.order().job_id)
    assert (ended(run).state, run.error) == ("failed", "The engine ended. Try again.")


def test_the_server_dies(scene: Any, tmp_path: Path, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MedicalSAM3Lib.client_http.FIRST_PAUSE_S", 0.01)
    before = mrml.nodes()
    with serving_world(tmp_path, at_once=False) as world:
        logic = MedicalSAM3Logic(EngineSettings("remote", world.url))
        run = logic.start(volume, "liver")
        world.order()
        assert world.server is not None
        world.server.force_exit = world.server.should_exit = True
    assert "the connection failed" in ended(run).error
    assert mrml.nodes() == before
    with pytest.raises(UserError, match="check that it runs and that the network reaches it"):
        logic.segment(volume, "liver")


def test_a_wrong_token(scene: Any, tmp_path: Path, volume: Any) -> None:
    with serving_world(tmp_path, tokens=(Token.of("me", "a-token-of-sufficient-length"),)) as world:
        wrong = MedicalSAM3Logic(EngineSettings("remote", world.url, "another-token-of-some-length"))
        with pytest.raises(UserError, match="token"):
            wrong.segment(volume, "liver")
        with pytest.raises(UserError, match="token"):
            wrong.testEngine().wait()
        right = MedicalSAM3Logic(EngineSettings("remote", world.url, " a-token-of-sufficient-length\n"))
        assert right.segment(volume, "liver").outcomes[0].state == "found"


def test_an_old_server(logic: Any, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_check, "API", "2")
    with pytest.raises(UserError, match="Expected a server of interface 2, got 1; update the server"):
        logic.segment(volume, "liver")


def test_no_address(scene: Any, volume: Any) -> None:
    with pytest.raises(UserError, match="Give the address of the server first"):
        MedicalSAM3Logic(EngineSettings("remote")).segment(volume, "liver")


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk of this computer is full"),
        (MemoryError(), "not enough memory"),
        (ZeroDivisionError("patient Smith"), "Something unexpected happened (ZeroDivisionError)"),
    ],
)
def test_faults_of_this_computer(
    logic: Any, volume: Any, fault: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(*_: Any, **__: Any) -> None:
        raise fault

    before = mrml.nodes()
    monkeypatch.setattr(client_module.Client, "upload", send)
    run = ended(logic.start(volume, "liver"))
    assert run.state == "failed"
    assert sentence in run.error
    assert "Smith" not in run.error
    assert mrml.nodes() == before


def test_a_fault_while_segments_are_added_adds_none(logic: Any, volume: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = logic.segment(volume, ["liver"]).segmentationNode
    before, calls = mrml.contents(node), []
    from MedicalSAM3.MedicalSAM3Slicer import placing

    real = placing._segment

    def segment(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("no")
        return real(*arguments)

    monkeypatch.setattr(placing, "_segment", segment)
    run = ended(logic.start(volume, ["liver", "spleen", "zorp"]))
    assert run.state == "failed"
    assert len(calls) == 3
    assert mrml.contents(node) == before


# --- cancel ---


def cancelWhileItStarts(run: Any, world: World) -> None:
    run.cancel()


def cancelWhileItWaits(run: Any, world: World) -> None:
    world.order()
    run.cancel()


def cancelWhileItRuns(run: Any, world: World) -> None:
    jobId = world.order().job_id
    progress = {"stage": "features", "done": 3, "total": 6, "fraction": 0.5, "seconds_left": 4.0}
    world.soon(world.engines.say, jobId, "progress", **progress)
    until(lambda: run.poll() and run.progress.total == 6)
    assert (run.progress.stage, run.progress.secondsLeft) == ("Looking at the slices", 4.0)
    assert run.progress.fraction == pytest.approx(0.55)
    run.cancel()
    until(lambda: jobId in world.engines.cancelled)


def cancelBeforeItIsAdded(run: Any, world: World) -> None:
    world.finish()
    until(lambda: not run._thread.is_alive())
    run.cancel()


@pytest.mark.parametrize("cancel", [cancelWhileItStarts, cancelWhileItWaits, cancelWhileItRuns, cancelBeforeItIsAdded])
def test_cancel_leaves_the_scene_as_it_was(
    slow_logic: Any, slow_world: World, volume: Any, cancel: Callable[[Any, World], None]
) -> None:
    before, heard = mrml.nodes(), []
    run = slow_logic.start(volume, "liver")
    run.onChange = lambda task: heard.append(task.state)
    cancel(run, slow_world)
    assert (run.state, run.poll(), run.result, run.error) == ("cancelled", False, None, "")
    assert heard[-1] == "cancelled"
    until(lambda: not run._thread.is_alive())
    assert not run.poll()
    assert mrml.nodes() == before
    until(lambda: not slow_world.engines.running)
    again = slow_logic.start(volume, "spleen")
    slow_world.finish()
    assert ended(again).state == "done"


def test_cancel_while_the_volume_is_sent(
    logic: Any, world: World, volume: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    real = client_module.client_upload.send_array

    def send(http: Any, array: Any, affine: Any, facts: Any, onBytes: Any) -> Any:
        def cancelled(done: int, total: int) -> None:
            runs[0].cancel()
            onBytes(done, total)

        until(lambda: runs)
        return real(http, array, affine, facts, cancelled)

    monkeypatch.setattr(client_module.client_upload, "send_array", send)
    run = logic.start(volume, "liver")
    runs.append(run)
    until(lambda: not run._thread.is_alive())
    assert run.state == "cancelled"
    assert not any(request == "POST /v1/jobs" for request in world.requests)


def test_a_callback_that_raises_cancels(slow_logic: Any, slow_world: World, volume: Any) -> None:
    def onProgress(_: Any) -> None:
        if slow_world.engines.running:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slow_logic.segment(volume, ["liver"], onProgress=onProgress)
    until(lambda: slow_world.engines.cancelled)


def test_closing_the_panel_cancels_everything(slow_logic: Any, slow_world: World, volume: Any) -> None:
    run = slow_logic.start(volume, "liver", options=RunOptions())
    jobId = slow_world.order().job_id
    slow_logic.close()
    assert run.state == "cancelled"
    until(lambda: jobId in slow_world.engines.cancelled)
