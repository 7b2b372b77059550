"""The checks of the extensions index pass, and each of them finds what it is there for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from Testing.slicer import check_extension as checks
from Testing.slicer import repository_address as address


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


def test_the_address_has_to_be_set_before_submission(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    address.write(copy, "https://github.com/some-body/SlicerMedicalSAM3")
    assert list(checks.address_is_set(copy)) == []
    for file in (address.ENTRY, *address.REPEATED):
        text = (copy / file).read_text(encoding="utf-8")
        assert "/some-body/SlicerMedicalSAM3" in text
        assert "OWNER" not in text
    for check in (checks.one_address, checks.top_level_cmake, checks.pictures, checks.catalogue_entry):
        assert list(check(copy)) == []
    entry = copy / address.ENTRY
    entry.write_text(entry.read_text(encoding="utf-8").replace("some-body", "OWNER"), encoding="utf-8")
    assert any("not set" in line for line in checks.address_is_set(copy))
    assert len(list(checks.one_address(copy))) == 2
    monkeypatch.setattr(checks, "CHECKS", ())
    monkeypatch.setattr(checks, "BEFORE_SUBMISSION", (lambda root: checks.address_is_set(copy),))
    monkeypatch.setattr(checks.BEFORE_SUBMISSION[0], "__name__", "address_is_set", raising=False)
    assert (checks.main(), checks.main(["--submission"])) == (0, 1)
    assert "before the extension is submitted" in capsys.readouterr().out.casefold()


@pytest.mark.parametrize(
    "given",
    ["", "https://github.com/OWNER/SlicerMedicalSAM3", "https://github.com/a/Other", "http://github.com/a/SlicerMedicalSAM3",
     "https://github.com/a b/SlicerMedicalSAM3", "https://example.org/a/SlicerMedicalSAM3"],
)  # fmt: skip
def test_what_is_no_address_changes_nothing(copy: Path, given: str) -> None:
    before = [(copy / name).read_bytes() for name in (address.ENTRY, *address.REPEATED)]
    with pytest.raises(ValueError, match=r"expected https://github\.com/ACCOUNT/SlicerMedicalSAM3"):
        address.write(copy, given)
    assert [(copy / name).read_bytes() for name in (address.ENTRY, *address.REPEATED)] == before


def test_an_address_of_the_command_line_is_needed(capsys) -> None:
    assert address.main([]) == address.main(["x", "y"]) == address.main(["x"]) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"homepage": "x"}, "homepage"), ({"tier": 2}, "tier"), ({"tier": "1"}, "tier"), ({"scm_url": "x"}, "scm_url"),
        ({"category": "Other"}, "category"), ({"build_dependencies": [1]}, "names"), ({"$schema": "x"}, "schema"),
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
        ("CMakeLists.txt", "github.com/OWNER", "github.com/other", checks.one_address),
        ("MedicalSAM3/MedicalSAM3Slicer/sample.py", "OWNER", "other", checks.one_address),
        ("LICENSE.txt", "Apache License", "Other", checks.licence),
        ("MedicalSAM3/MedicalSAM3.py", "import qt\n", "import qt\nimport torch\n", checks.file_scope),
        ("MedicalSAM3/MedicalSAM3.py", "import qt\n", "import qt\nprint(1)\n", checks.file_scope),
        ("MedicalSAM3/MedicalSAM3.py", "import qt\n", "import qt\nx = qt.QTimer()\n", checks.file_scope),
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
