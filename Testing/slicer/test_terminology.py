"""Codes for words that the engine has none for: from Slicer's own list, whatever case and side; never a guess."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer

from MedicalSAM3.MedicalSAM3Slicer import terminology
from MedicalSAM3.MedicalSAM3Slicer.terminology import termOf
from MedicalSAM3Lib.concepts import find_concept, load_concepts
from MedicalSAM3Lib.seg_nrrd import REGION_CONTEXT

NONE = {"category": "", "type": "", "modifier": ""}


def coded(value: str, meaning: str, **more: Any) -> dict[str, Any]:
    """A code of a made-up scheme."""
    return {"CodingSchemeDesignator": "T", "CodeValue": value, "CodeMeaning": meaning, **more}


@pytest.fixture
def listed(scene: Any, tmp_path: Path) -> None:
    """A list of the form of Slicer's: sides as modifiers, a label, a word of two categories, one without colour."""
    sides = [
        coded("R", "Right", **{"3dSlicerLabel": "right gizmo", "recommendedDisplayRGBValue": [185, 102, 83]}),
        coded("L", "Left", recommendedDisplayRGBValue=[1, 2, 3]),
    ]
    types = [
        coded("1", "Gizmo", recommendedDisplayRGBValue=[127, 127, 127], Modifier=sides),
        coded("2", "Widget", **{"3dSlicerLabel": "widget thing", "recommendedDisplayRGBValue": [9, 8, 7]}),
        coded("3", "Twin", recommendedDisplayRGBValue=[1, 1, 1]),
    ]
    other = [coded("4", "Twin", recommendedDisplayRGBValue=[2, 2, 2])]
    categories = [
        coded("A", "Structure", showAnatomy=True, Type=types),
        coded("B", "Other", showAnatomy=True, Type=other),
    ]
    path = tmp_path / "list.term.json"
    path.write_text(json.dumps({
        "SegmentationCategoryTypeContextName": terminology.TYPE_CONTEXT,
        "@schema": "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/segment-context-schema.json#",
        "SegmentationCodes": {"Category": categories},
    }))  # fmt: skip
    logic = slicer.modules.terminologies.logic()
    assert logic.LoadTerminologyFromFile(str(path))
    terminology._indices.clear()


@pytest.mark.parametrize(
    ("phrase", "codes", "colour"),
    [
        ("gizmo", "T^A^Structure~T^1^Gizmo~^^", None),
        ("WIDGETS", "T^A^Structure~T^2^Widget~^^", (9, 8, 7)),
        ("right gizmo", "T^A^Structure~T^1^Gizmo~T^R^Right", (185, 102, 83)),
        ("Gizmo, left", "T^A^Structure~T^1^Gizmo~T^L^Left", (1, 2, 3)),
        ("Widget Thing", "T^A^Structure~T^2^Widget~^^", (9, 8, 7)),
    ],
)
def test_words_find_their_code(listed: None, phrase: str, codes: str, colour: Any) -> None:
    term = termOf(phrase, NONE)
    assert term is not None
    assert term.entry.startswith(f"{terminology.TYPE_CONTEXT}~{codes}~")
    assert term.colour == colour


def test_a_miss_never_has_the_code_of_what_was_asked_before(listed: None) -> None:
    assert termOf("right gizmo", NONE) is not None
    assert termOf("nothing of it", NONE) is None
    assert "Right" not in termOf("widget", NONE).entry  # type: ignore[union-attr]


@pytest.mark.parametrize("phrase", ["twin", "left widget", "nothing of it"])
def test_what_is_ambiguous_or_unknown_gets_no_code(listed: None, phrase: str) -> None:
    assert termOf(phrase, NONE) is None


@pytest.mark.parametrize(
    ("phrase", "codes"),
    [
        ("Liver", "SCT^10200004^Liver~^^~~^^~^^"),
        ("kidney", "SCT^64033007^Kidney~^^~~^^~^^"),
        ("Femur", "SCT^71341001^Femur~^^~~^^~^^"),
        ("femur, left", "SCT^71341001^Femur~SCT^7771000^Left~~^^~^^"),
        ("brain tumor", "SCT^108369006^Neoplasm~^^~~SCT^12738006^Brain~^^"),
        ("Brain tumours", "SCT^108369006^Neoplasm~^^~~SCT^12738006^Brain~^^"),
        ("glioma", "SCT^108369006^Neoplasm~^^~~SCT^12738006^Brain~^^"),
        ("right kidney tumor", "SCT^108369006^Neoplasm~^^~~SCT^64033007^Kidney~SCT^24028007^Right"),
        ("whole tumor", "SCT^108369006^Neoplasm~^^~~^^~^^"),
    ],
)
def test_what_clinicians_type_has_a_code(scene: Any, phrase: str, codes: str) -> None:
    concept = find_concept(phrase)
    assert concept is not None
    term = termOf(phrase, asdict(concept.codes))
    assert term is not None
    category = "SCT^49755003^Morphologically Altered Structure" if "umo" in phrase or phrase == "glioma" else (
        "SCT^123037004^Anatomical Structure"
    )  # fmt: skip
    assert term.entry.replace(REGION_CONTEXT, "") == f"{terminology.TYPE_CONTEXT}~{category}~{codes}"


def test_a_structure_does_not_get_the_code_of_its_whole(scene: Any) -> None:
    for concept in load_concepts():
        term = None if concept.codes.type else termOf(concept.name, NONE)
        assert term is None or "~SCT^49755003^" in term.entry, concept.name


def test_the_engines_code_wins(listed: None) -> None:
    term = termOf("gizmo", {"category": "SCT^1^C", "type": "SCT^2^T", "modifier": ""})
    assert term is not None
    assert "~SCT^1^C~SCT^2^T~^^~" in term.entry
