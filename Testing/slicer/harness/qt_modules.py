"""The modules ``qt`` and ``ctk`` of the harness."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore, QtWidgets

from Testing.slicer.harness import mrml_widgets
from Testing.slicer.harness.pythonqt import find_class


class _Merged(types.ModuleType):
    """QtCore, QtGui and QtWidgets in one, as in Slicer."""

    def __getattr__(self, name: str) -> Any:
        found = None if name.startswith("__") else find_class(name)
        if found is None:
            raise AttributeError(f"module 'qt' has no attribute '{name}'")
        return found


def make_qt(settings: QtCore.QSettings) -> types.ModuleType:
    """``qt``; its ``QSettings()`` is the harness's own file, never the user's."""
    module = _Merged("qt")
    module.QSettings = lambda: settings  # type: ignore[attr-defined]
    module.QMessageBox = Asked  # type: ignore[attr-defined]
    module.QFileDialog = Picked  # type: ignore[attr-defined]
    return module


def make_ctk() -> types.ModuleType:
    """``ctk``: what the form uses of it."""
    module = types.ModuleType("ctk")
    for name, cls in mrml_widgets.CLASSES.items():
        if name.startswith("ctk"):
            setattr(module, name, cls)
    return module


class Asked(QtWidgets.QMessageBox):
    """Pop-ups: none is shown; what would have been asked is kept, and ``answer`` is given."""


class Picked:
    """File dialogs: none is shown; ``answer`` is what a user would have picked, empty = cancelled."""

    answer = ""

    @staticmethod
    def getExistingDirectory(*ignored: Any) -> str:
        return Picked.answer

    @staticmethod
    def getOpenFileName(*ignored: Any) -> str:
        return Picked.answer
