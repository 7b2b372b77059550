"""The checks of the extensions index pass, and each of them finds what it is there for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from Testing.slicer import check_extension as checks


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_the_extension_passes(repository: Path, check: Callable) -> None:
    assert list(check(repository)) == []


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A copy of what the checks read."""
    for name in ("CMakeLists.txt", "LICENSE.txt"):
        shutil.copy(repository / name, tmp_path)
    shutil.copytree(repository / "MedicalSAM3", tmp_path / "MedicalSAM3", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Icons", "Screenshots"):
        shutil.copytree(repository / "Resources" / name, tmp_path / "Resources" / name)
    shutil.copy(repository / "Resources" / "MedicalSAM3.json", tmp_path / "Resources")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"homepage": "x"}, "homepage"), ({"tier": 2}, "tier"), ({"tier": "1"}, "tier"), ({"scm_url": "x"}, "scm_url"),
        ({"category": "Other"}, "category"), ({"$schema": "x"}, "schema"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_found(copy: Path, change: dict, said: str) -> None:
    file = copy / "Resources" / "MedicalSAM3.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert any(said in line for line in checks.catalogue_entry(copy))


@pytest.mark.parametrize(
    ("file", "old", "new", "check"),
    [
        ("CMakeLists.txt", "project(MedicalSAM3)", "project(Other)", checks.top_level_cmake),
        ("CMakeLists.txt", "slicer.png", "gone.png", checks.pictures),
        ("LICENSE.txt", "Apache License", "Other", checks.licence),
        ("MedicalSAM3/MedicalSAM3.py", "import qt\n", "import qt\nimport torch\n", checks.file_scope),
        ("MedicalSAM3/MedicalSAM3.py", "import qt\n", "import qt\nprint(1)\n", checks.file_scope),
        ("MedicalSAM3/MedicalSAM3.py", "import qt\n", "import qt\nfor x in ():\n    pass\n", checks.file_scope),
        (
            "MedicalSAM3/MedicalSAM3Slicer/install.py",
            "(list(plan.missing))",
            '("torch")',
            checks.torch_by_its_extension,
        ),
        ("MedicalSAM3/Resources/UI/MedicalSAM3.ui", "removeButton", "otherButton", checks.downloads_can_be_removed),
        ("MedicalSAM3/README.md", "## Tutorial", "## Other", checks.module_readme),
    ],
)
def test_what_is_wrong_is_found(copy: Path, file: str, old: str, new: str, check: Callable) -> None:
    path = copy / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert list(check(copy))
