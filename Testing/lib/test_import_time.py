"""What an import loads. Which modules, not how many seconds: the heavy ones are what takes the time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import MedicalSAM3Lib

HEAVY = ("torch", "transformers", "SimpleITK", "pydicom", "matplotlib", "scipy", "PIL", "tifffile")
LIGHT_MODULES = (
    *("structures", "errors", "config", "geometry", "files", "dicom", "resources", "registry"),
    *("concepts", "report", "cli", "doctor", "demo", "model_folder", "preview", "overlap"),
)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join({{name.partition('.')[0] for name in sys.modules}}))"
    environment = {**os.environ, "PYTHONPATH": str(Path(MedicalSAM3Lib.__file__).parents[1])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(run.stdout.splitlines())


def test_the_package_loads_nothing_but_itself() -> None:
    assert loaded_by("import MedicalSAM3Lib").isdisjoint({*HEAVY, "numpy", "pydantic", "rich"})


def test_help_loads_no_numpy() -> None:
    asked = "from MedicalSAM3Lib.cli import main\nassert main(['segment', '--help']) == 0"
    assert loaded_by(asked).isdisjoint({*HEAVY, "numpy"})


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_importing_a_light_module_loads_no_heavy_library(module: str) -> None:
    assert loaded_by(f"import MedicalSAM3Lib.{module}").isdisjoint(HEAVY)


def test_the_public_names_exist() -> None:
    """In a fresh interpreter, because the lazy import must not lean on what another test has imported."""
    loaded_by("import MedicalSAM3Lib\n[getattr(MedicalSAM3Lib, name) for name in MedicalSAM3Lib.__all__]")
