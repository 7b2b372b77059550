"""The tree is what its lists say: CMake, README, sizes, and no trace of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

LONGEST_FUNCTION, LONGEST_FILE = 60, 300
BIGGEST_FILE, BIGGEST_TEXT, BIGGEST_TREE = 26_000_000, 2_000_000, 60_000_000
CODE = ("MedicalSAM3Lib", "Training")
NOT_PACKED = {"Screenshots", "Icons", "datasets", "deploy", "CMakeLists.txt", "MedicalSAM3.json"}
"""Entries of Resources/ that a Slicer installation has no use for."""
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt", ".csv", ".ui", ".svg"}
MACHINE_PATH = re.compile(r"/(?:home|Users|root|work|tmp)/[\w.-]+|[A-Z]:\\\\?Users", re.ASCII)


def tracked(repository: Path, *options: str) -> list[str]:
    """Paths that git knows, as it writes them. Skips where there is no checkout, as in an unpacked sdist."""
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=repository, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name]


def cmake_list(file: Path, variable: str) -> set[str]:
    """The entries of ``set(variable ...)`` in a CMake file."""
    match = re.search(rf"set\({variable}\s+(.*?)\)", file.read_text(encoding="utf-8"), re.DOTALL)
    assert match, f"{file}: no set({variable} ...)"
    return set(match[1].split())


def on_disk(folder: Path, pattern: str) -> set[str]:
    """Files under a folder, relative to it, without caches."""
    found = (path for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in found}


@pytest.mark.parametrize("folder", ["MedicalSAM3Lib", "MedicalSAM3"])
def test_cmake_lists_every_script_and_no_other(repository: Path, folder: str) -> None:
    listed = cmake_list(repository / folder / "CMakeLists.txt", "MODULE_PYTHON_SCRIPTS")
    assert listed == on_disk(repository / folder, "*.py")


def test_cmake_lists_every_resource_of_the_module(repository: Path) -> None:
    listed = cmake_list(repository / "MedicalSAM3" / "CMakeLists.txt", "MODULE_PYTHON_RESOURCES")
    folder = repository / "MedicalSAM3"
    assert listed == {f"Resources/{name}" for name in on_disk(folder / "Resources", "*")}


def test_cmake_lists_every_packed_resource(repository: Path) -> None:
    listed = cmake_list(repository / "Resources" / "CMakeLists.txt", "RESOURCE_FILES")
    packed = {name for name in on_disk(repository / "Resources", "*") if name.split("/")[0] not in NOT_PACKED}
    assert listed == packed


def test_readme_names_every_source_file(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w-]+", text))
    folders = ("MedicalSAM3Lib/", "MedicalSAM3/", "Training/")
    missing = [
        name
        for name in tracked(repository)
        if name.startswith(folders) and name.endswith(".py") and not name.endswith("__init__.py")
        if Path(name).stem not in named
    ]
    assert not missing


def functions(path: Path) -> list[tuple[str, int]]:
    """Name and length in lines of every function of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in found]


def test_functions_and_files_stay_short(repository: Path) -> None:
    too_long = []
    for path in (path for folder in CODE for path in sorted((repository / folder).rglob("*.py"))):
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE:
            too_long.append(path.name)
        too_long += [f"{path.name}: {name}" for name, length in functions(path) if length > LONGEST_FUNCTION]
    assert not too_long


def test_no_path_of_one_machine(repository: Path) -> None:
    here = re.compile("|".join(re.escape(f"{folder}/") for folder in (repository, Path.home() / ".cache")))
    found = {}
    for name in tracked(repository):
        path = repository / name
        if path.suffix in TEXT or path.name == "Makefile":
            text = path.read_text(encoding="utf-8")
            # Tests make up paths of other machines to see that they do not get through.
            match = here.search(text) or (not name.startswith("Testing/") and MACHINE_PATH.search(text))
            if match:
                found[name] = match[0]
    assert not found


@pytest.mark.parametrize("path", ["/home/ada/data", "/Users/ada/x.py", "C:\\Users\\ada", "/tmp/x"])
def test_a_path_of_one_machine_is_recognised(path: str) -> None:
    assert MACHINE_PATH.search(f'read("{path}")')


def test_gitignore_hides_what_is_made_and_nothing_that_is_kept(repository: Path) -> None:
    assert tracked(repository, "--cached", "--ignored", "--exclude-standard") == []
    made = [".venv/x", "data/x", "runs/x", "demo-output/x", "MedicalSAM3Lib/__pycache__/x.pyc", "build/x", "dist/x"]
    done = subprocess.run(["git", "check-ignore", *made], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout.split() == made
    kept = ["Testing/training/data/x.json", "Resources/models/tiny/model.safetensors", "Training/data.py"]
    done = subprocess.run(["git", "check-ignore", *kept], cwd=repository, capture_output=True, check=False)
    assert done.stdout == b""


def test_files_and_tree_stay_small(repository: Path) -> None:
    # The Slicer extensions index takes no clone over 100 MB, history included.
    sizes = {name: (repository / name).stat().st_size for name in tracked(repository) if (repository / name).exists()}
    binaries = (".safetensors", ".gz", ".png", ".npz", ".nrrd")
    assert not [name for name, size in sizes.items() if size > BIGGEST_FILE]
    assert not [name for name, size in sizes.items() if size > BIGGEST_TEXT and not name.endswith(binaries)]
    assert sum(sizes.values()) < BIGGEST_TREE


def test_top_level_cmake_passes_the_gate_of_the_extensions_index(repository: Path) -> None:
    text = (repository / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"project\(([^\s)]+)", text)
    assert project
    assert project[1] == "MedicalSAM3"
    for variable in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        # The index finds these by expression: nothing may stand between the last quote and the bracket.
        match = re.search(rf'set\({variable} "([^"]+)"\)', text)
        assert match, variable
        assert match[1].startswith("https://")
    for variable in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "DEPENDS"):
        assert f"set(EXTENSION_{variable} " in text
    assert b"\r" not in (repository / "CMakeLists.txt").read_bytes()


@pytest.mark.parametrize("name", ["Resources/Icons/MedicalSAM3.png", "MedicalSAM3/Resources/Icons/MedicalSAM3.png"])
def test_icon_is_a_square_png(repository: Path, name: str) -> None:
    head = (repository / name).read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert head[16:20] == head[20:24]
