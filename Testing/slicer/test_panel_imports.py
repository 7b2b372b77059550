"""What opening the panel loads, in a process of its own: Slicer, numpy, the standard library, our light part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")
pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)

SCRIPT = """
import sys
from Testing.slicer.harness.application import Module, boot
boot()
before = set(sys.modules)
module = Module()
module.open()
print("LOADED", *{name.split(".")[0] for name in set(sys.modules) - before})
module.close()
"""
OURS = {"MedicalSAM3Lib", "MedicalSAM3Slicer", "slicer", "vtk", "vtkmodules", "numpy"}


def test_opening_loads_nothing_that_slicer_has_not(repository: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(next(line for line in done.stdout.splitlines() if line.startswith("LOADED")).split()[1:])
    assert "MedicalSAM3Lib" in loaded
    assert loaded - OURS <= set(sys.stdlib_module_names)
