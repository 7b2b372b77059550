"""Region, surfaces, sequences and the engine's device, driven from the panel."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

import slicer

from MedicalSAM3.MedicalSAM3Slicer import local_engine
from MedicalSAM3.MedicalSAM3Slicer.engine_work import stageText
from MedicalSAM3.MedicalSAM3Slicer.options import DEVICES
from Testing.slicer import mrml
from Testing.slicer.engine_world import World
from Testing.slicer.harness.using import lines, make_volume, segment_names, use, wait_for
from Testing.slicer.test_many import roi, sequence
from Testing.slicer.test_segment import array

SURFACE = "Closed surface"


@pytest.fixture
def asking(panel: Any, world: World) -> Any:
    """A panel whose server answers at once, asked for a liver."""
    use(panel, world.url)
    panel.concepts.setText("liver")
    return panel


def run(panel: Any) -> None:
    """Press Segment and wait."""
    panel.ui.segmentButton.click()
    wait_for(lambda: not panel.run.isRunning())


# --- region and slices ---


def test_a_region_and_slices_of_the_panel_bound_the_run(asking: Any, world: World) -> None:
    volume = mrml.volume(array(), np.eye(4))
    asking.ui.roiSelector.setCurrentNode(roi([1.0, 2.0, 2.0], [2.0, 2.0, 2.0]))
    asking.ui.slicesCheckBox.click()
    asking.ui.firstSliceBox.setValue(2)
    asking.ui.lastSliceBox.setValue(3)
    run(asking)
    settings = world.engines.orders[0].settings
    assert (settings["roi"], settings["slices"]) == ([0, 3, 1, 4, 1, 4], [1, 3])
    (outcome,) = asking.results.outcomes
    k, j, i = np.indices(array().shape)
    inside = (abs(i - 1) <= 1) & (abs(j - 2) <= 1) & (abs(k - 2) <= 1)
    mask = mrml.maskOf(
        asking.results.segmentation(), outcome.segmentIds[0], volume.GetImageData().GetDimensions()[::-1]
    )
    assert np.array_equal(mask, inside & (array() == 1))


def test_slices_the_wrong_way_round_and_a_region_beside_the_volume_are_told(asking: Any) -> None:
    make_volume()
    asking.ui.slicesCheckBox.click()
    asking.ui.firstSliceBox.setValue(5)
    asking.ui.lastSliceBox.setValue(2)
    assert "comes after" in asking.ui.segmentButton.toolTip
    assert not asking.ui.segmentButton.enabled
    asking.ui.slicesCheckBox.click()
    assert asking.ui.segmentButton.enabled
    asking.ui.roiSelector.setCurrentNode(roi([900.0, 900.0, 900.0], [2.0, 2.0, 2.0]))
    assert "holds no voxel" in asking.ui.segmentButton.toolTip


def test_results_stay_inside_the_chosen_segment(asking: Any) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.SetReferenceImageGeometryParameterFromVolumeNode(mrml.volume(array()))
    inside = array() == 1
    inside[2:] = False
    mrml.addSegment(node, "upper half", inside)
    asking.ui.outputSelector.setCurrentNode(node)
    asking.options.showSegments()
    asking.ui.overlapBox.setCurrentIndex(2)
    assert "Choose the segment" in asking.ui.segmentButton.toolTip
    asking.ui.insideBox.setCurrentIndex(1)
    run(asking)
    assert segment_names(node) == ["upper half", "liver"]
    segmentId = asking.results.outcomes[0].segmentIds[0]
    assert np.array_equal(mrml.maskOf(node, segmentId, array().shape), inside)


# --- surfaces ---


def test_surfaces_come_on_request_and_go_out_of_sight(asking: Any) -> None:
    make_volume()
    assert not asking.ui.show3DButton.enabled
    assert asking.ui.show3DButton.toolTip == "Nothing was found yet."
    run(asking)
    node = asking.results.segmentation()
    inner = node.GetSegmentation()
    assert not inner.ContainsRepresentation(SURFACE)
    said = asking.ui.statusLabel.text
    asking.ui.show3DButton.click()
    assert inner.ContainsRepresentation(SURFACE)
    assert node.GetDisplayNode().GetVisibility3D()
    assert asking.ui.statusLabel.text == said
    asking.ui.show3DButton.click()
    assert not node.GetDisplayNode().GetVisibility3D()


def test_what_is_shown_in_3d_stays_so_in_the_next_run(asking: Any) -> None:
    make_volume()
    run(asking)
    asking.ui.show3DButton.click()
    asking.concepts.setText("spleen")
    run(asking)
    inner = asking.results.segmentation().GetSegmentation()
    spleen = inner.GetSegment(asking.results.outcomes[0].segmentIds[0])
    assert spleen.GetRepresentation(SURFACE).GetNumberOfPoints() > 0


# --- sequences ---


def test_each_frame_of_a_sequence_from_the_panel(asking: Any) -> None:
    second = np.where(array() == 1, 0, array()).astype(np.int16)
    browser, volume = sequence([array(), second])
    asking.ui.inputSelector.setCurrentNode(volume)
    asking.options.showVolume()
    assert asking.ui.framesCheckBox.enabled
    asking.ui.framesCheckBox.click()
    run(asking)
    assert [line[:2] for line in lines(asking.ui.resultsTable)] == [
        ["liver (frame 1)", "found"], ["liver (frame 2)", "not found"],
    ]  # fmt: skip
    shown = asking.results.segmentation()
    assert browser.GetSequenceNode(shown) is not None
    asking.ui.undoButton.click()
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_a_volume_without_a_sequence_offers_no_frames(asking: Any) -> None:
    make_volume()
    assert not asking.ui.framesCheckBox.enabled
    assert asking.ui.framesCheckBox.toolTip == "The chosen volume shows no sequence."


# --- the engine's device and its words ---


def test_the_device_of_the_local_engine_is_chosen_and_remembered(panel: Any, module: Any, tmp_path: Path) -> None:
    box = panel.ui.deviceBox
    assert box.enabled
    assert box.count == len(DEVICES)
    assert "--devices" not in local_engine.command(panel.logic.engine, tmp_path / "c")
    box.setCurrentIndex(2)
    assert panel.logic.engine.device == "cuda:0"
    assert local_engine.command(panel.logic.engine, tmp_path / "c")[-2:] == ["--devices", "cuda:0"]
    module.close()
    again = module.open()
    assert again.ui.deviceBox.currentIndex == 2
    again.ui.remoteRadio.click()
    assert not again.ui.deviceBox.enabled


def test_a_device_that_the_settings_never_had_is_automatic(panel: Any, module: Any) -> None:
    panel.engine.ui.deviceBox.setCurrentIndex(1)
    module.close()
    sys.modules["qt"].QSettings().setValue("MedicalSAM3/Device", "tpu; rm")
    assert module.open().logic.engine.device == ""


def test_every_stage_of_the_library_has_words(repository: Path) -> None:
    sources = [path.read_text(encoding="utf-8") for path in (repository / "MedicalSAM3Lib").glob("*.py")]
    told = r'(?:^STAGE = |Progress\(|"stage": )"(\w+)"'
    stages = {stage for text in sources for stage in re.findall(told, text, re.MULTILINE)} | {"queued"}
    assert {"starting", "features", "detection", "tracking", "fusion", "download"} <= stages
    assert not [stage for stage in stages if stageText(stage) == stage]
