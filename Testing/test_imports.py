"""The direction of dependency, read from the source, and what an import loads, tried in a new process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TORCH_FREE = (
    "MedicalSAM3Lib",
    *(
        f"MedicalSAM3Lib.{name}"
        for name in (
            "structures errors config geometry files dicom resources registry codes concepts words spelling completion "
            "interpret presets report cli engine_port masks_wire volume_files result_files server serving "
            "server_settings client cli_remote engine engines engine_process volume_cache time_left local_server"
        ).split()
    ),
)
HEAVY = {"torch", "transformers", "matplotlib", "SimpleITK", "scipy"}

VTK = {"vtk", "vtkmodules"}
NOT_IN_THE_LIBRARY = {"slicer", "qt", "ctk", *VTK, "MedicalSAM3", "Training", "Testing"}
NOT_IN_TRAINING = {"slicer", "qt", "ctk", *VTK, "MedicalSAM3", "Testing"}
SLICER_MAY_IMPORT_FIRST = {
    "slicer",
    "qt",
    "ctk",
    "vtk",
    "numpy",
    "SimpleITK",
    "scipy",
    "MedicalSAM3Slicer",
    "MedicalSAM3Lib",
}
PURE_SLICER_FILES = {"options.py"}
SLICER_CARRIES = {"numpy", "MedicalSAM3Lib"} | set(sys.stdlib_module_names)
"""What 3D Slicer's own Python has; the client must run in it as it is."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that a tree imports, in full, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def tops(path: Path) -> set[str]:
    """The first parts of what a file imports."""
    return {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}


def first_lines(path: Path) -> Iterator[str]:
    """What a file imports when it is imported itself: not what its functions import."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from imported(node)


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, folder
    return found


def test_library_knows_neither_slicer_nor_training(repository: Path) -> None:
    for path in sources(repository / "MedicalSAM3Lib"):
        forbidden = NOT_IN_THE_LIBRARY - (VTK if path.name.startswith("surface") else set())
        assert not tops(path) & forbidden, path.name


def test_vtk_is_imported_only_where_it_is_used(repository: Path) -> None:
    for path in sources(repository / "MedicalSAM3Lib"):
        assert not (VTK | {"trimesh"}) & {name.split(".")[0] for name in first_lines(path)}, path.name


def test_training_knows_no_slicer_and_builds_on_the_library(repository: Path) -> None:
    paths = sources(repository / "Training")
    for path in paths:
        assert not tops(path) & NOT_IN_TRAINING, path.name
    assert any("MedicalSAM3Lib" in tops(path) for path in paths)


def test_training_is_imported_by_its_full_name(repository: Path) -> None:
    # Run by path, a script's folder comes first on sys.path, and its neighbours would shadow packages.
    neighbours = {path.stem for path in (repository / "Training").glob("*.py")}
    for path in sources(repository / "Training"):
        assert not tops(path) & neighbours, path.name


def test_slicer_side_imports_only_what_slicer_carries(repository: Path) -> None:
    allowed = SLICER_MAY_IMPORT_FIRST | set(sys.stdlib_module_names)
    for path in sources(repository / "MedicalSAM3"):
        firsts = {name.split(".")[0] for name in first_lines(path) if not name.startswith(".")}
        assert firsts <= allowed, path.name
        assert not tops(path) & {"torch", "transformers", "Training"}, path.name


def test_what_the_slicer_side_takes_of_the_library_needs_only_what_slicer_carries(repository: Path) -> None:
    found = {
        name for path in sources(repository / "MedicalSAM3") for name in imported(ast.parse(path.read_text("utf-8")))
    }
    used = sorted(name for name in found if name.startswith("MedicalSAM3Lib"))
    assert "MedicalSAM3Lib.client" in used
    script = f"import sys, importlib\nbefore = set(sys.modules)\nfor m in {used}: importlib.import_module(m)\n"
    loaded = run_python(repository, script + "print(*set(sys.modules) - before)")
    assert {name.split(".")[0] for name in loaded} <= SLICER_CARRIES


def test_pure_files_of_the_slicer_side_need_no_slicer(repository: Path) -> None:
    folder = repository / "MedicalSAM3" / "MedicalSAM3Slicer"
    for name in PURE_SLICER_FILES:
        assert not tops(folder / name) & {"slicer", "qt", "ctk", "vtk"}, name


@pytest.mark.parametrize("folder", ["MedicalSAM3Lib", "Training"])
def test_no_file_edits_the_import_path(repository: Path, folder: str) -> None:
    for path in sources(repository / folder):
        assert "sys.path" not in path.read_text(encoding="utf-8"), path.name


def test_importing_the_light_modules_loads_no_torch(repository: Path) -> None:
    script = f"import sys, importlib\nfor m in {TORCH_FREE}: importlib.import_module(m)\nprint(*sys.modules)"
    loaded = run_python(repository, script)
    assert "MedicalSAM3Lib.concepts" in loaded
    assert not {"torch", "transformers", "matplotlib"} & loaded


def test_importing_the_package_loads_nothing_heavy(repository: Path) -> None:
    loaded = run_python(repository, "import sys, MedicalSAM3Lib\nprint(*sys.modules)")
    assert "MedicalSAM3Lib" in loaded
    assert not (HEAVY | {"numpy", "pydantic"}) & loaded


def test_the_client_needs_only_the_standard_library_and_numpy(repository: Path) -> None:
    script = "import sys\nbefore = set(sys.modules)\nimport MedicalSAM3Lib.client\nprint(*set(sys.modules) - before)"
    loaded = run_python(repository, script)
    assert "MedicalSAM3Lib.client" in loaded
    assert {name.split(".")[0] for name in loaded} <= SLICER_CARRIES
    names = {name.split(".")[1] for name in loaded if name.startswith("MedicalSAM3Lib.")}
    assert names >= {"client_http", "client_events", "client_upload", "nrrd_file", "masks_wire"}
    for name in names:  # nor what a function imports when it is called
        assert tops(repository / "MedicalSAM3Lib" / f"{name}.py") <= SLICER_CARRIES, name


def run_python(repository: Path, script: str) -> set[str]:
    """The words that a script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())
