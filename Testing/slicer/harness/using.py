"""What a user does: load, type, wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from PySide6.QtTest import QTest

LOOKS = 12_000
PAUSE_S = 0.01


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
