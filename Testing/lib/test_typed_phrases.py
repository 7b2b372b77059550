"""The frozen phrases that people type (``data/typed_phrases.csv``) find what they mean, and nothing else."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.interpret import read_phrase
from MedicalSAM3Lib.model_folder import sha256_of

FROZEN = Path(__file__).parent / "data" / "typed_phrases.csv"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with FROZEN.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def answer(phrase: str) -> str:
    concept = read_phrase(phrase).concept
    return concept.concept_id if concept else ""


def test_the_phrases_are_those_that_were_frozen(rows: list[dict[str, str]]) -> None:
    assert sha256_of(FROZEN) == "fc4da7b6afe0aea9c44e8ec96ac1c986544b3bf58ead955bee42bddb8a1f8262"
    meant = [row for row in rows if row["concept_id"]]
    assert (len(meant), len(rows) - len(meant)) == (500, 100)
    assert len({row["phrase"] for row in rows}) == 600


def test_at_least_98_of_100_phrases_find_their_concept_and_none_finds_another(rows: list[dict[str, str]]) -> None:
    meant = {row["phrase"]: row["concept_id"] for row in rows if row["concept_id"]}
    answers = {phrase: answer(phrase) for phrase in meant}
    assert {phrase: got for phrase, got in answers.items() if got not in ("", meant[phrase])} == {}
    assert sum(answers[phrase] == concept for phrase, concept in meant.items()) >= 0.98 * len(meant)


def test_what_must_not_match_matches_nothing(rows: list[dict[str, str]]) -> None:
    assert {row["phrase"]: got for row in rows if not row["concept_id"] and (got := answer(row["phrase"]))} == {}


def test_every_phrase_means_a_concept_of_the_vocabulary(rows: list[dict[str, str]]) -> None:
    assert {row["concept_id"] for row in rows} - {""} <= {concept.concept_id for concept in load_concepts()}
