"""What the Slicer extensions index checks, run here: ``python -m Testing.slicer.check_extension``.

Names, catalogue entry, licence, icon and screenshots, size, what happens at file scope, how torch comes, and whether
downloads can be removed. It needs no network: that the addresses answer shows only once the repository is public. What
is left to do before the extension is submitted is said at the end, and with ``--submission`` is a failure.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from Testing.slicer import repository_address

NAME = "MedicalSAM3"
SCHEMA = re.compile(
    r"https://raw\.githubusercontent\.com/Slicer/Slicer/main/Schemas/slicer-extension-catalog-entry-schema-v1\.0\.[012]\.json#"
)
FIELDS: dict[str, type] = {
    "$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "build_dependencies": list,
    "build_subdirectory": str, "enabled": bool, "tier": int,
}  # fmt: skip
"""Of a catalogue entry; the schema allows no other."""

REQUIRED, TIERS, SCM_TYPES = ("$schema", "category", "scm_url"), (1, 3, 5), ("git", "local")
CARRIED = {"slicer", "qt", "ctk", "vtk", "SimpleITK", "numpy", "scipy", "MedicalSAM3Lib", "MedicalSAM3Slicer"}
LARGEST_CLONE = 100 * 2**20
PNG = b"\x89PNG\r\n\x1a\n"
PURE = {"re.compile", "np.diag", "frozenset", "tuple", "dict"}
"""What may be called for a value at file scope: it does nothing but make that."""

TORCH_BY_PIP = re.compile(r"pip_(?:install|ensure)\([^)]*\btorch", re.DOTALL)


def catalogue_entry(root: Path) -> Iterator[str]:
    """The entry has the fields of the published schema, and no other."""
    entry: dict[str, Any] = json.loads((root / "Resources" / f"{NAME}.json").read_bytes())
    yield from (f"{name} is missing" for name in REQUIRED if name not in entry)
    yield from (f"{name} is no field of the schema" for name in entry if name not in FIELDS)
    for name, value in entry.items():
        if type(value) is not FIELDS.get(name, type(value)):
            yield f"{name} is not of type {FIELDS[name].__name__}"
    if not SCHEMA.fullmatch(str(entry.get("$schema"))):
        yield "$schema is not that of a released schema"
    if not all(isinstance(name, str) for name in entry.get("build_dependencies", [])):
        yield "build_dependencies are not names of extensions"
    if entry.get("tier", 5) not in TIERS or entry.get("scm_type", "git") not in SCM_TYPES:
        yield "tier or scm_type is none of the allowed"
    if entry.get("category") != "Segmentation":
        yield "category is not Segmentation"
    url = str(entry.get("scm_url"))
    if not re.fullmatch(r"https://\S+/Slicer" + NAME + r"(?:\.git)?", url):
        yield f"scm_url: expected an https address of Slicer{NAME}, got {url}"
    if b"\r" in (root / "Resources" / f"{NAME}.json").read_bytes():
        yield "the entry has line ends of Windows"


def top_level_cmake(root: Path) -> Iterator[str]:
    """The index reads the root CMakeLists.txt by expression."""
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    project = re.search(r"project\(([^\s)]+)", text)
    if project is None or project[1] != NAME:
        yield f"the first project( is not {NAME}"
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        if not re.search(rf'set\(EXTENSION_{name} "[^"]+"\)', text):
            yield f'no set(EXTENSION_{name} "...")'


def one_address(root: Path) -> Iterator[str]:
    """All files say the same address of the repository."""
    yield from repository_address.others(root)


def address_is_set(root: Path) -> Iterator[str]:
    """The address is that of a repository, not a placeholder."""
    if repository_address.owner(root) in ("", repository_address.UNSET):
        yield (
            f"the repository's address is not set: {repository_address.UNSET} stands for the account that holds it. "
            "Before the extension is submitted to the extensions index: "
            f"python -m Testing.slicer.repository_address https://github.com/ACCOUNT/{repository_address.NAME}"
        )


def pictures(root: Path) -> Iterator[str]:
    """Icon and screenshots are PNG files of this repository; the icon is a square."""
    text = (root / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("ICONURL", "SCREENSHOTURLS"):
        for url in (re.search(rf'set\(EXTENSION_{name} "([^"]+)"\)', text) or ["", ""])[1].split():
            path = root / url.partition("/main/")[2]
            if not url.startswith("https://") or not path.is_file():
                yield f"{url} is no file of this repository"
                continue
            head = path.read_bytes()[:24]
            if head[:8] != PNG:
                yield f"{path.name} is no PNG"
            elif name == "ICONURL" and head[16:20] != head[20:24]:
                yield f"{path.name} is not square"


def licence(root: Path) -> Iterator[str]:
    """A permissive licence in the root."""
    file = root / "LICENSE.txt"
    if not file.is_file() or "Apache License" not in file.read_text(encoding="utf-8"):
        yield "no Apache licence in LICENSE.txt"


def size(root: Path) -> Iterator[str]:
    """A clone with its history is small."""
    done = subprocess.run(["git", "count-objects", "-v"], cwd=root, capture_output=True, text=True, check=False)
    kib = sum(int(number) for number in re.findall(r"^size(?:-pack)?: (\d+)$", done.stdout, re.MULTILINE))
    if kib * 1024 > LARGEST_CLONE:
        yield f"the clone has {kib // 1024} MB, more than {LARGEST_CLONE // 2**20}"


def file_scope(root: Path) -> Iterator[str]:
    """Module files import what Slicer carries and define things; they do nothing when they are loaded."""
    allowed = CARRIED | set(sys.stdlib_module_names)
    defining = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr)
    for path in module_files(root):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            yield from (f"{path.name} imports {name}" for name in names if name.split(".")[0] not in allowed)
            isValue = isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            called = (
                {ast.unparse(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)} if isValue else set()
            )
            yield from (f"{path.name}:{node.lineno} calls {name} when it is loaded" for name in sorted(called - PURE))
            isForTypes = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            isCall = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            if (not isinstance(node, defining) and not isForTypes) or isCall:
                yield f"{path.name}:{node.lineno} does something when it is loaded"


def torch_by_its_extension(root: Path) -> Iterator[str]:
    """torch enters Slicer's Python through the PyTorch extension only."""
    for path in module_files(root):
        text = path.read_text(encoding="utf-8")
        if TORCH_BY_PIP.search(text) or re.search(r"^\s*(?:import|from) torch\b", text, re.MULTILINE):
            yield f"{path.name} imports torch or installs it by pip"


