"""Whether anything is behind: asked for by a press only, told in sentences, without a network too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

from PySide6 import QtWidgets

from MedicalSAM3.MedicalSAM3Slicer import updates
from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from MedicalSAM3Lib import __version__, registry
from MedicalSAM3Lib.model_folder import CARD_FILE, write_sums
from Testing.lib.small_world import save_small_model
from Testing.server.live import environment
from Testing.slicer.engine_world import World
from Testing.slicer.harness.using import use, wait_for

ALL_WELL = ["Packages: all as this version asks for.", "Models: none but the demonstration model could be compared."]


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (environment() | {"MEDSAM3_HOME": str(tmp_path / "home")}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a child was asked, in place of one that finds all well."""
    asked: list[list[str]] = []

    def run(task: Any, settings: Any, module: str, words: list[str]) -> dict[str, Any]:
        asked.append([module, *words])
        return {"ok": True, "version": __version__, "packages": [], "models": []}

    monkeypatch.setattr(updates, "runChild", run)
    return asked


def local(version: str = "") -> Any:
    """A connection to an engine on this computer, which runs in this version, or does not."""
    client = SimpleNamespace(capabilities=lambda: {"version": version}) if version else None
    return SimpleNamespace(local=object(), settings=EngineSettings(), running=lambda: client)


def test_without_a_network_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_small_model(registry.home() / "models" / "sam3")
    (folder / CARD_FILE).write_text(f"Converted from `sam3.pt` (SHA-256 {'a' * 64}).\n", encoding="utf-8")
    write_sums(folder)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    logic = MedicalSAM3Logic(EngineSettings("local"))
    told = logic.checkForUpdates().wait()
    assert told[0] == "Engine: not running; it will start with the library of this extension."
    assert told[2] == "Model sam3: not compared, the hub could not be reached or is not to be asked. It works without."
    assert __version__ in told[3]
    assert logic._connection.local._process is None, "no engine is started for it"
    logic.close()


def test_an_engine_of_another_version_is_told_and_how_to_end_it(asked: list[list[str]]) -> None:
    task: Any = SimpleNamespace(report=lambda progress: None)
    assert updates.checkForUpdates(task, local(__version__))[:3] == ["Engine: up to date.", *ALL_WELL]
    old = updates.checkForUpdates(task, local("0.0.1"))[0]
    assert old.startswith(f"Engine: version 0.0.1 runs, this extension has {__version__}. Press Stop engine")
    assert [words[0] for words in asked] == ["update_check", "update_check"]
    assert {"pydantic>=2.7", "torch>=2.6"} <= set(asked[0])


def test_packages_and_models_become_sentences() -> None:
    packages = [
        {"name": "rich", "installed": "1.0", "asked": "13.7"}, {"name": "torch", "installed": "", "asked": "2.6"},
    ]  # fmt: skip
    assert "too old: rich 1.0 (needs 13.7), torch. Press Install" in updates.packagesText(packages)
    from typing import get_args

    from MedicalSAM3Lib.update_check import State

    assert set(updates.modelStates()) == set(get_args(State))
    told = {"models": [{"name": "sam3", "title": "", "state": "newer"}]}
    assert updates.modelTexts(told)[0].startswith("Model sam3: another file is offered now")


def test_of_a_server_only_its_version_is_asked(world: World, asked: list[list[str]]) -> None:
    logic = MedicalSAM3Logic(EngineSettings("remote", world.url))
    told = logic.checkForUpdates().wait()
    assert told[0] == f"Server: of this extension's version, {__version__}."
    assert "up to whoever runs it" in told[1]
    assert asked == []
    assert "older than" in updates.serverText("0.0.1")
    assert "update the extension" in updates.serverText("999.0")
    logic.setEngine(EngineSettings("remote", "http://127.0.0.1:9"))
    with pytest.raises(UserError, match="reaches it"):
        logic.checkForUpdates().wait()


def test_nothing_is_asked_before_the_press_and_the_answer_is_in_the_diagnostics(
    panel: Any, world: World, asked: list[list[str]]
) -> None:
    use(panel, world.url)
    assert (world.requests, asked) == ([], [])
    panel.ui.updatesButton.click()
    assert not panel.ui.updatesButton.enabled
    wait_for(lambda: panel.ui.updatesButton.enabled)
    assert panel.ui.engineLabel.text.startswith("Server: of this extension's version")
    panel.ui.diagnosticsButton.click()
    assert "Said: Server: of this extension's version" in QtWidgets.QApplication.clipboard().text()
    panel.ui.localRadio.click()
    panel.ui.updatesButton.click()
    wait_for(lambda: panel.ui.updatesButton.enabled)
    assert panel.ui.engineLabel.text.splitlines()[1:3] == ALL_WELL
