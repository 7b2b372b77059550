"""One case on its way through a batch: what is asked, where it is, what became of it, and its line in the manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.batch_cases import Case
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import MedicalSAM3Error

State = Literal["done", "incomplete", "failed", "skipped", "failed_before"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case; ``message`` says why where it failed."""

    case_id: str
    state: State
    message: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of every case.

    Attributes:
        settings: For all.
        model: As the engines know it.
        weights_hash: SHA-256 over the model with all that belongs to it.
        report_hash: SHA-256 of its weights, as each report must name it; empty asks for none.
        retry_failed: Whether to try again what failed before as it is.
    """

    settings: SegmentSettings
    model: str
    weights_hash: str
    report_hash: str = ""
    retry_failed: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """A case on its way."""

    case: Case
    started: str
    input_sha256: str = ""
    key: str = ""
    folder: Path = Path()
    notices: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    tries: int = 0
    given_s: float = 0.0


def record_of(job: Job, plan: Plan, state: State, code: str, reason: str, report: Any = None) -> dict[str, Any]:
    """The case's line in the manifest: no path and no name of an input."""
    return {
        "case": job.case.case_id,
        "state": state,
        "code": code,
        "reason": reason,
        "concepts": list(job.case.concepts),
        "input_sha256": job.input_sha256,
        "files": len(job.case.files),
        "weights_sha256": plan.weights_hash,
        "settings_sha256": plan.settings.digest(),
        "fingerprint": job.key,
        "version": __version__,
        "started": job.started,
        "finished": now(),
        "seconds": job.seconds,
        "notices": report["run"]["notices"] if report else job.notices,
        "software": report["software"] if report else {},
        "model": report["model"]["name"] if report else plan.model,
        "model_notice": report["model"]["notice"] if report else "",
        "device": report["run"]["device"] if report else "",
        "modality": report["input"]["modality"] if report else "",
        "is_2d": bool(report) and report["input"]["is_2d"],
        "findings": report["findings"] if report else [],
    }


def explain(error: BaseException) -> tuple[str, str]:
    """Code and sentence of what ended a case, without a path: its name may be a patient's."""
    import errno

    if isinstance(error, MedicalSAM3Error):
        return error.code, str(error)
    if isinstance(error, MemoryError):
        return "too_large", "There is not enough memory for this image; crop or resample it."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full", "The disk of the results is full; make room and run it again."
    if isinstance(error, OSError):
        return "input", f"A file cannot be read or written: {(error.strerror or 'it refused').lower()}."
    return "internal", f"Expected a complete image, got one that no reader understands ({type(error).__name__})."


def now() -> str:
    """The time, as manifests tell it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
