"""The panel and the choices of the scene: saved, restored, reset, followed; no address or token among them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

import slicer

from Testing.slicer import mrml
from Testing.slicer.engine_world import World
from Testing.slicer.harness.using import finish_run, make_volume, use, wait_for
from Testing.slicer.test_choices import save
from Testing.slicer.test_many import roi


def choose(panel: Any) -> dict[str, Any]:
    """Choose something else than the default everywhere, as a user does; what ``chosen`` gives then."""
    ui = panel.ui
    make_volume("first")
    ui.inputSelector.setCurrentNode(stored(make_volume("second")))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mrml.addSegment(node, "organ", slicer.util.arrayFromVolume(ui.inputSelector.currentNode()) == 1)
    ui.outputSelector.setCurrentNode(node)
    panel.options.showSegments()
    ui.roiSelector.setCurrentNode(roi([0, 0, 0], [50, 50, 50]))
    panel.concepts.setText("liver, spleen")
    for box, row in ((ui.againBox, 2), (ui.overlapBox, 2), (ui.insideBox, 1), (ui.modeBox, 1), (ui.speedBox, 2)):
        box.setCurrentIndex(row)
    ui.slicesCheckBox.click()
    ui.firstSliceBox.setValue(2)
    ui.lastSliceBox.setValue(4)
    ui.separateCheckBox.click()
    ui.freeMemoryCheckBox.click()
    return chosen(panel)


def stored(volume: Any) -> Any:
    """A volume with a file in the folder of the scene's files."""
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(Path(slicer.app.temporaryPath) / "second.nrrd"))
    volume.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(volume)
    return volume


def chosen(panel: Any) -> dict[str, Any]:
    """What the widgets show."""
    ui = panel.ui
    nodes = {name: getattr(ui, name).currentNode() for name in ("inputSelector", "outputSelector", "roiSelector")}
    boxes = ("againBox", "overlapBox", "insideBox", "modeBox", "speedBox")
    checks = ("slicesCheckBox", "separateCheckBox", "framesCheckBox", "freeMemoryCheckBox")
    return (
        {name: node.GetName() if node is not None else "" for name, node in nodes.items()}
        | {name: getattr(ui, name).currentIndex for name in boxes}
        | {name: getattr(ui, name).checked for name in checks}
        | {"slices": (ui.firstSliceBox.value, ui.lastSliceBox.value), "text": ui.conceptsEdit.plainText}
        | {"model": panel.models.model()}
    )


def test_a_loaded_scene_shows_what_was_chosen(panel: Any, tmp_path: Path) -> None:
    empty = chosen(panel)
    wanted = choose(panel)
    assert not {name for name in wanted if wanted[name] == empty[name]} - {"framesCheckBox", "model"}
    save(slicer.mrmlScene, tmp_path / "scene.mrml")
    slicer.mrmlScene.Clear(0)
    assert chosen(panel) == empty
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    assert slicer.mrmlScene.Connect()
    # The segments themselves are in a file of their own, which was not saved here.
    assert chosen(panel) == wanted | {"insideBox": 0}


def test_a_panel_that_opens_later_shows_it_too(module: Any) -> None:
    wanted = choose(module.open())
    module.close()
    assert chosen(module.open()) == wanted


def test_no_address_token_or_path_comes_into_the_scene(panel: Any, tmp_path: Path) -> None:
    use(panel, "https://secret-host:8765", "secret-token")
    panel.ui.certificateEdit.setCurrentPath("secret-certificate.pem")
    choose(panel)
    assert "liver, spleen" in save(slicer.mrmlScene, tmp_path / "scene.mrml")
    assert "secret" not in (tmp_path / "scene.mrml").read_text(encoding="utf-8")


def test_a_script_that_chooses_is_followed(panel: Any) -> None:
    volume = make_volume("other")
    node = panel.logic.getParameterNode()
    modified = node.StartModify()
    node.SetParameter("Concepts", "aorta")
    node.SetParameter("Overlap", "keep")
    node.SetNodeReferenceID("InputVolume", volume.GetID())
    node.EndModify(modified)
    assert (panel.ui.conceptsEdit.plainText, panel.ui.overlapBox.currentIndex) == ("aorta", 1)
    assert panel.ui.inputSelector.currentNode() is volume


def test_a_node_that_somebody_removed_is_made_again(panel: Any) -> None:
    slicer.mrmlScene.RemoveNode(panel.logic.getParameterNode())
    panel.concepts.setText("rib")
    node = panel.logic.getParameterNode()
    assert node.GetParameter("Concepts") == "rib"
    node.SetParameter("Concepts", "aorta")
    assert panel.ui.conceptsEdit.plainText == "aorta"


def test_the_range_of_slices_outlives_a_visit_to_another_module(panel: Any) -> None:
    choose(panel)
    panel.enter()
    assert (panel.ui.firstSliceBox.value, panel.ui.lastSliceBox.value) == (2, 4)
    panel.ui.inputSelector.setCurrentNode(slicer.util.getNode("first"))
    assert (panel.ui.firstSliceBox.value, panel.ui.lastSliceBox.value) == (1, 6)


def test_the_model_of_a_scene_is_not_made_the_users_own(panel: Any, world: World) -> None:
    use(panel, world.url)
    panel.ui.testButton.click()
    wait_for(lambda: panel.ui.modelBox.count > 1)
    panel.logic.getParameterNode().SetParameter("Model", "of-a-colleague")
    assert panel.models.model() == "of-a-colleague"
    assert "not known" in panel.ui.modelBox.currentText
    panel.models.refresh()
    wait_for(lambda: panel.models.task is None)
    assert panel.models.model() == "of-a-colleague"
    assert sys.modules["qt"].QSettings().value("MedicalSAM3/Model", "none") == "none"
    slicer.mrmlScene.Clear(0)
    assert panel.models.model() == "auto"


def test_the_chosen_method_reaches_the_engine(panel: Any, slow_world: World) -> None:
    use(panel, slow_world.url)
    make_volume()
    panel.concepts.setText("liver")
    panel.ui.modeBox.setCurrentIndex(1)
    finish_run(panel, slow_world)
    assert slow_world.engines.orders[0].settings["mode"] == "detect"
