"""Tests that need Slicer's own classes are skipped, with the reason, where the wheel is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NEVER_MS = 3_600_000
HAS_SLICER = find_spec("slicer") is not None

if HAS_SLICER:
    from Testing.slicer import mrml  # what the files of the module import must be there before them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``slicer``."""
    skip = pytest.mark.skip(reason="slicer-core is not installed: pip install 'medical-sam3[slicer]'")
    for item in items:
        if not HAS_SLICER and item.get_closest_marker("slicer"):
            item.add_marker(skip)


@pytest.fixture
def scene() -> Iterator[Any]:
    """An empty scene."""
    scene = mrml.boot()
    scene.Clear(0)
    yield scene
    scene.Clear(0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Any]:
    """A server whose engines answer at once."""
    from Testing.slicer.engine_world import serving_world

    with serving_world(tmp_path) as world:
        yield world


@pytest.fixture
def slow_world(tmp_path: Path) -> Iterator[Any]:
    """A server whose engines answer when the test says so."""
    from Testing.slicer.engine_world import serving_world

    with serving_world(tmp_path, at_once=False) as world:
        yield world


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, not opened yet, in an empty scene with empty settings. It asks no engine by itself."""
    import slicer

    from Testing.slicer.harness import pythonqt
    from Testing.slicer.harness.application import Module, boot

    boot()
    sys.modules["qt"].QSettings().clear()
    slicer.mrmlScene.Clear(0)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # as the application has it
    pythonqt.FAULTS.clear()
    module = Module()
    monkeypatch.setattr("MedicalSAM3Slicer.widget_prediction.WAIT_MS", NEVER_MS)
    yield module
    module.close()
    slicer.mrmlScene.Clear(0)
    assert pythonqt.FAULTS == []


@pytest.fixture
def panel(module: Any) -> Any:
    """The opened panel."""
    return module.open()


@pytest.fixture
def logic(scene: Any, world: Any) -> Iterator[Any]:
    """A logic that asks ``world``."""
    from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic

    logic = MedicalSAM3Logic(EngineSettings("remote", world.url))
    yield logic
    logic.close()


@pytest.fixture
def slow_logic(scene: Any, slow_world: Any) -> Iterator[Any]:
    """A logic that asks ``slow_world``."""
    from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic

    logic = MedicalSAM3Logic(EngineSettings("remote", slow_world.url))
    yield logic
    logic.close()
