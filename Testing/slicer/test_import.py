"""Weights that the user has: brought to the engine on this computer, cancelled, refused; by logic and panel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

import slicer
from PySide6 import QtCore
from PySide6.QtTest import QTest

from MedicalSAM3.MedicalSAM3Slicer import engine_child, local_engine, weights_file
from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic
from MedicalSAM3.MedicalSAM3Slicer.task import ThreadTask, UserError
from MedicalSAM3Lib import registry
from MedicalSAM3Lib.model_folder import CARD_FILE
from Testing.lib.small_world import save_foreign_model
from Testing.server.live import environment
from Testing.slicer.engine_world import until
from Testing.slicer.harness.using import type_text, use, wait_for


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (environment() | {"MEDSAM3_HOME": str(tmp_path / "home")}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_foreign_model(tmp_path_factory.mktemp("foreign") / "My weights")


@pytest.fixture
def logic() -> Any:
    logic = MedicalSAM3Logic(EngineSettings("local", model="tiny", device="cpu"))
    yield logic
    logic.close()


def installed() -> list[str]:
    """What lies among the models, hidden things too."""
    folder = registry.home() / "models"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_names_and_licences_follow_the_file() -> None:
    assert weights_file.suggestedName("") == ""
    assert weights_file.suggestedName("a/checkpoint_2D.pt") == "checkpoint_2d"
    assert weights_file.suggestedName("a/sam3.pt") == "sam3-imported"
    assert weights_file.suggestedName("My weights/config.json") == "my-weights"
    assert "SAM License" in weights_file.licenceText("a/sam3.pt")
    assert "MIT" in weights_file.licenceText("a/checkpoint_2D.pt")
    assert "whoever gave you the file" in weights_file.licenceText("a/other.pt")


def test_a_folder_is_imported_through_its_configuration(logic: Any, weights: Path) -> None:
    task = logic.importModel(str(weights / "config.json"), "own", True)
    seen: set[str] = set()
    assert task.wait(lambda progress: seen.add(progress.stage)) == "own"
    assert {"Reading the weights", "Writing the model"} & seen
    assert installed() == ["own"]
    assert "ask whoever gave you the file" in (registry.home() / "models" / "own" / CARD_FILE).read_text()
    assert not logic._connection.local.isAlive(), "that needs no engine"
    again = logic.importModel(str(weights), "own", True)
    with pytest.raises(UserError, match="'own' is installed already; choose another name"):
        again.wait()


def test_what_cannot_begin_is_refused(logic: Any, weights: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        logic.importModel("gone.pt", "own", True)
    with pytest.raises(UserError, match="Read the licence"):
        logic.importModel(str(weights), "own", False)
    with pytest.raises(UserError, match="name"):
        logic.importModel(str(weights), " ", True)
    logic.setEngine(EngineSettings("remote", "http://127.0.0.1:9"))
    with pytest.raises(UserError, match="the engine on this computer only"):
        logic.importModel(str(weights), "own", True)


def test_a_cancelled_import_ends_its_process_and_leaves_nothing(logic: Any, weights: Path, monkeypatch: Any) -> None:
    children: list[Any] = []
    real = engine_child.subprocess.Popen
    monkeypatch.setattr(
        engine_child.subprocess, "Popen", lambda *w, **n: children.append(real(*w, **n)) or children[-1]
    )
    task = logic.importModel(str(weights), "own", True)
    until(lambda: task.poll() and children)
    task.cancel()
    assert task.state == "cancelled"
    until(lambda: not task._thread.is_alive())
    assert children[0].poll() is not None
    assert installed() == []


def test_a_python_that_ends_early_or_is_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(settings: EngineSettings, module: str) -> Any:
        return ThreadTask(lambda task: engine_child.runChild(task, settings, module, [])).begin().wait()

    with pytest.raises(UserError, match=r"could not do it: .*No module named MedicalSAM3Lib\.no_such_module"):
        run(EngineSettings(), "no_such_module")
    with pytest.raises(UserError, match="ended without a word"):
        run(EngineSettings(), "errors")
    monkeypatch.setattr(engine_child, "python", lambda settings: str(Path(__file__).parent))
    with pytest.raises(UserError, match="cannot be started; choose another one"):
        run(EngineSettings(), "errors")
    assert local_engine.python(EngineSettings())


# --- the panel ---


def test_the_button_says_why_it_is_grey(panel: Any, weights: Path) -> None:
    ui = panel.ui
    assert "Choose the file" in ui.importButton.toolTip
    ui.importPathEdit.currentPath = str(weights / "config.json")
    assert ui.importNameEdit.text == "my-weights"
    assert "whoever gave you the file" in ui.importLicenceLabel.text
    assert "licence" in ui.importButton.toolTip
    ui.importCheckBox.click()
    assert ui.importButton.enabled
    ui.importNameEdit.clear()
    ui.importNameEdit.setFocus()
    QTest.keyClick(ui.importNameEdit, QtCore.Qt.Key.Key_Return)
    assert "name" in ui.importButton.toolTip
    use(panel, "http://127.0.0.1:9")
    assert not ui.importButton.enabled
    assert "this computer only" in ui.importButton.toolTip
    assert not ui.importPathEdit.enabled
    ui.localRadio.click()
    type_text(ui.importNameEdit, "own")
    QTest.keyClick(ui.importNameEdit, QtCore.Qt.Key.Key_Return)
    assert ui.importButton.enabled
    ui.importPathEdit.currentPath = str(weights)
    assert not ui.importCheckBox.checked, "that is another licence"


def test_weights_are_imported_by_keys_chosen_checked_and_removed(
    panel: Any, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui = panel.ui
    ui.importPathEdit.currentPath = str(weights)
    for widget in (ui.importCheckBox, ui.importButton):
        widget.setFocus()
        QTest.keyClick(widget, QtCore.Qt.Key.Key_Space)
    assert (ui.importButton.text, ui.importBar.visible) == ("Cancel", True)
    assert not ui.importNameEdit.enabled
    wait_for(lambda: panel.imports.task is None)
    assert ui.engineLabel.text == "my-weights: imported."
    assert ui.importButton.text == "Import"
    assert not ui.importBar.visible
    wait_for(lambda: panel.models.task is None)
    assert panel.models.model() == "my-weights"
    assert "installed" in ui.modelBox.itemText(ui.modelBox.currentIndex)
    assert [ui.importBaseBox.itemText(index) for index in range(ui.importBaseBox.count)][1:] == ["my-weights"]
    ui.verifyButton.click()
    assert not ui.removeButton.enabled
    assert "Wait" in ui.removeButton.toolTip
    wait_for(lambda: panel.models.task is None and "checked, and whole" in ui.engineLabel.text)
    wait_for(lambda: ui.removeButton.enabled)
    answers = iter([False, True])
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: next(answers))
    ui.removeButton.click()
    assert panel.models.task is None, "the user said no"
    ui.removeButton.click()
    wait_for(lambda: panel.models.task is None and "removed" in ui.engineLabel.text)
    assert installed() == []
    assert "installed" in ui.verifyButton.toolTip


def test_a_panel_that_was_cancelled_is_free_at_once(panel: Any, weights: Path) -> None:
    ui = panel.ui
    ui.importPathEdit.currentPath = str(weights)
    ui.importCheckBox.click()
    ui.importButton.click()
    ui.importButton.click()
    assert panel.imports.task is None
    assert ui.engineLabel.text == "Cancelled; nothing was installed."
    assert ui.importButton.enabled


def test_a_failed_import_is_a_sentence_in_the_panel(panel: Any, tmp_path: Path) -> None:
    (tmp_path / "letter.pt").write_text("no weights")
    panel.ui.importPathEdit.currentPath = str(tmp_path / "letter.pt")
    panel.ui.importCheckBox.click()
    panel.ui.importButton.click()
    wait_for(lambda: panel.imports.task is None)
    assert "letter.pt" in panel.ui.engineLabel.text
    assert installed() == []
