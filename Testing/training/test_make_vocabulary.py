"""Codes come out of published lists by meaning, and stay where they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from MedicalSAM3Lib.resources import resource
from Training.make_vocabulary import (
    ANATOMY,
    by_meaning,
    look_up,
    main,
    pydicom_entries,
    slicer_entries,
    totalsegmentator_entries,
    unknown_codes,
)


def code(value: str, meaning: str, **more: object) -> dict[str, object]:
    return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning, **more}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    grey, red = [127, 127, 127], [255, 0, 1]
    anatomy = code("1", "Anatomy", Type=[code("11", "Kidney", recommendedDisplayRGBValue=grey, Modifier=[
        code("L", "Left", recommendedDisplayRGBValue=red)])])  # fmt: skip
    lesions = code("2", "Morphology", Type=[code("22", "Cyst", recommendedDisplayRGBValue=grey)])
    for name, categories in (("SlicerGeneralAnatomy", [anatomy]), ("DICOM-Master", [anatomy, lesions])):
        path = tmp_path / f"SegmentationCategoryTypeModifier-{name}.term.json"
        path.write_text(json.dumps({"SegmentationCodes": {"Category": categories}}), encoding="utf-8")
    regions = {"AnatomicCodes": {"AnatomicRegion": [code("33", "Lumbar artery")]}}
    path = tmp_path / "AnatomicRegionAndModifier-DICOM-Master.term.json"
    path.write_text(json.dumps(regions), encoding="utf-8")
    return tmp_path


def row(concept_id: str, name: str, synonyms: str = "", category: str = "", type_code: str = "") -> dict[str, str]:
    return {
        "concept_id": concept_id, "name": name, "synonyms": synonyms, "category_code": category,
        "type_code": type_code, "colour": "", "parent": "",
    }  # fmt: skip


def test_a_row_gets_the_code_of_its_name_or_synonym_and_the_colour_of_its_sides(lists: Path) -> None:
    rows = [row("kidney", "kidneys"), row("x", "x", "arteria|lumbar arteries"), row("none", "unheard of")]
    assert look_up(rows, [by_meaning(slicer_entries(lists))]) == 2
    assert (rows[0]["type_code"], rows[0]["colour"]) == ("SCT^11^Kidney", "#ff0001")
    assert (rows[1]["category_code"], rows[1]["type_code"]) == (ANATOMY, "SCT^33^Lumbar artery")
    assert (rows[2]["category_code"], rows[2]["type_code"], rows[2]["colour"]) == ("", "", "")


def test_what_is_no_anatomy_is_looked_up_by_its_name_alone(lists: Path) -> None:
    rows = [row("a", "renal thing", "cyst", "SCT^2^Morphology"), row("b", "cyst", "", "SCT^2^Morphology")]
    assert look_up(rows, [by_meaning(slicer_entries(lists))]) == 1
    assert [one["type_code"] for one in rows] == ["", "SCT^22^Cyst"]
    assert rows[0]["category_code"] == "SCT^2^Morphology"  # so that it is no anatomy the next time either


def test_a_code_that_is_there_stays_and_an_invented_one_is_named(lists: Path) -> None:
    rows = [row("kidney", "kidney", type_code="SCT^999^Kidney")]
    entries = list(slicer_entries(lists))
    assert look_up(rows, [by_meaning(iter(entries))]) == 0
    assert unknown_codes(rows, entries) == ["kidney"]


def test_an_entry_that_needs_a_region_is_left_out(tmp_path: Path) -> None:
    names = [f"{one}CodeSequence.{part}" for one in ("SegmentedPropertyCategory", "SegmentedPropertyType")
             for part in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")]  # fmt: skip
    lines = [[*names, "AnatomicRegionSequence.CodeValue"], [*"SC1ST2", ""], [*"SC1ST3", "9"]]
    path = tmp_path / "mapping.csv"
    path.write_text("\n".join(",".join(line) for line in lines), encoding="utf-8")
    assert list(totalsegmentator_entries(path)) == [("S^C^1", "S^T^2", "")]


def test_pydicom_knows_the_liver() -> None:
    assert any(entry[1] == "SCT^10200004^Liver" for entry in pydicom_entries())


def test_a_call_without_lists_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "python -m Training.make_vocabulary" in capsys.readouterr().err


def test_the_published_coverage_is_that_of_the_file() -> None:
    with resource("concepts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    coded = sum(bool(one["type_code"]) for one in rows)
    text = " ".join(resource("concepts.md").read_text(encoding="utf-8").split())
    assert f"{coded} of {len(rows)} rows have codes" in text
