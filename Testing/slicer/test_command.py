"""The panel's command line, without Slicer."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from MedicalSAM3.MedicalSAM3Slicer.command import SEPARATE_OPTION, buildCommand, findProgram, splitConcepts
from MedicalSAM3Lib.cli import app


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("liver", ["liver"]),
        (" liver ,left   kidney;spleen\nrib", ["liver", "left kidney", "spleen", "rib"]),
        ("Liver, liver, LIVER", ["Liver"]),
        ("", []),
        (" , ;\n", []),
    ],
)
def test_typed_text_becomes_concepts(text: str, concepts: list[str]) -> None:
    assert splitConcepts(text) == concepts


def test_command_names_files_only_by_neutral_names(tmp_path: Path) -> None:
    command = buildCommand("medsam3", tmp_path, ["liver", "left kidney"])
    assert command == [
        "medsam3",
        "segment",
        str(tmp_path / "volume.nrrd"),
        "--concept=liver",
        "--concept=left kidney",
        "--output",
        str(tmp_path / "result.seg.nrrd"),
        "--report",
        str(tmp_path / "report.json"),
        "--quiet",
    ]


def test_objects_apart_is_an_option_of_the_command(tmp_path: Path) -> None:
    assert buildCommand("medsam3", tmp_path, ["rib"], [SEPARATE_OPTION])[-1] == SEPARATE_OPTION
    segment = typer.main.get_command(app).commands["segment"]  # type: ignore[attr-defined]
    assert SEPARATE_OPTION in {name for parameter in segment.params for name in parameter.opts}


def test_concept_that_looks_like_an_option_stays_a_concept(tmp_path: Path) -> None:
    assert "--concept=--help" in buildCommand("medsam3", tmp_path, ["--help"])


def test_no_concept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        buildCommand("medsam3", tmp_path, [])


def test_configured_program_wins(tmp_path: Path) -> None:
    program = tmp_path / "medsam3"
    program.touch()
    assert findProgram(str(program), which=lambda name: "elsewhere") == str(program)


def test_program_is_looked_for_on_the_path() -> None:
    assert findProgram("  ", which=lambda name: f"bin/{name}") == "bin/medsam3"


@pytest.mark.parametrize(
    ("configured", "message"), [("nowhere/medsam3", "choose it again"), ("", "install medical-sam3")]
)
def test_missing_program_says_what_to_do(configured: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        findProgram(configured, which=lambda name: None)
