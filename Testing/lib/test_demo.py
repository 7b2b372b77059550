"""The demonstration on its real sample with its real model, and the arithmetic of its summary."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from MedicalSAM3Lib import cli, demo
from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume

LABELS = np.array([[[1, 1, 2, 2, 0, 0]]])


def segmentation_of(labels: np.ndarray, *findings: Finding) -> Segmentation:
    return Segmentation((labels.astype(np.uint16),), np.eye(4), findings)


def test_dice_is_by_phrase_and_a_missed_concept_counts_zero() -> None:
    reference = demo.Reference(LABELS, {1: "liver", 2: "spleen"})
    found = Finding("liver", "found", layer=0, label=7)
    missed, absent = Finding("spleen", "not_found"), Finding("brain", "not_found")
    dice = reference.dice(segmentation_of(np.array([[[7, 7, 7, 0, 0, 0]]]), found, missed, absent))
    assert dice["liver"] == pytest.approx(0.8)
    assert dice["spleen"] == 0.0
    assert math.isnan(dice["brain"])


def test_what_is_absent_is_asked_after_what_is_there() -> None:
    assert demo.Reference(LABELS, {1: "liver", 2: "spleen"}).concepts() == ["liver", "spleen", *demo.ABSENT]


def test_the_summary_counts_misses_and_false_alarms() -> None:
    findings = (
        Finding("liver", "found", layer=0, label=1),
        Finding("spleen", "not_found"),
        Finding(demo.ABSENT[0], "found", layer=0, label=2),
        Finding(demo.ABSENT[1], "not_found"),
    )
    text = demo.summary({"liver": 0.8, "spleen": 0.0, demo.ABSENT[0]: 0.0}, segmentation_of(LABELS, *findings))
    assert text.startswith("1 of 2 concepts in the image found, mean Dice 0.40 over all 2; 1 of 2 absent")


def test_a_reference_on_another_grid_is_refused() -> None:
    with pytest.raises(InputError, match="Expected a reference of"):
        demo.read_reference(Volume(np.zeros((1, 2, 3), np.float32), np.eye(4)))


def test_the_demonstration_finds_what_is_there_and_rejects_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--output", str(tmp_path / "demo")]) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "preview.png",
        "report.json",
        "result.seg.nrrd",
    ]
    findings = json.loads((tmp_path / "demo" / "report.json").read_text(encoding="utf-8"))["findings"]
    states = {finding["phrase"]: finding["state"] for finding in findings}
    present = [state for phrase, state in states.items() if phrase not in demo.ABSENT]
    assert len(present) >= 6
    assert present.count("found") >= 5
    assert [states[phrase] for phrase in demo.ABSENT].count("not_found") >= 1
    for said in ("Dice", "Demonstration model", "research only", "preview.png"):
        assert said in out


def test_a_demonstration_that_cannot_write_fails_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert demo.main(["--output", str(tmp_path / "file")]) != 0
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_line_segments_the_sample_on_its_own_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["segment", str(demo.sample_path()), "-c", "liver", "-c", "brain", "--model", "tiny"]
    assert cli.main([*words, "-o", "labels.nii.gz", "--report", "report.json", "--preview", "preview.png"]) == 0
    assert "liver" in capsys.readouterr().out
    sample, labels = SimpleITK.ReadImage(str(demo.sample_path())), SimpleITK.ReadImage("labels.nii.gz")
    assert labels.GetSize() == sample.GetSize()
    assert labels.GetSpacing() == pytest.approx(sample.GetSpacing())
    assert labels.GetOrigin() == pytest.approx(sample.GetOrigin())
    assert labels.GetDirection() == pytest.approx(sample.GetDirection())
    liver, brain = json.loads(Path("report.json").read_text(encoding="utf-8"))["findings"]
    assert (liver["state"], brain["state"]) == ("found", "not_found")
    assert int(SimpleITK.GetArrayViewFromImage(labels).astype(bool).sum()) == liver["voxels"] > 0
