"""Installing what the local engine needs: asked for, listed, agreed to; what Slicer carries stays; taken up again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

import slicer

from MedicalSAM3Lib import installed

TORCH = "torch"


class Pip:
    """This Python's packages, and what installs some: Slicer's own ways, played.

    Attributes:
        lacking: Names of packages that are missing now.
        asked: What was asked to be installed, a list each time.
        fault: Raised in place of installing.
    """

    def __init__(self) -> None:
        self.lacking = {"typer", "rich", "matplotlib", TORCH, "numpy", "SimpleITK"}
        self.asked: list[list[str]] = []
        self.fault: Exception | None = None

    def install(self, requirements: Any, **named: Any) -> None:
        names = [str(one).partition(">")[0] for one in requirements]
        self.asked.append(names)
        if self.fault is not None:
            raise self.fault
        self.lacking -= set(names)

    def version_of(self, requirement: str) -> str:
        return "" if installed.package_of(requirement) in self.lacking else "9999.0"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, panel: Any) -> Pip:
    """Slicer 5.12 without any of the packages, and with its PyTorch extension."""
    pip = Pip()
    monkeypatch.setattr(installed, "version_of", pip.version_of)
    packaging = ModuleType("slicer.packaging")
    packaging.pip_ensure = pip.install  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    torch = ModuleType("PyTorchUtils")
    logic = SimpleNamespace(installTorch=lambda askConfirmation: pip.install([TORCH]) or TORCH)
    torch.PyTorchUtilsLogic = lambda: logic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", torch)
    return pip


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user was asked; the answer is yes."""
    asked: list[str] = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: asked.append(text) or True)
    return asked


def test_what_is_missing_is_listed_with_its_size_and_installed_once_agreed(
    panel: Any, pip: Pip, questions: list[str]
) -> None:
    assert pip.asked == [], "nothing by itself"
    panel.ui.installButton.click()
    (question,) = questions
    assert "3500 MB" in question
    assert "matplotlib, rich, typer: about 90 MB" in question
    assert pip.asked == [[TORCH], ["matplotlib", "rich", "typer"]], "what Slicer carries itself stays as it is"
    assert panel.ui.engineLabel.text.startswith("Installed. Press Test")
    panel.ui.installButton.click()
    assert len(questions) == 1
    assert panel.ui.engineLabel.text == "All that the engine needs is installed."


def test_a_user_who_declines_has_nothing_installed(panel: Any, pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: False)
    panel.ui.installButton.click()
    assert pip.asked == []


def test_it_is_taken_up_again_after_a_restart(module: Any, panel: Any, pip: Pip, questions: list[str]) -> None:
    pip.fault = RuntimeError("No space left on device\nmore lines")
    panel.ui.installButton.click()
    assert "torch could not be installed (RuntimeError)" in panel.ui.engineLabel.text
    pip.fault = None
    pip.lacking -= {TORCH}  # it came with the restart
    module.close()
    again = module.open()
    assert not again.ui.engineCollapsibleButton.collapsed
    assert "not complete. Press Install" in again.ui.engineLabel.text
    assert len(pip.asked) == 1, "nothing by itself"
    again.ui.installButton.click()
    assert "torch" not in questions[-1]
    assert pip.asked[1:] == [["matplotlib", "rich", "typer"]]
    module.close()
    assert module.open().ui.engineLabel.text == ""


def test_an_installation_that_ended_with_the_restart_is_told(
    module: Any, panel: Any, pip: Pip, questions: list[str]
) -> None:
    pip.fault = RuntimeError("restart")
    panel.ui.installButton.click()
    pip.lacking.clear()
    module.close()
    assert module.open().ui.engineLabel.text.startswith("The installation is complete. Press Test")


def without_extension(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> None:
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)


def half_installed(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> None:
    pip.fault = TypeError("half an installation")


def declined(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> None:
    monkeypatch.setattr(pip, "install", lambda requirements: None)
    sys.modules["PyTorchUtils"].PyTorchUtilsLogic = lambda: SimpleNamespace(installTorch=lambda askConfirmation: None)


def no_disk(monkeypatch: pytest.MonkeyPatch, pip: Pip) -> None:
    pip.lacking -= {TORCH}
    pip.fault = RuntimeError("No space left on device\nmore lines")


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (without_extension, "Install the PyTorch extension first"),
        (half_installed, "Repair it in the PyTorch module"),
        (declined, "torch was not installed"),
        (no_disk, "could not be installed (No space left on device). What is there already is kept"),
    ],
)
def test_what_fails_is_a_sentence(
    panel: Any, pip: Pip, questions: list[str], monkeypatch: pytest.MonkeyPatch,
    happens: Callable[[pytest.MonkeyPatch, Pip], None], said: str,
) -> None:  # fmt: skip
    happens(monkeypatch, pip)
    panel.ui.installButton.click()
    assert said in panel.ui.engineLabel.text


def test_an_older_slicer_installs_by_its_own_pip(
    panel: Any, pip: Pip, questions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", pip.install, raising=False)
    panel.ui.installButton.click()
    assert pip.asked == [[TORCH], ["matplotlib", "rich", "typer"]]
