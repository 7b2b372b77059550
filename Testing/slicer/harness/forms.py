"""Reads a ``.ui`` file into the harness's classes, as ``qt.QUiLoader`` does in Slicer. Unknown classes are an error."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore
from PySide6.QtUiTools import QUiLoader

from Testing.slicer.harness import mrml_widgets
from Testing.slicer.harness.pythonqt import find_class, find_signal


class FormLoader:
    """What the real ``slicer.util.loadUI`` uses."""

    def load(self, file: Any) -> Any:
        """The widget of a form; every object of it is of a harness class and lives as long as the widget.

        Raises:
            LookupError: A class that neither Qt nor the stand-ins have, or a connection that leads nowhere.
        """
        root = ElementTree.fromstring(bytes(file.readAll().data()).decode("utf-8"))
        connections = list(root.iter("connection"))
        for block in root.findall("connections"):
            root.remove(block)  # their signals are known to the stand-ins only
        buffer = io.BytesIO()
        ElementTree.ElementTree(root).write(buffer, encoding="utf-8", xml_declaration=True)
        device = QtCore.QBuffer()
        device.setData(buffer.getvalue())
        device.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        loader = _Loader()
        widget = loader.load(device)
        if loader.unknown or widget is None:
            raise LookupError(f"Unknown classes in the form: {sorted(loader.unknown)} {loader.errorString()}")
        widget._kept = loader.made
        for connection in connections:
            _connect(widget, loader.made, connection)
        return widget


class _Loader(QUiLoader):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.unknown: set[str] = set()

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name == "Line":
            class_name = "QFrame"
        return self._make(mrml_widgets.CLASSES.get(class_name) or find_class(class_name), class_name, parent, name)

    def createLayout(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        # With a parent the loader would give it a second layout where this one is part of another.
        return self._make(find_class(class_name), class_name, parent if _takes_layout(parent) else None, name)

    def _make(self, cls: Any, class_name: str, parent: Any, name: str) -> Any:
        if cls is None:
            self.unknown.add(class_name)
            return super().createWidget("QWidget", parent, name)
        made = cls(parent) if parent is not None else cls()
        QtCore.QObject.setObjectName(made, name)
        self.made.append(made)
        return made


def _takes_layout(parent: Any) -> bool:
    return parent is not None and parent.isWidgetType() and parent.layout() is None


def _connect(root: Any, made: list[Any], connection: ElementTree.Element) -> None:
    words = [connection.findtext(tag) or "" for tag in ("sender", "signal", "receiver", "slot")]
    named = {thing.name: thing for thing in [root, *made]}
    if words[0] not in named or words[2] not in named:
        raise LookupError(f"The form connects {words[0]} to {words[2]}: one of them is not there.")
    find_signal(named[words[0]], words[1]).connect(getattr(named[words[2]], words[3].split("(")[0]))
