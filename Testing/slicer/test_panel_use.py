"""The panel as a user meets it: real form, real keys and clicks, real client and server, in the harness."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

import slicer
from PySide6 import QtCore, QtWidgets
from PySide6.QtTest import QTest

from MedicalSAM3Lib.presets import load_presets
from Testing.slicer import mrml
from Testing.slicer.engine_world import World
from Testing.slicer.harness import qt_modules
from Testing.slicer.harness.application import Module
from Testing.slicer.harness.using import (
    ENTER,
    finish_run,
    lines,
    load_volume,
    make_volume,
    segment_names,
    type_text,
    use,
    wait_for,
)  # fmt: skip

CONTROL = QtCore.Qt.KeyboardModifier.ControlModifier


@pytest.fixture
def asking(panel: Any, slow_world: World) -> Any:
    """A panel with a volume and two concepts, whose server answers when told."""
    use(panel, slow_world.url)
    make_volume()
    panel.concepts.setText("liver, urinary bladder")
    return panel


def node_names() -> list[str]:
    return [slicer.mrmlScene.GetNthNode(index).GetID() for index in range(slicer.mrmlScene.GetNumberOfNodes())]


def test_button_says_why_it_is_grey(panel: Any) -> None:
    button = panel.ui.segmentButton
    assert not button.enabled
    assert "volume" in button.toolTip
    make_volume()
    assert not button.enabled
    assert "concept" in button.toolTip
    type_text(panel.ui.conceptsEdit, "liver")
    assert button.enabled
    panel.ui.overlapBox.setCurrentIndex(2)
    assert not button.enabled
    assert "Options" in button.toolTip


def test_typed_concepts_become_segments_and_what_is_missing_is_named(asking: Any, slow_world: World) -> None:
    asking.ui.conceptsEdit.setFocus()
    QTest.keyClick(asking.ui.conceptsEdit, ENTER, CONTROL)
    assert asking.ui.segmentButton.text == "Cancel"
    assert asking.ui.progressBar.visible
    wait_for(lambda: slow_world.engines.running)
    slow_world.finish()
    wait_for(lambda: not asking.run.isRunning())
    assert [line[:2] for line in lines(asking.ui.resultsTable)] == [
        ["liver", "found"],
        ["urinary bladder", "not found"],
    ]
    assert "1 of 2 found. Not found: urinary bladder." in asking.ui.statusLabel.text
    assert segment_names(asking.results.segmentation()) == ["liver"]
    assert asking.ui.segmentButton.text == "Segment"
    assert not asking.ui.progressBar.visible


def test_doubtful_slices_are_gone_to(asking: Any, slow_world: World) -> None:
    finish_run(asking, slow_world)
    went: list[tuple[float, ...]] = []
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(slicer.mrmlScene, True)
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetOrientation("Axial")
    view.AddObserver("ModifiedEvent", lambda *_: went.append(view.GetSliceToRAS().GetElement(2, 3)))
    asking.ui.reviewButton.click()
    assert "liver: slice 2" in asking.ui.statusLabel.text
    assert went
    went.clear()
    view.SetSliceOffset(99.0)
    asking.ui.statusLabel.text = ""
    table = asking.ui.resultsTable
    cell = table.visualItemRect(table.item(0, 5)).center()
    QTest.mouseClick(table.viewport(), QtCore.Qt.MouseButton.LeftButton, pos=cell)
    assert "liver: slice 2" in asking.ui.statusLabel.text, "a click on the slices goes there, too"
    assert went[-1] != 99.0


def test_the_segment_editor_opens_with_the_result_selected(
    asking: Any, slow_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing was found yet" in asking.ui.editButton.toolTip
    finish_run(asking, slow_world)
    done: list[Any] = []
    editor = mock.Mock(setCurrentSegmentID=done.append)
    monkeypatch.setattr(slicer.util, "selectModule", done.append)
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", mock.Mock(editor=editor), raising=False)
    asking.ui.editButton.click()
    node = asking.results.segmentation()
    assert done == ["SegmentEditor", node.GetSegmentation().GetNthSegmentID(0)]
    editor.setSegmentationNode.assert_called_once_with(node)
    editor.setSourceVolumeNode.assert_called_once_with(asking.ui.inputSelector.currentNode())


def test_a_concept_that_is_there_asks_replace_or_add(asking: Any, slow_world: World) -> None:
    finish_run(asking, slow_world)
    asking.ui.segmentButton.click()
    assert not asking.run.isRunning()
    assert asking.ui.againFrame.visible
    assert "liver" in asking.ui.askLabel.text
    asking.ui.addButton.click()
    wait_for(lambda: slow_world.engines.running)
    slow_world.finish()
    wait_for(lambda: not asking.run.isRunning())
    assert len(segment_names(asking.results.segmentation())) == 2
    assert slow_world.sent() == 1
    asking.ui.undoButton.click()
    assert segment_names(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]) == ["liver"]


def test_cancel_frees_the_panel_and_leaves_the_scene(asking: Any, slow_world: World) -> None:
    before = node_names()
    asking.ui.segmentButton.click()
    wait_for(lambda: slow_world.engines.running)
    asking.ui.segmentButton.click()
    assert not asking.run.isRunning()
    assert asking.ui.statusLabel.text == "Cancelled. The scene is as it was."
    assert node_names() == before
    assert lines(asking.ui.resultsTable) == []


def test_scene_that_closes_ends_the_run(asking: Any, slow_world: World) -> None:
    asking.ui.segmentButton.click()
    wait_for(lambda: slow_world.engines.running)
    slicer.mrmlScene.Clear(0)
    assert not asking.run.isRunning()
    assert not asking.ui.segmentButton.enabled
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_volume_that_goes_in_the_middle_is_a_sentence(asking: Any, slow_world: World) -> None:
    asking.ui.segmentButton.click()
    wait_for(lambda: slow_world.engines.running)
    slicer.mrmlScene.RemoveNode(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")[0])
    slow_world.finish()
    wait_for(lambda: not asking.run.isRunning())
    assert asking.ui.statusLabel.text
    assert slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


def test_suggestions_are_taken_by_keyboard(panel: Any) -> None:
    type_text(panel.ui.conceptsEdit, "spleen, liv")
    popup = panel.concepts._completer.popup()
    assert popup.isVisible()
    QTest.keyClick(popup, ENTER)
    assert panel.ui.conceptsEdit.plainText == "spleen, liver"
    assert not popup.isVisible()


def test_a_misspelt_word_is_corrected_by_its_link(panel: Any) -> None:
    panel.concepts.setText("spleen, kidny")
    assert "Did you mean" in panel.ui.hintLabel.text
    panel.ui.hintLabel.linkActivated.emit("kidny|kidney")
    assert panel.concepts.concepts() == ["spleen", "kidney"]
    assert not panel.ui.hintLabel.visible


def test_a_phrase_that_is_too_long_is_hinted_at(panel: Any) -> None:
    panel.concepts.setText("word " * 30)
    assert "25 words" in panel.ui.hintLabel.text


def test_preset_adds_and_history_comes_back(panel: Any, module: Module) -> None:
    panel.concepts.setText("liver")
    panel.ui.presetBox.activated.emit(1)
    assert panel.concepts.concepts()[:2] == ["liver", "spleen"]
    panel.concepts.remember(["rib", "aorta"])
    module.close()
    again = module.open()
    assert again.ui.historyBox.itemText(1) == "rib, aorta"
    again.ui.historyBox.activated.emit(1)
    assert again.concepts.concepts() == ["rib", "aorta"]


@pytest.mark.parametrize("setting", ["", "[1", "{}", "null"])
def test_history_that_is_damaged_is_no_history(panel: Any, setting: str) -> None:
    sys.modules["qt"].QSettings().setValue("MedicalSAM3/History", setting)
    panel.concepts._showHistory()
    assert panel.ui.historyBox.count == 1


def test_presets_are_those_of_the_vocabulary(panel: Any) -> None:
    assert panel.ui.presetBox.count == 1 + len(load_presets())
    panel.ui.presetBox.activated.emit(1)
    first = next(iter(load_presets().values()))
    assert panel.concepts.concepts() == [concept.name for concept in first]


def test_settings_of_the_engine_are_remembered(panel: Any, module: Module) -> None:
    use(panel, "https://host:8765", "secret")
    module.close()
    again = module.open()
    assert (again.engine.settings().kind, again.engine.settings().url) == ("remote", "https://host:8765")
    assert again.logic.engine.token == "secret"
    assert again.ui.urlEdit.enabled
    assert not again.ui.installButton.enabled


def test_server_that_is_not_there_is_a_sentence(panel: Any) -> None:
    use(panel, "http://127.0.0.1:9")
    panel.ui.testButton.click()
    wait_for(lambda: panel.ui.testButton.enabled)
    assert "127.0.0.1" in panel.ui.engineLabel.text or "answer" in panel.ui.engineLabel.text


def test_test_button_fills_the_models(panel: Any, world: World) -> None:
    use(panel, world.url)
    panel.ui.testButton.click()
    wait_for(lambda: panel.ui.modelBox.count > 1)
    assert "ready" in panel.ui.engineLabel.text
    panel.ui.modelBox.setCurrentIndex(2)
    assert not panel.ui.downloadButton.enabled
    assert "licence" in panel.ui.downloadButton.toolTip
    panel.ui.licenceCheckBox.click()
    assert panel.ui.downloadButton.enabled


def test_batch_shows_a_state_for_each_volume(panel: Any, world: World, tmp_path: Path) -> None:
    use(panel, world.url)
    make_volume("one")
    make_volume("two")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    qt_modules.Picked.answer = str(tmp_path)
    panel.ui.batchSceneButton.click()
    panel.ui.batchFolderButton.click()
    panel.concepts.setText("liver")
    assert "looked through" in panel.ui.batchButton.toolTip
    assert not panel.ui.batchButton.enabled
    wait_for(lambda: panel.batch.search is None)
    assert panel.ui.statusLabel.text == "Images found in the folder: 1."
    assert panel.ui.batchButton.enabled
    panel.ui.batchButton.click()
    wait_for(lambda: not panel.batch.isRunning())
    assert [line[:2] for line in lines(panel.ui.batchTable)] == [
        ["one", "done"], ["two", "done"], ["broken.nii.gz", "failed"],
    ]  # fmt: skip
    assert "2 of 3 volumes done, 1 failed" in panel.ui.statusLabel.text


def test_a_batch_saves_to_a_folder_unloads_and_skips_what_is_there(panel: Any, world: World, tmp_path: Path) -> None:
    use(panel, world.url)
    images, results = tmp_path / "images", tmp_path / "results"
    results.mkdir()
    volume = make_volume("mine")
    mrml.written(images / "a.nii.gz", slicer.util.arrayFromVolume(volume))
    panel.concepts.setText("liver")
    ui = panel.ui
    for widget in (ui.batchAgainBox, ui.batchUnloadCheckBox):
        assert not widget.enabled
        assert widget.toolTip == "Choose a folder for the results first."
    assert ui.batchUnloadCheckBox.checked
    for button, folder in (
        (ui.batchFolderButton, images),
        (ui.batchResultsButton, results),
        (ui.batchResultsButton, ""),
    ):
        qt_modules.Picked.answer = str(folder)
        button.click()
    wait_for(lambda: panel.batch.search is None)
    assert ui.batchResultsEdit.text == str(results)
    assert ui.batchAgainBox.enabled
    seen: set[str] = set()
    for state, said in (("done", "1 of 1 volumes done, 0 failed"), ("skipped", "has a result: 1.")):
        ui.batchButton.click()
        assert not ui.batchResultsEdit.enabled
        assert not ui.batchAgainBox.enabled
        wait_for(lambda: seen.add(lines(ui.batchTable)[0][2]) or not panel.batch.isRunning())
        assert lines(ui.batchTable)[0][:2] == ["a.nii.gz", state]
        assert said in ui.statusLabel.text
        assert ui.statusLabel.text.endswith("The folder has it as summary.csv.")
    assert lines(ui.batchTable)[0][2].startswith("a result is there already; liver: found")
    assert any("the image" in text or "the volume" in text for text in seen)
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")] == ["mine"]
    assert sorted(path.name for path in results.iterdir()) == ["a.json", "a.seg.nrrd", "summary.csv"]
    ui.batchAgainBox.setCurrentIndex(1)
    ui.batchUnloadCheckBox.click()
    ui.batchButton.click()
    wait_for(lambda: not panel.batch.isRunning())
    assert lines(ui.batchTable)[0][1] == "done"
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 2


def test_a_results_folder_that_is_not_there_is_a_sentence(panel: Any, world: World, tmp_path: Path) -> None:
    use(panel, world.url)
    make_volume()
    panel.ui.batchSceneButton.click()
    panel.concepts.setText("liver")
    type_text(panel.ui.batchResultsEdit, str(tmp_path / "nowhere"))
    panel.ui.batchButton.click()
    assert panel.ui.statusLabel.text == "The results folder is not there or cannot be written to; choose another one."
    assert not panel.batch.isRunning()
    assert panel.ui.batchButton.enabled


def test_a_folder_with_nothing_is_a_sentence_and_a_dialog_that_was_closed_is_nothing(
    panel: Any, tmp_path: Path
) -> None:
    for answer, said in (("", ""), (str(tmp_path), "The folder holds no image")):
        qt_modules.Picked.answer = answer
        panel.ui.batchFolderButton.click()
        wait_for(lambda: panel.batch.search is None)
        assert panel.ui.statusLabel.text.startswith(said)
        assert lines(panel.ui.batchTable) == []


def test_diagnostics_hold_no_secret(panel: Any) -> None:
    use(panel, "https://secret-host:8765", "secret-token")
    panel.ui.diagnosticsButton.click()
    report = QtWidgets.QApplication.clipboard().text()
    assert "MedicalSAM3" in report
    assert "secret" not in report


def test_opening_again_and_reloading_leaves_nothing(module: Module) -> None:
    first = module.open()
    first.cleanup()
    first.setup()
    module.close()
    assert first.logic is None
    make_volume()  # no observer of the closed panel is left to fail


def test_killed_engine_is_told_and_starts_anew(panel: Any, repository: Path, tmp_path: Path) -> None:
    volume = load_volume(repository / "Resources" / "samples" / "ct_upper_abdomen.nii.gz", "CT")
    panel.concepts.setText("liver")
    seen: set[int] = set()
    panel.ui.segmentButton.click()
    wait_for(lambda: seen.add(panel.ui.progressBar.value) or not panel.run.isRunning())
    assert len(seen) > 2, "the bar moved"
    assert segment_names(panel.results.segmentation()) == ["liver"]
    process = panel.logic._connection.local._process
    process.kill()
    process.wait()
    panel.concepts.setText("spleen")
    panel.ui.segmentButton.click()
    wait_for(lambda: not panel.run.isRunning())
    if panel.results.segmentation() is None:  # told in a sentence; the next run starts it
        assert panel.ui.statusLabel.text
        panel.ui.segmentButton.click()
        wait_for(lambda: not panel.run.isRunning())
    assert segment_names(panel.results.segmentation()) == ["liver", "spleen"]
    assert volume.GetScene() is slicer.mrmlScene
