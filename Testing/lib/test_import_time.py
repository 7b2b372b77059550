"""What the command line loads before it has something to do. Modules, not seconds: a slow machine is no failure.

What the package and its light modules load is tested beside the direction of imports, in ``test_imports.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "SimpleITK", "pydicom", "matplotlib", "scipy", "PIL", "tifffile"}


def loaded_by(repository: Path, statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["segment", "--help"], ["models", "--help"], ["--version"]])
def test_asking_for_help_loads_no_numpy_and_nothing_heavy(repository: Path, words: list[str]) -> None:
    loaded = loaded_by(repository, f"from MedicalSAM3Lib.cli import main\nassert main({words}) == 0")
    assert "typer" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy"})


def test_listing_models_and_concepts_loads_nothing_heavy(repository: Path) -> None:
    asked = "from MedicalSAM3Lib.cli import main\nassert main(['models', 'list']) == main(['concepts', 'list']) == 0"
    assert loaded_by(repository, asked).isdisjoint(HEAVY)


def test_importing_the_parts_of_the_command_line_loads_nothing_heavy(repository: Path) -> None:
    assert loaded_by(repository, "import MedicalSAM3Lib.doctor, MedicalSAM3Lib.demo").isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "words",
    [
        ["segment", "gone.nii", "-c", "liver"],
        ["segment", "README.md", "-c", ""],
        ["segment", "README.md", "-c", "liver", "-m", "none"],
        ["doctor", "--volume", "gone.nii", "-c", "liver"],
    ],
)
def test_a_wrong_call_is_refused_before_torch_is_loaded(repository: Path, words: list[str]) -> None:
    asked = f"from MedicalSAM3Lib.cli import main\nassert main({words}) == 2"
    assert loaded_by(repository, asked).isdisjoint({"torch", "transformers"})


def test_every_public_name_exists(repository: Path) -> None:
    """In a fresh interpreter, because the lazy import must not lean on what another test has imported."""
    loaded_by(repository, "import MedicalSAM3Lib\n[getattr(MedicalSAM3Lib, name) for name in MedicalSAM3Lib.__all__]")
