"""What the terminal shows, read back from a console that records."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from MedicalSAM3Lib.cli_show import (
    RESEARCH_NOTICE,
    byte_bar,
    findings_table,
    model_notices,
    progress_bars,
    reasons,
    show_findings,
    waiting,
)
from MedicalSAM3Lib.structures import Finding, Measures, ObjectPart, Progress

FOUND = Finding("[red]liver", "found", presence=0.987, confidence=0.5, voxels=120, volume_ml=1.26, slice_range=(3, 7))
ABSENT = Finding("brain", "not_found", reason="presence below 0.50", presence=0.02)
FAILED = Finding("spleen", "failed", reason="not a number")


def shown(*arguments: object, **options: object) -> list[str]:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(findings_table(*arguments, **options))  # type: ignore[arg-type]
    return console.export_text().splitlines()


def row_of(lines: list[str], phrase: str) -> list[str]:
    line = next(line for line in lines if phrase in line)
    return [cell.strip() for cell in line.strip("│┃").split("│")]


def test_each_finding_has_a_row_in_the_order_asked() -> None:
    lines = shown([FOUND, ABSENT, FAILED])
    assert row_of(lines, "liver") == ["[red]liver", "found", "0.99", "0.50", "1.3", "3-7"]
    assert row_of(lines, "brain") == ["brain", "not found", "0.02", "", "", ""]
    assert row_of(lines, "spleen") == ["spleen", "failed", "", "", "", ""]


def test_why_a_concept_has_no_mask_is_a_line_of_its_own_and_no_word_is_cut_at_80_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert reasons([FOUND, FAILED]) == ["'spleen' failed. not a number"]
    show_findings([FOUND, replace(ABSENT, phrase="inferior vena cava")], dice={"[red]liver": 0.914})
    out = capsys.readouterr().out
    assert "…" not in out
    assert "│ not found │" in out
    assert out.splitlines()[-1] == "'inferior vena cava' was not found. presence below 0.50"


def test_a_photograph_shows_pixels_and_no_slices() -> None:
    assert row_of(shown([FOUND], is_2d=True), "liver") == ["[red]liver", "found", "0.99", "0.50", "120"]


def test_objects_are_counted_where_they_were_kept_apart() -> None:
    parts = tuple(ObjectPart(label, 40, 0.42, (3, 7), 0.5) for label in (1, 2, 3))
    ribs = replace(FOUND, phrase="rib", instances=3, objects=parts)
    for is_2d in (False, True):
        lines = shown([ribs, ABSENT], is_2d=is_2d)
        assert any("Objects" in line for line in lines)
        assert row_of(lines, "rib")[-1] == "3"
        assert row_of(lines, "brain")[-1] == ""
    assert not any("Objects" in line for line in shown([FOUND]))


def test_measures_are_shown_where_there_is_room_for_them() -> None:
    measures = Measures(41.4, 22.6, 5, 50.0, (0.0, 1.0, 2.0), -12.345, 6.789)
    liver = replace(FOUND, measures=measures)
    lines = shown([liver, ABSENT], with_measures=True)
    assert row_of(lines, "liver")[6:] == ["41 x 23", "-12.35 ± 6.79"]
    assert row_of(lines, "brain")[6:] == ["", ""]
    colour = replace(FOUND, measures=replace(measures, intensity_mean=None, intensity_sd=None))
    assert row_of(shown([liver], is_2d=True, with_measures=True), "liver")[-1] == "-12.35 ± 6.79"
    assert row_of(shown([colour], is_2d=True, with_measures=True), "liver")[-1] == ""
    assert not any("mm" in line for line in shown([liver]))


def test_dice_has_a_column_that_is_blank_where_there_is_none() -> None:
    lines = shown([FOUND, ABSENT], dice={"[red]liver": 0.914, "brain": float("nan")})
    assert row_of(lines, "liver")[6] == "0.91"
    assert row_of(lines, "brain")[6] == ""


@pytest.mark.parametrize(
    ("is_demonstration", "notice", "said"),
    [
        (True, "", ["'m' is a demonstration model"]),
        (True, "A demonstration model.", ["A demonstration model."]),
        (False, "Never calibrated.", ["Never calibrated."]),
        (False, "", []),
    ],
)
def test_a_demonstration_model_says_so_once_and_every_result_is_for_research(
    is_demonstration: bool, notice: str, said: list[str]
) -> None:
    model: Any = SimpleNamespace(name="m", is_demonstration=is_demonstration, notice=notice)
    notices = model_notices(model)
    assert notices[-1] == RESEARCH_NOTICE
    assert [notice.partition(":")[0] for notice in notices[:-1]] == said


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich believe that a terminal is there, 120 characters wide."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.usefixtures("terminal")
def test_progress_shows_a_bar_per_stage_with_slices_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as on_progress:
        for done in range(4):
            on_progress(Progress("features", done, 3))
        on_progress(Progress("detection", 1, 3))
    out, err = capsys.readouterr()
    assert out == ""
    for said in ("features", "3/3", "detection", "1/3", "slices"):
        assert said in err


@pytest.mark.usefixtures("terminal")
def test_bytes_are_shown_from_the_first_one_on(capsys: pytest.CaptureFixture[str]) -> None:
    with byte_bar("sam3") as on_bytes:
        assert capsys.readouterr().err == "", "a question may be asked here"
        on_bytes(500_000, 1_000_000)
        on_bytes(1_000_000, 1_000_000)
    assert "1.0/1.0 MB" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_progress_is_silent_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("Reading", quiet=True), progress_bars(quiet=True) as on_progress:
        on_progress(Progress("features", 1, 3))
    assert capsys.readouterr() == ("", "")


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("Reading"), progress_bars() as on_progress, byte_bar("sam3") as on_bytes:
        on_progress(Progress("features", 1, 3))
        on_bytes(1, 2)
    assert capsys.readouterr() == ("", "")
