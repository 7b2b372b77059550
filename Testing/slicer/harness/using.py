"""What a user does: load, type, wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from PySide6 import QtCore
from PySide6.QtTest import QTest

from Testing.slicer import mrml

LOOKS = 12_000
PAUSE_S = 0.01
ENTER = QtCore.Qt.Key.Key_Return


def load_volume(path: Path, name: str) -> Any:
    """A volume of the scene, read from a file by Slicer's own reader."""
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    slicer.mrmlScene.AddNode(storage)
    assert storage.ReadData(node)
    slicer.mrmlScene.AddNode(node)
    node.SetAndObserveStorageNodeID(storage.GetID())
    node.CreateDefaultDisplayNodes()
    return node


def type_text(widget: Any, text: str) -> None:
    """Key by key."""
    widget.setFocus()
    QTest.keyClicks(widget, text)


def wait_for(holds: Callable[[], Any]) -> None:
    """Let Qt work until something holds; that it never does is a failure.

    Looks are counted, not seconds: a machine that stops all processes for a while is no failure.
    """
    for _ in range(LOOKS):
        slicer.app.processEvents()
        if holds():
            return
        time.sleep(PAUSE_S)
    raise AssertionError("it did not come")


def use(panel: Any, url: str, token: str = "") -> None:
    """Choose a server as a user does."""
    panel.ui.remoteRadio.click()
    for edit, text in ((panel.ui.urlEdit, url), (panel.ui.tokenEdit, token)):
        edit.clear()
        type_text(edit, text)
        QTest.keyClick(edit, ENTER)


def make_volume(name: str = "CT") -> Any:
    """A volume of the scene with what ``engine_world.VALUES`` names liver and spleen."""
    values = np.zeros((6, 7, 8), np.int16)
    values[1:4, 1:5, 0:3], values[1:3, 2:6, 4:7] = 1, 2
    return mrml.volume(values, name=name)


def lines(table: Any) -> list[list[str]]:
    """The texts of a table."""
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def segment_names(node: Any) -> list[str]:
    """In their order."""
    inner = node.GetSegmentation()
    return [inner.GetSegment(one).GetName() for one in inner.GetSegmentIDs()]


def finish_run(panel: Any, world: Any) -> None:
    """Press Segment, and let the engine finish."""
    panel.ui.segmentButton.click()
    wait_for(lambda: world.engines.running)
    world.finish()
    wait_for(lambda: not panel.run.isRunning())
