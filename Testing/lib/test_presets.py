"""Presets are lists of known concepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from MedicalSAM3Lib.errors import PromptError
from MedicalSAM3Lib.interpret import check_concepts
from MedicalSAM3Lib.presets import load_presets, preset, read_presets
from MedicalSAM3Lib.resources import ResourceError


def test_presets_can_be_asked_for() -> None:
    assert {"abdomen", "thorax"} <= set(load_presets())
    for name, concepts in load_presets().items():
        assert check_concepts([concept.name for concept in concepts]), name


def test_a_preset_is_found_whatever_its_case_and_gap() -> None:
    assert preset(" Head and NECK ") == preset("head_and_neck")
    assert preset("abdomen")[0].concept_id == "liver"


def test_an_unknown_preset_names_those_that_there_are() -> None:
    with pytest.raises(PromptError, match=r"a preset \(abdomen, .*\), got 'elbow'"):
        preset("elbow")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,ids\n", "the columns name, concepts"),
        ("name,concepts\na,liver|unicorn\n", "got 'unicorn'"),
        ("name,concepts\na,liver|liver\n", "got 'liver'"),
        ("name,concepts\na,liver\na,spleen\n", "a: expected known concepts"),
        ("name,concepts\na,\n", "got ''"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "presets.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ResourceError, match=message):
        read_presets(path)
