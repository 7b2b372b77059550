"""What came of each concept: read from the report, put into words. Needs no Slicer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCHEMA_VERSION = "1"
STATES = ("found", "not_found", "failed")


@dataclass(frozen=True)
class Outcome:
    """The answer to one asked concept.

    Attributes:
        phrase: As it was typed.
        state: "found", "not_found" or "failed".
        reason: Why, when it was not found.
        presence: Probability (0..1) that it is in the volume, None if unknown.
        volumeMl: Size of the mask in millilitres.
        objects: How many objects were kept apart; 0 when they were not.
    """

    phrase: str
    state: str
    reason: str = ""
    presence: float | None = None
    volumeMl: float = 0.0
    objects: int = 0


def readReport(path: Path, concepts: Sequence[str]) -> list[Outcome]:
    """One outcome for each asked concept, in their order; one that the report lacks is "failed".

    Raises:
        ValueError: The report is missing, damaged or of another version.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        version, findings = report["schema_version"], report["findings"]
        answers = {finding["phrase"]: _outcome(finding) for finding in findings}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"Expected a report of medsam3, could not read it ({type(error).__name__}).") from error
    if version != SCHEMA_VERSION:
        raise ValueError(f"Expected a report of version {SCHEMA_VERSION}, got '{version}'; update the extension.")
    return [answers.get(phrase, Outcome(phrase, "failed", "the report has no answer")) for phrase in concepts]


def failAll(concepts: Sequence[str], reason: str) -> list[Outcome]:
    """The outcomes of a run that gave none."""
    return [Outcome(phrase, "failed", reason) for phrase in concepts]


def describe(outcome: Outcome) -> str:
    """One line for the panel."""
    presence = "" if outcome.presence is None else f", presence {outcome.presence:.2f}"
    if outcome.state == "found":
        objects = f", {outcome.objects} objects" if outcome.objects > 1 else ""
        return f"{outcome.phrase}: found{objects}, {outcome.volumeMl:.1f} ml{presence}"
    reason = f" ({outcome.reason})" if outcome.reason else ""
    return f"{outcome.phrase}: {outcome.state.replace('_', ' ')}{presence}{reason}"


def failureReason(stderr: str, exitCode: int) -> str:
    """The line in which the command said what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("medsam3:")] or lines
    return said[-1].removeprefix("medsam3:").strip() if said else f"medsam3 ended with code {exitCode} and said nothing"


def _outcome(finding: dict) -> Outcome:
    state = finding["state"]
    if state not in STATES:
        raise ValueError(f"unknown state '{state}'")
    presence = finding.get("presence")
    return Outcome(
        phrase=finding["phrase"],
        state=state,
        reason=str(finding.get("reason") or ""),
        presence=None if presence is None else float(presence),
        volumeMl=float(finding.get("volume_ml") or 0.0),
        objects=len(finding.get("objects") or ()),
    )
