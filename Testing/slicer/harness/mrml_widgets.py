"""Stand-ins for the widgets of Slicer and CTK that the panel uses: their properties, signals and manners, our code."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import QComboBox, QFrame, QLineEdit, QToolButton, QVBoxLayout, QWidget

from Testing.slicer.harness.pythonqt import PythonQt


class _qMRMLWidget(QWidget):
    sceneChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        object.__getattribute__(self, "sceneChanged").emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class qMRMLWidget(PythonQt, _qMRMLWidget):
    """Hands the scene on to what the form connects to it."""

    is_stand_in = True
    SIGNALS: ClassVar = {"mrmlSceneChanged(vtkMRMLScene*)": "sceneChanged"}


class _NodeBox(QWidget):
    nodeChanged = Signal(object)
    nodeIDChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QComboBox(self)
        layout.addWidget(self._box)
        self.setFocusProxy(self._box)
        self._scene: Any = None
        self._tags: list[int] = []
        self._shown: str | None = None
        self._options: dict[str, Any] = {
            "nodeTypes": [], "noneEnabled": False, "noneDisplay": "None", "addEnabled": True, "removeEnabled": True,
            "renameEnabled": False, "editEnabled": False, "showHidden": False, "showChildNodeTypes": True,
            "selectNodeUponCreation": True, "baseName": "", "nodeTypeLabel": "",
        }  # fmt: skip
        self._box.currentIndexChanged.connect(self._tell)

    def _option(name: str, kind: str) -> Any:  # type: ignore[misc]  # noqa: N805 - makes properties, is no method
        def read(self: Any) -> Any:
            return self._options[name]

        def write(self: Any, value: Any) -> None:
            self._options[name] = value
            self._fill()

        return Property(kind, read, write)

    nodeTypes = _option("nodeTypes", "QStringList")
    noneEnabled = _option("noneEnabled", "bool")
    noneDisplay = _option("noneDisplay", "QString")
    addEnabled = _option("addEnabled", "bool")
    removeEnabled = _option("removeEnabled", "bool")
    renameEnabled = _option("renameEnabled", "bool")
    editEnabled = _option("editEnabled", "bool")
    showHidden = _option("showHidden", "bool")
    showChildNodeTypes = _option("showChildNodeTypes", "bool")
    selectNodeUponCreation = _option("selectNodeUponCreation", "bool")
    baseName = _option("baseName", "QString")
    nodeTypeLabel = _option("nodeTypeLabel", "QString")

    def _read_id(self) -> str:
        return self._box.currentData() or ""

    def setCurrentNodeID(self, node_id: str) -> None:
        at = self._box.findData(node_id or "")
        self._box.setCurrentIndex(at if at >= 0 else self._box.findData(""))

    currentNodeID = Property("QString", _read_id, setCurrentNodeID)

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent)
            self._tags = [scene.AddObserver(event, lambda *_ignored: self._fill()) for event in events]
        self._fill()

    def mrmlScene(self) -> Any:
        return self._scene

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._read_id()) if self._scene is not None and self._read_id() else None

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def nodeCount(self) -> int:
        return len(self._nodes())

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        found = []
        for index in range(self._scene.GetNumberOfNodes()):
            node = self._scene.GetNthNode(index)
            exact = node.GetClassName() in self._options["nodeTypes"]
            child = self._options["showChildNodeTypes"] and any(node.IsA(kind) for kind in self._options["nodeTypes"])
            if (exact or child) and (self._options["showHidden"] or not node.GetHideFromEditors()):
                found.append(node)
        return found

    def _fill(self) -> None:
        """As the real one: the choice stays if it is still there; else none, or the first node."""
        wanted = self._read_id()
        self._box.blockSignals(True)
        self._box.clear()
        if self._options["noneEnabled"]:
            self._box.addItem(self._options["noneDisplay"], "")
        for node in self._nodes():
            self._box.addItem(node.GetName(), node.GetID())
        at = self._box.findData(wanted)
        self._box.setCurrentIndex(max(at, 0) if self._box.count() else -1)
        self._box.blockSignals(False)
        self._tell()

    def _tell(self, *ignored: Any) -> None:
        if self._read_id() != self._shown:
            self._shown = self._read_id()
            object.__getattribute__(self, "nodeChanged").emit(self.currentNode())
            object.__getattribute__(self, "nodeIDChanged").emit(self._shown)


class qMRMLNodeComboBox(PythonQt, _NodeBox):
    """Chooses a node of the scene."""

    is_stand_in = True
    SIGNALS: ClassVar = {
        "currentNodeChanged(vtkMRMLNode*)": "nodeChanged",
        "currentNodeIDChanged(QString)": "nodeIDChanged",
    }


class _Collapsible(QFrame):
    contentsCollapsed = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._head = QToolButton(self)
        self._head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._head.setCheckable(True)
        self._head.setChecked(True)
        self._head.toggled.connect(self._apply)
        self._height = self._head.sizeHint().height() + 4
        self._apply(True)

    def _read_text(self) -> str:
        return self._head.text()

    def _write_text(self, text: str) -> None:
        self._head.setText(text)

    text = Property("QString", _read_text, _write_text)

    def _read_collapsed(self) -> bool:
        return not self._head.isChecked()

    def _write_collapsed(self, collapsed: bool) -> None:
        self._head.setChecked(not collapsed)

    collapsed = Property("bool", _read_collapsed, _write_collapsed)

    def showEvent(self, event: Any) -> None:
        super().showEvent(event)
        self._head.raise_()  # above what was made after it

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._head.setGeometry(0, 0, QWidget.width(self), self._height)

    def _apply(self, opened: bool) -> None:
        self._head.setArrowType(Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow)
        # What is inside is cut off and not hidden, so that the panel may show and hide it meanwhile.
        self.setMaximumHeight(16777215 if opened else self._height)
        self.setContentsMargins(0, self._height + (0 if opened else 1000), 0, 0)
        self._head.raise_()
        object.__getattribute__(self, "contentsCollapsed").emit(not opened)


class ctkCollapsibleButton(PythonQt, _Collapsible):
    """A section that opens and closes."""

    is_stand_in = True
    SIGNALS: ClassVar = {"contentsCollapsed(bool)": "contentsCollapsed"}


class _PathEdit(QWidget):
    pathChanged = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit = QLineEdit(self)
        layout.addWidget(self._edit)
        self.setFocusProxy(self._edit)
        self._edit.textChanged.connect(lambda text: object.__getattribute__(self, "pathChanged").emit(text))

    def _read(self) -> str:
        return self._edit.text()

    def setCurrentPath(self, path: str) -> None:
        self._edit.setText(path)

    currentPath = Property("QString", _read, setCurrentPath)


class ctkPathLineEdit(PythonQt, _PathEdit):
    """A path, typed or picked."""

    is_stand_in = True
    SIGNALS: ClassVar = {"currentPathChanged(QString)": "pathChanged"}


CLASSES = {cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox, ctkCollapsibleButton, ctkPathLineEdit)}
"""By the names that a form uses."""
