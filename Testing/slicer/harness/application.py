"""The stand-in for the application: what ``slicer`` has beyond MRML, and the life of a scripted module."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import tempfile
import types
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import slicer.util
from PySide6 import QtCore, QtGui, QtWidgets

from Testing.slicer import mrml
from Testing.slicer.harness import qt_modules
from Testing.slicer.harness.forms import FormLoader
from Testing.slicer.harness.mrml_widgets import qMRMLNodeComboBox
from Testing.slicer.harness.pythonqt import like_pythonqt

MODULE = Path(__file__).resolve().parents[3] / "MedicalSAM3"


class App:
    """``slicer.app``: one Qt application, a temporary folder, and nothing that a user could be asked by."""

    applicationName = "Slicer"
    applicationVersion = "5.13 (harness)"
    majorVersion, minorVersion = 5, 13
    os, arch = "linux", "amd64"
    mainApplicationName = "Slicer"

    def __init__(self, qt_app: QtWidgets.QApplication, logic: Any, home: Path) -> None:
        self._qt, self._logic = qt_app, logic
        self.temporaryPath, self.slicerHome = str(home), str(home)
        self.testing = True

    def processEvents(self) -> None:
        self._qt.processEvents()

    def testingEnabled(self) -> bool:
        return self.testing

    def applicationLogic(self) -> Any:
        return self._logic

    def layoutManager(self) -> None:
        return None

    def connect(self, signal: str, slot: Callable[[], None]) -> None:
        assert signal == "startupCompleted()", signal
        self.at_startup = slot

    def setOverrideCursor(self, cursor: Any) -> None:
        self._qt.setOverrideCursor(QtGui.QCursor(cursor))

    def restoreOverrideCursor(self) -> None:
        self._qt.restoreOverrideCursor()


def boot() -> App:
    """Make ``slicer`` look like the application, once a process; called again, it gives what there is.

    Scene and logics are those of the tests of the logic (``mrml``).
    """
    if isinstance(getattr(slicer, "app", None), App):
        return slicer.app
    home = Path(tempfile.mkdtemp(prefix="harness-"))
    _keep_constants()
    mrml.boot()
    qt_app = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    qt_app.setStyle("Fusion")
    settings = QtCore.QSettings(str(home / "Slicer.ini"), QtCore.QSettings.Format.IniFormat)
    qt = sys.modules["qt"] = qt_modules.make_qt(settings)
    qt.QUiLoader = FormLoader  # type: ignore[attr-defined]
    sys.modules["ctk"] = qt_modules.make_ctk()
    sys.modules["slicer.i18n"].translate = lambda context, text: text  # type: ignore[attr-defined]
    slicer.util.startupEnvironment = lambda: dict(os.environ)
    sys.modules["slicer.ScriptedLoadableModule"] = _bases()
    slicer.util.mainWindow = lambda verbose=True: None
    slicer.app = App(qt_app, slicer.kept_alive, home)
    return slicer.app


def _keep_constants() -> None:
    """PySide6 6.12 loses a reference to None, True or False with many a call, and Python ends with the last one; from
    3.12 on nobody counts them."""
    if sys.version_info < (3, 12):
        for constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


def _bases() -> types.ModuleType:
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    for cls in (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic,
                ScriptedLoadableModuleTest):  # fmt: skip
        setattr(module, cls.__name__, cls)
    return module


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.layout = parent.layout()
        self.developerMode = False

    def setup(self) -> None:
        """The application calls it on first opening and on reloading."""

    def resourcePath(self, name: str) -> str:
        return str(MODULE / "Resources" / name)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.parent = parent


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *words: Any) -> None:
        super().__init__("runTest")

    def delayDisplay(self, text: str, *ignored: Any) -> None:
        """Shows a text for a moment in the application."""


class Module:
    """The module as the application loads it: file executed, metadata made, panel built when it is opened."""

    def __init__(self) -> None:
        boot()
        _package("MedicalSAM3Slicer")
        spec = importlib.util.spec_from_file_location("MedicalSAM3Module", MODULE / "MedicalSAM3.py")
        assert spec is not None
        assert spec.loader is not None
        self.code: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.code)
        self.metadata = types.SimpleNamespace()
        self.instance = self.code.MedicalSAM3(self.metadata)
        self.frame: Any = None
        self.widget: Any = None

    def open(self, size: tuple[int, int] = (520, 900)) -> Any:
        """What happens when a user chooses the module."""
        self.frame = like_pythonqt(QtWidgets.QWidget)()
        self.frame.setLayout(like_pythonqt(QtWidgets.QVBoxLayout)())
        self.widget = self.code.MedicalSAM3Widget(self.frame)
        slicer.modules.MedicalSAM3Widget = self.widget
        self.widget.setup()
        self.frame.resize(*size)
        self.frame.show()
        self.frame.activateWindow()
        slicer.app.processEvents()
        if hasattr(self.widget, "enter"):
            self.widget.enter()
        return self.widget

    def close(self) -> None:
        """What happens when the application ends or the module is reloaded."""
        if self.widget is not None:
            if hasattr(self.widget, "exit"):
                self.widget.exit()
            self.widget.cleanup()
            for box in self.frame.findChildren(qMRMLNodeComboBox):
                box.setMRMLScene(None)
            self.frame.delete()
            self.widget = None


def _package(name: str) -> None:
    """Make the module's package importable by its own name, as the module path does in Slicer."""
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        name, MODULE / name / "__init__.py", submodule_search_locations=[str(MODULE / name)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
