"""``medsam3 doctor``: what is installed, what the machine has, and what would run where."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from MedicalSAM3Lib.config import SegmentSettings, make_settings
from MedicalSAM3Lib.errors import RunError, WeightsError
from MedicalSAM3Lib.model_folder import WEIGHTS_FILE
from MedicalSAM3Lib.report import software_versions

PACKAGES = ("numpy", "SimpleITK", "pydicom", "safetensors", "pydantic")


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the examination.

    Attributes:
        area: What it is about ("Versions", "Machine", "Models", "Runs").
        name, value: What was looked at and what was found.
        is_problem: True where this keeps a run from working.
    """

    area: str
    name: str
    value: str
    is_problem: bool = False


def examine() -> list[Fact]:
    """Look at everything. What cannot be found out becomes a fact that says so; nothing is raised."""
    facts: list[Fact] = []
    for area, look in (("Versions", _versions), ("Machine", _machine), ("Models", _models), ("Runs", _runs)):
        facts += _facts(area, look)
    return facts


def _facts(area: str, look: Callable[[], Iterator[Fact]]) -> list[Fact]:
    # A broken driver or a damaged folder raises anything, and the doctor is who must survive it.
    facts: list[Fact] = []
    try:
        facts.extend(look())
    except Exception as error:
        facts.append(Fact(area, "problem", " ".join(f"{type(error).__name__}: {error}".split()), is_problem=True))
    return facts


def _versions() -> Iterator[Fact]:
    for name, found in software_versions().items():
        yield Fact("Versions", name, found or "missing", is_problem=not found)
    for name in PACKAGES:
        try:
            yield Fact("Versions", name, version(name))
        except PackageNotFoundError:
            yield Fact("Versions", name, "missing", is_problem=True)


def _machine() -> Iterator[Fact]:
    import torch

    from MedicalSAM3Lib.guards import available_memory_bytes

    yield Fact("Machine", "system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Fact("Machine", "processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in use")
    yield Fact("Machine", "free memory", f"{available_memory_bytes() / 1e9:.1f} GB")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        value = f"{torch.cuda.get_device_name(index)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield Fact("Machine", f"cuda:{index}", value)
    if not torch.cuda.is_available():
        yield Fact("Machine", "cuda", "none")
    yield Fact("Machine", "mps", "yes" if torch.backends.mps.is_available() else "none")


def _models() -> Iterator[Fact]:
    from MedicalSAM3Lib.registry import home, list_models

    yield Fact("Models", "folder", f"{home()} (set MEDSAM3_HOME to choose another)")
    states = list_models()
    for state in states:
        value = "not installed"
        if state.folder is not None:
            value = f"installed, {folder_gb(state.folder):.2f} GB"
        elif state.info is not None and state.info.kind == "download":
            value = f"not installed, {state.info.about_gb:.1f} GB to download"
        yield Fact("Models", state.name, value)
    if not any(state.folder for state in states):
        yield Fact("Models", "problem", "no model is installed; run 'medsam3 models download NAME'", is_problem=True)


def _runs() -> Iterator[Fact]:
    from MedicalSAM3Lib.registry import list_models, resolve
    from MedicalSAM3Lib.runtime import pick_runtime

    for speed in ("balanced", "exact"):
        runtime = pick_runtime(make_settings(speed=speed))
        yield Fact("Runs", f"--speed {speed}", f"on {runtime.device} in {str(runtime.dtype).removeprefix('torch.')}")
    installed = [(state.name, state.folder) for state in list_models() if state.folder is not None]
    free = pick_runtime(SegmentSettings()).free_bytes()
    default = None
    with suppress(WeightsError):  # where only imported models are, each run must name one
        default = resolve()
    for name, folder in installed:
        needed = weights_bytes(folder)
        value = f"weights take {needed / 1e9:.2f} of {free / 1e9:.1f} GB free"
        if folder == default:
            value += "; runs when no model is named"
        yield Fact("Runs", name, value, is_problem=needed > free)


def folder_gb(folder: Path) -> float:
    """Size of the files of a folder in 10^9 bytes."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e9


def weights_bytes(folder: Path) -> int:
    """Memory of a model's weights in float32, from the header of its file alone."""
    with (folder / WEIGHTS_FILE).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(4 * math.prod(tensor["shape"]) for tensor in header.values())


def show(facts: Sequence[Fact]) -> int:
    """Print the facts on stdout, by area; return 0, or 3 when there is a problem."""
    console = Console()
    table = Table("Area", "What", "Found")
    for fact in facts:
        style = "red" if fact.is_problem else ""
        table.add_row(Text(fact.area), Text(fact.name), Text(fact.value, style=style))
    console.print(table)
    problems = sum(fact.is_problem for fact in facts)
    print(f"{problems} problem{'s' * (problems != 1)} found." if problems else "Ready to run.")
    return RunError.exit_code if problems else 0
