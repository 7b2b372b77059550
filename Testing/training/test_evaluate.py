"""The whole evaluation with an oracle that reads grey values: rows, resuming, protocols, report"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.structures import Finding
from Testing.training.data_world import labelled, write_world
from Testing.training.test_scoring import oracle
from Training import evaluate as module
from Training.bootstrap import Interval
from Training.case_rows import CaseRow, Ledger, measure, outcome_of, read_rows, write_rows
from Training.cases import cases_of, groups_of, read_case
from Training.evaluate import Options, evaluate, main
from Training.evaluation_report import interval, number, p_value, radars, signed, write_report
from Training.evaluation_summary import calibration_of, in_own_words, in_words, of_protocol
from Training.manifest import read_manifest
from Training.panels import around
from Training.protocols import Answer
from Training.robustness import KINDS, in_other_words, misspelt, nonsense
from Training.table3 import average, by_part, paper_rows, table, to_csv

SPLITS = ["train"] * 4 + ["test"] * 4 + ["val"] * 4


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two patients: slices of one, all of another."""
    return write_world(tmp_path, [labelled(splits=SPLITS), labelled("whole", splits=["test"] * 12)])


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Oracles in place of models; "blind" finds only the liver."""
    loaded: list[str] = []

    def load(name: str) -> object:
        loaded.append(name)
        model = oracle()
        if name == "blind":
            from Testing.training.test_scoring import BANDS

            model = oracle({phrase: band if phrase == "liver" else (3.0, 4.0) for phrase, band in BANDS.items()})
        return replace(model, weights_hash=f"{name:0<64}")

    monkeypatch.setattr("MedicalSAM3Lib.registry.load_model", load)
    return loaded


def run(world: Path, out: Path, baseline: str | None = None, **changes: object) -> Path:
    options = Options(**{"robustness": False, **changes})  # type: ignore[arg-type]
    return evaluate("good", baseline, world, out, options, lambda *_: None)


def row(**changes: object) -> CaseRow:
    values = {"role": "ours", "protocol": "paper", "dataset": "drive", "patient": "a", "modality": "OP",
              "case": "a/2/0-1",
              "concept": "x", "kind": "canonical", "reading": "vocabulary", "phrase": "x", "is_present": True,
              "outcome": "overlap", "presence": 0.9, "dice": 0.5, "iou": 0.4, "nsd": 0.5, "hd95_mm": 1.0,
              "f1": math.nan, "panoptic_quality": math.nan, "objects_from": ""}  # fmt: skip
    return CaseRow(**{**values, **changes})  # type: ignore[arg-type]


def test_cases_are_slices_runs_and_whole_volumes(world: Path) -> None:
    manifest = read_manifest(world)
    assert [case.name for case in cases_of(manifest, "test", slice_by_slice=False)] == ["ct/2/4-8", "whole/2/whole"]
    single = cases_of(manifest, "test", slice_by_slice=True)
    assert len(single) == 16
    assert single[0].concepts("absent") == ["spleen", "urinary_bladder"]
    with pytest.raises(InputError, match="unseen"):
        cases_of(manifest, "unseen", slice_by_slice=True)


def test_sides_are_asked_apart() -> None:
    assert groups_of(["left_kidney", "liver", "kidney"]) == [["kidney", "liver"], ["left_kidney"]]
    assert groups_of([]) == []


def test_an_evaluation_writes_rows_table_and_report(world: Path, tmp_path: Path, models: list[str]) -> None:
    report = run(world, tmp_path / "out", baseline="blind", robustness=True)
    every = read_rows(tmp_path / "out" / "cases.parquet")
    rows = [one for one in every if in_own_words(one)]
    ours = [r for r in rows if r.role == "ours" and r.protocol == "deployment"]
    assert {(r.case, r.concept) for r in ours if r.outcome == "both_empty"} == {
        ("ct/2/4-8", "urinary_bladder"), ("whole/2/whole", "urinary_bladder")}  # fmt: skip
    assert all(math.isnan(r.dice) for r in ours if r.outcome == "both_empty")
    assert min(r.dice for r in ours if r.concept in ("liver", "spleen", "left_kidney")) > 0.9
    blind = [r for r in rows if r.role == "baseline" and r.concept == "spleen" and r.is_present]
    assert {(r.outcome, r.dice, r.nsd) for r in blind} == {("missed", 0.0, 0.0)}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["tests"]["deployment"]["difference"]["mean"] > 0
    assert summary["protocols"]["deployment"]["ours"]["outcomes"]["both_empty"] == 2
    plural = {(r.reading, r.outcome) for r in every if (r.role, r.kind, r.concept) == ("ours", "plural", "kidney")}
    assert plural == {("vocabulary", "overlap"), ("verbatim", "missed")}  # the oracle itself knows no plural
    assert {r.outcome for r in every if r.kind == "nonsense"} == {"both_empty"}
    assert {r.kind for r in every} == {"canonical", *KINDS, "nonsense"}
    html = report.read_text(encoding="utf-8")
    assert "In other words" in html
    assert html.count("data:image/png") >= 3
    assert "http://" not in html
    assert "https://" not in html
    assert "boxes" in (tmp_path / "out" / "table3.csv").read_text(encoding="utf-8")


def test_what_is_done_is_not_asked_again_and_gives_the_same_report(
    world: Path, tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(world, tmp_path / "out").read_bytes()
    monkeypatch.setattr(module.Scorer, "_score", lambda *_: pytest.fail("asked again"))
    assert run(world, tmp_path / "out").read_bytes() == first


def test_a_file_that_is_gone_ends_the_run_and_keeps_what_was_done(
    world: Path, tmp_path: Path, models: list[str]
) -> None:
    next((tmp_path / "whole").glob("image*")).unlink()
    with pytest.raises(InputError):
        run(world, tmp_path / "out")
    assert len(list((tmp_path / "out" / "done").glob("*.parquet"))) == 4
    assert not (tmp_path / "out" / "report.html").exists()


def test_without_a_test_split_validation_is_scored_and_that_is_said(
    tmp_path: Path, models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world = write_world(tmp_path, [labelled(splits=["train"] * 8 + ["val"] * 4)])
    run(world, tmp_path / "out")
    assert "No split 'test' in the manifest: scoring 'val'" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["split"] == "val"
    with pytest.raises(InputError, match="split 'test'"):
        run(world, tmp_path / "asked", split="test")


def test_a_split_of_unknown_concepts_has_nothing_to_ask(tmp_path: Path, models: list[str]) -> None:
    world = write_world(tmp_path, [labelled(splits=["test"] * 2 + ["train"] * 10, known_slices=(4, 11), absent=())])
    with pytest.raises(InputError, match="known state in the split 'test'"):
        run(world, tmp_path / "out")


def test_a_mask_of_another_grid_is_refused(world: Path, tmp_path: Path) -> None:
    import SimpleITK as sitk

    manifest = read_manifest(world)
    rows = [one for one in manifest.of_volume("ct") if one.concept == "liver"]
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8)), str(manifest.path(rows[0].mask)))
    with pytest.raises(InputError, match="liver"):
        read_case(manifest, rows)


def test_an_image_is_of_the_manifests_modality(tmp_path: Path) -> None:
    manifest = read_manifest(write_world(tmp_path, [labelled(modality="MR")]))
    volume, _ = read_case(manifest, manifest.rows[:1])  # a NIfTI file, which says nothing of it
    assert volume.modality == "MR"


def test_words_are_asked_both_ways(world: Path, tmp_path: Path, models: list[str]) -> None:
    assert misspelt("liver", 1) == misspelt("liver", 1) != "liver"
    assert sorted(misspelt("urinary bladder", 0)) == sorted("urinary bladder")
    assert in_other_words(["kidney"], "plural", 0) == {"kidney": "kidneys"}
    assert "kneecap" not in nonsense()
    rows = [row(protocol="deployment", kind=kind, reading=how, dice=value)
            for kind, how, value in (("canonical", "vocabulary", 0.8), ("plural", "verbatim", 0.6))]  # fmt: skip
    lines = in_words(rows, "ours", 0)
    assert [line["kind"] for line in lines] == ["canonical", "plural"]
    assert lines[1]["change"].mean == pytest.approx(-20.0)


def test_a_false_positive_counts_nothing_in_the_paper_and_zero_in_deployment() -> None:
    wrong = {"is_present": False, "outcome": "false_positive", "dice": 0.0}
    empty = {"is_present": False, "outcome": "both_empty", "dice": math.nan, "concept": "z"}
    for protocol, mean, count in (("paper", 50.0, 1), ("deployment", 25.0, 2)):
        rows = [row(protocol=protocol), row(protocol=protocol, concept="y", **wrong), row(protocol=protocol, **empty)]
        found = of_protocol(rows, protocol, "ours", 0)
        assert (found["metrics"]["dice"].mean, found["metrics"]["dice"].count) == (mean, count)
        assert (found["specificity"], found["absent"]) == (50.0, 2)


def test_what_failed_is_no_rejection() -> None:
    absent = {"is_present": False, "dice": math.nan}
    rows = [row(outcome="both_empty", **absent), row(outcome="failed", concept="y", **absent), row(outcome="failed")]
    found = of_protocol(rows, "paper", "ours", 0)
    assert (found["specificity"], found["sensitivity"]) == (50.0, 0.0)


def test_outcomes_and_contradictions() -> None:
    assert outcome_of(True, True, "found") == "overlap"
    assert outcome_of(True, False, "not_found") == "missed"
    assert outcome_of(False, True, "found") == "false_positive"
    assert outcome_of(False, False, "not_found") == "both_empty"
    assert outcome_of(False, False, "failed") == "failed"
    nothing = np.zeros((1, 4, 4), np.int32)
    failed = Answer(Finding("x", "failed"), nothing > 0)
    assert measure(failed, nothing, False, (1.0, 1.0, 1.0), 1.0)["dice"] == 0.0
    with pytest.raises(InputError, match="mask"):
        measure(failed, nothing, True, (1.0, 1.0, 1.0), 1.0)


def test_rows_come_back_and_damage_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "done")
    assert ledger.find({"case": "a"}) is None
    ledger.add({"case": "a"}, [row()])
    assert [one.dice for one in ledger.find({"case": "a"}) or []] == [0.5]
    assert ledger.find({"case": "b"}) is None
    next((tmp_path / "done").iterdir()).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="delete it"):
        ledger.find({"case": "a"})
    write_rows(tmp_path / "none.parquet", [])
    assert read_rows(tmp_path / "none.parquet") == []


def test_table_3_has_the_papers_numbers_and_ours() -> None:
    paper = paper_rows()
    assert (len(paper), sum(one.part == "external" for one in paper)) == (17, 7)
    internal = [one for one in paper if one.part == "internal"]
    assert np.mean([one.dice_ours for one in internal]) == pytest.approx(77.0, abs=0.06)
    lines = table([row(), row(role="baseline", dice=0.2), row(dataset="own")], 0)
    drive = next(line for line in lines if line.dataset == "drive")
    assert (drive.dice.mean, drive.baseline_dice.mean) == (50.0, 20.0)  # type: ignore[union-attr]
    assert lines[-1].part == "not in the paper"
    assert "drive,DRIVE,internal,24.8,55.8" in to_csv(lines)


def test_averages_of_table_3_are_those_of_the_paper() -> None:
    parts = by_part(table([row(), row(dataset="glas", dice=0.7)], 0))
    inside, outside = average(parts["internal"]), average(parts["external"])
    assert list(inside.paper.values()) == pytest.approx([54.0, 77.0, 43.3, 67.3], abs=0.051)
    assert list(outside.paper.values()) == pytest.approx([11.9, 73.9, 8.0, 64.4], abs=0.051)
    assert (inside.measured, inside.sets) == (2, 10)
    assert inside.here["dice"] == pytest.approx(60.0)
    assert outside.measured == 0
    assert math.isnan(outside.here["dice"])


def test_numbers_of_the_report_are_read_as_meant() -> None:
    assert [signed(value) for value in (1.25, -0.04, 0.04, -3.0, math.nan)] == ["+1.2", "0.0", "0.0", "-3.0", "\u2013"]
    assert interval(Interval(0.0, -0.04, 0.04, 9, 9)) == "0.0 to 0.0"
    assert interval(Interval(1.0, math.nan, math.nan, 9, 1)) == ""
    assert [number(value) for value in (None, math.nan, 1.26)] == ["\u2013", "\u2013", "1.3"]
    assert [p_value(p) for p in (math.nan, 0.0, 0.0625)] == ["\u2013", "< 0.001", "0.062"]


def test_a_panel_shows_what_it_is_about() -> None:
    mask = np.zeros((60, 90), bool)
    mask[20:30, 40:60] = True
    assert around(mask) == (slice(11, 38), slice(30, 70))  # half the width; as high as the picture is
    speck = np.zeros((60, 90), bool)
    speck[0, 89] = True
    assert around(speck) == (slice(0, 20), slice(60, 90))  # at the edge, not beyond it
    assert around(~speck) == (slice(0, 60), slice(0, 90))
    assert mask[around(mask & False)].shape == mask.shape


def test_radar_charts_have_the_parts_of_the_paper() -> None:
    names = ("drive", "glas", "papila", "tn3k", "hc18")
    rows = [row(dataset=name, case=name, concept=name) for name in names]
    titles = [figure.texts[0].get_text() for figure in radars(table(rows, 0), rows, ["paper"], ["ours"], 0)]
    assert titles == ["Dice (%), internal", "IoU (%), internal"]
    few = [one for one in rows if one.dataset in ("drive", "tn3k", "hc18")]
    titles = [figure.texts[0].get_text() for figure in radars(table(few, 0), few, ["paper"], ["ours"], 0)]
    assert titles == ["Dice (%), all data sets", "IoU (%), all data sets"]
    own = [row(dataset="own", concept=name) for name in names]
    titles = [figure.texts[0].get_text() for figure in radars(table(own, 0), own, ["paper"], ["ours"], 0)]
    assert titles == ["Dice (%), by concept", "IoU (%), by concept"]
    assert radars(table(own[:2], 0), own[:2], ["paper"], ["ours"], 0) == []


def test_presence_is_measured_for_each_modality_where_there_are_several() -> None:
    ct = [row(protocol="deployment", modality="CT", presence=1.0)] * 3
    mr = [row(protocol="deployment", modality="MR", presence=1.0, is_present=False, outcome="false_positive")]
    assert calibration_of(ct, "deployment", "ours") == [
        {"protocol": "deployment", "modality": "", "count": 3, "ece": 0.0}
    ]
    lines = calibration_of(
        [*ct, *mr, row(modality="MR", protocol="deployment", presence=math.nan)], "deployment", "ours"
    )
    assert [(line["modality"], line["count"], line["ece"]) for line in lines] == [
        ("", 4, 0.25),
        ("CT", 3, 0.0),
        ("MR", 1, 1.0),
    ]
    assert calibration_of([], "deployment", "ours") == []


def test_answers_without_a_number_have_no_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("Training.evaluation_report.choose_panels", lambda *_: [])
    rows = [row(presence=math.nan, outcome="failed", dice=0.0), row(protocol="deployment", presence=1.0)]
    facts = {"manifest": "0" * 64, "models": {"ours": {"name": "good", "weights": "0" * 64}}}
    scorers: dict[str, Any] = {"ours": None}
    numbers = write_report(tmp_path, rows, facts, scorers, Options(split="test"))
    assert [one["protocol"] for one in numbers["calibration"]["ours"]] == ["deployment"]
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td>\u2013</td><td>0</td><td class="here">0.000</td><td>1</td>' in html


def test_a_wrong_call_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--checkpoint", "tiny", "--manifest", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert code != 0
    assert "manifest" in capsys.readouterr().err
