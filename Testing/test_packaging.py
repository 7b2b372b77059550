"""The wheel carries the library, the training code and ``Resources/``, and works from a folder of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel, as an installer would lay it out."""
    repository = Path(__file__).resolve().parent.parent
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(repository)], check=True, capture_output=True)
    (wheel,) = folder.glob("medical_sam3-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def names(folder: Path, pattern: str) -> set[str]:
    found = (path for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.mark.parametrize("package", ["MedicalSAM3Lib", "Training"])
def test_wheel_holds_every_module(site: Path, repository: Path, package: str) -> None:
    assert names(site / package, "*.py") == names(repository / package, "*.py")


def test_wheel_holds_the_recipes(site: Path, repository: Path) -> None:
    assert names(site / "Training", "*.yaml") == names(repository / "Training", "*.yaml") != set()


def test_wheel_holds_the_resources_that_a_run_needs(site: Path, repository: Path) -> None:
    on_disk = names(repository / "Resources", "*")
    needed = {
        name
        for name in on_disk
        if not name.startswith(("Icons/", "Screenshots/", "CMakeLists.txt", "MedicalSAM3.json"))
    }
    assert names(site / "MedicalSAM3Lib" / "Resources", "*") == needed


def test_wheel_finds_its_resources(site: Path) -> None:
    script = "from MedicalSAM3Lib.resources import resource; print(resource('concepts.csv'))"
    done = subprocess.run([sys.executable, "-c", script], cwd=site, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == site / "MedicalSAM3Lib" / "Resources" / "concepts.csv"


def test_wheel_holds_nothing_of_slicer_tests_or_caches(site: Path) -> None:
    tops = {path.name for path in site.iterdir()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"MedicalSAM3Lib", "Training"}
    assert not [name for name in names(site, "*") if name.endswith((".pyc", "CMakeLists.txt"))]


def test_metadata_names_command_licence_and_extras(site: Path) -> None:
    (info,) = site.glob("*.dist-info")
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert re.search(r"^Name: medical-sam3$", metadata, re.MULTILINE)
    assert re.search(r"^License-Expression: Apache-2.0$", metadata, re.MULTILINE)
    assert set(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE)) == {
        "batch", "cluster", "dev", "dicom", "ray", "server", "slicer", "surface", "train",
    }  # fmt: skip
    assert "medsam3 = MedicalSAM3Lib.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")
