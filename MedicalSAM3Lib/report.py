"""The one report of a run: what was asked, of which model, and every answer. No torch.

``Resources/report.schema.json`` describes it. A report holds no name of a patient, no identifier and no path.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.structures import Finding, Volume

if TYPE_CHECKING:
    from MedicalSAM3Lib.model_folder import LoadedModel

SCHEMA_VERSION = "1"
RESEARCH_NOTICE = "For research only, not a medical device: a person who can judge them must check all results."
"""Stands beside every result that a person is shown."""


@dataclass(frozen=True, slots=True)
class InputRecord:
    """The input, as far as it may leave the machine: no voxels, no path, no header fields."""

    name: str
    modality: str
    is_2d: bool
    shape_kji: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    ijk_to_lps: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, volume: Volume) -> InputRecord:
        """Describe a volume; of a name that is a path, only the last part is kept."""
        return cls(
            name=PureWindowsPath(volume.name).name,
            modality=volume.modality,
            is_2d=volume.is_2d,
            shape_kji=volume.shape_kji,
            spacing_mm=volume.spacing_mm,
            ijk_to_lps=tuple(tuple(float(value) for value in row) for row in volume.ijk_to_lps),
        )


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Which weights answered."""

    name: str
    weights_hash: str
    is_demonstration: bool
    notice: str

    @classmethod
    def of(cls, model: LoadedModel) -> ModelRecord:
        """Describe a loaded model."""
        return cls(model.name, model.weights_hash, model.is_demonstration, model.notice)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run and its answers.

    Attributes:
        axis: Patient axis across which the slices lay: 0, 1 or 2; of several (``settings.axis`` "all") the first,
            whose numbers the findings tell.
        slices: How many were looked at, along all axes.
        device, dtype: Where and in which number format they were computed, at last.
        timings_s: Stage to seconds.
        peak_memory_mb: ``host`` and ``device``; None where it was not measured.
        findings: In the order asked.
        notices: What a person should know of how it was computed, one sentence each.
    """

    input: InputRecord
    model: ModelRecord
    settings: SegmentSettings
    axis: int
    slices: int
    device: str
    dtype: str
    timings_s: dict[str, float]
    peak_memory_mb: dict[str, float | None]
    findings: tuple[Finding, ...]
    notices: tuple[str, ...] = ()


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage, in the order in which the stages ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside; what happens again adds up."""
        start = time.perf_counter()
        try:
            yield
        finally:  # what failed and was done again took its time, too
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def make_report(record: RunRecord) -> dict[str, Any]:
    """Build the report as plain values, as ``report.schema.json`` describes it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "software": software_versions(),
        "input": asdict(record.input),
        "model": asdict(record.model),
        "settings": record.settings.model_dump(mode="json"),
        "run": {
            "axis": record.axis,
            "slices": record.slices,
            "device": record.device,
            "dtype": record.dtype,
            "timings_s": record.timings_s,
            "peak_memory_mb": record.peak_memory_mb,
            "notices": list(record.notices),
        },
        "findings": [asdict(finding) for finding in record.findings],
    }


def write_report(path: Path | str, record: RunRecord) -> None:
    """Write the report as JSON; the file appears whole or not at all.

    Raises:
        OutputError: It cannot be written there.
    """
    save_report(path, make_report(record))


def save_report(path: Path | str, report: Mapping[str, Any]) -> None:
    """As ``write_report``, of a report that is made already."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(Path(path)) as (new,):
        new.write_text(text, encoding="utf-8")


def software_versions() -> dict[str, str]:
    """Versions of what decides about the numbers of a result."""
    versions = {"medical-sam3": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    return versions