def downloads_can_be_removed(root: Path) -> Iterator[str]:
    """Large downloads are asked for, and there is a button that deletes them."""
    form = (root / NAME / "Resources" / "UI" / f"{NAME}.ui").read_text(encoding="utf-8")
    for button in ("downloadButton", "licenceCheckBox", "removeButton"):
        if f'name="{button}"' not in form:
            yield f"the panel has no {button}"


def module_readme(root: Path) -> Iterator[str]:
    """The module has a summary, a tutorial with sample data, a picture and a word on what is sent where."""
    text = (root / NAME / "README.md").read_text(encoding="utf-8")
    for word in ("## Tutorial", "sample", "Screenshots/", "not for clinical use", "sent", "cite"):
        if word.casefold() not in text.casefold():
            yield f"{NAME}/README.md does not say: {word}"


def module_files(root: Path) -> list[Path]:
    """Every Python file of the module."""
    return sorted(path for path in (root / NAME).rglob("*.py") if "__pycache__" not in path.parts)


CHECKS: tuple[Callable[[Path], Iterator[str]], ...] = (
    catalogue_entry, top_level_cmake, one_address, pictures, licence, size, file_scope, torch_by_its_extension,
    downloads_can_be_removed, module_readme,
)  # fmt: skip


BEFORE_SUBMISSION = (address_is_set,)


def main(words: Sequence[str] = ()) -> int:
    """Print a line for each check; 1 where something is wrong."""
    root, wrong = Path(__file__).resolve().parents[2], 0
    for check in CHECKS:
        found = list(check(root))
        wrong += len(found)
        print(f"{'ok  ' if not found else 'FAIL'} {check.__name__}")
        for line in found:
            print(f"       {line}")
    for check in BEFORE_SUBMISSION:
        for line in check(root):
            wrong += "--submission" in words
            print(f"TO DO {check.__name__}\n       {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
