"""From the report to the lines of the panel, without Slicer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from MedicalSAM3.MedicalSAM3Slicer.outcome import Outcome, describe, failAll, failureReason, readReport
from MedicalSAM3Lib.structures import Finding

FOUND = {"phrase": "liver", "state": "found", "reason": "", "presence": 0.98, "volume_ml": 1523.25, "objects": []}
MISSING = {"phrase": "uterus", "state": "not_found", "reason": "presence below 0.5", "presence": 0.031, "volume_ml": 0}


def write(path: Path, findings: list[dict], version: str = "1") -> Path:
    path.write_text(json.dumps({"schema_version": version, "findings": findings}), encoding="utf-8")
    return path


def test_every_asked_concept_has_one_outcome_in_its_order(tmp_path: Path) -> None:
    outcomes = readReport(write(tmp_path / "report.json", [MISSING, FOUND]), ["liver", "uterus", "rib"])
    assert [(outcome.phrase, outcome.state) for outcome in outcomes] == [
        ("liver", "found"),
        ("uterus", "not_found"),
        ("rib", "failed"),
    ]


def test_objects_that_were_kept_apart_are_counted(tmp_path: Path) -> None:
    ribs = FOUND | {"phrase": "rib", "objects": [{"label": 1}, {"label": 2}]}
    outcomes = readReport(write(tmp_path / "report.json", [FOUND, ribs]), ["liver", "rib"])
    assert [outcome.objects for outcome in outcomes] == [0, 2]


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome("liver", "found", presence=0.98, volumeMl=1523.25), "liver: found, 1523.2 ml, presence 0.98"),
        (
            Outcome("rib", "found", presence=0.9, volumeMl=9.0, objects=24),
            "rib: found, 24 objects, 9.0 ml, presence 0.90",
        ),
        (Outcome("liver", "found", volumeMl=9.0, objects=1), "liver: found, 9.0 ml"),
        (Outcome("uterus", "not_found", presence=0.031), "uterus: not found, presence 0.03"),
        (Outcome("rib", "failed", reason="out of memory"), "rib: failed (out of memory)"),
    ],
)
def test_line_says_state_size_and_reason(outcome: Outcome, line: str) -> None:
    assert describe(outcome) == line


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"schema_version": "1"}', '{"schema_version": "1", "findings": [{"phrase": "x", "state": "?"}]}'],
)
def test_damaged_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="could not read it"):
        readReport(path, ["liver"])


def test_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FileNotFoundError"):
        readReport(tmp_path / "report.json", ["liver"])


def test_report_of_another_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="version 1, got '2'"):
        readReport(write(tmp_path / "report.json", [FOUND], version="2"), ["liver"])


def test_fields_are_those_that_the_library_writes() -> None:
    assert set(FOUND) <= set(Finding.__dataclass_fields__)


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("Warning: x\nmedsam3: Expected a volume, got nothing.\n", "Expected a volume, got nothing."),
        ("Killed\n", "Killed"),
        ("", "medsam3 ended with code 3 and said nothing"),
    ],
)
def test_failure_has_the_reason_of_the_command(stderr: str, reason: str) -> None:
    assert failureReason(stderr, 3) == reason
    assert [outcome.reason for outcome in failAll(["liver", "rib"], reason)] == [reason, reason]
