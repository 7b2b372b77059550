"""What a concept is called, and what is never the answer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from MedicalSAM3Lib.concepts import find_concept, load_concepts
from MedicalSAM3Lib.words import normalise
from Training.adapters import slicerio_package, totalsegmentator_package
from Training.phrases import (
    ELSEWHERE,
    EVERYDAY,
    HELD_OUT_NONSENSE,
    PhraseBank,
    draw_nonsense,
    other_words,
    plural,
    prompt_variants,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def trained_concepts() -> set[str]:
    """Concepts that the adapters can put into the training manifest."""
    package = totalsegmentator_package
    known = {*slicerio_package._LABELS, *package._SINGLE.values(), *package._SINGLE, *package._SIDED, "rib", "vertebra"}
    sides = {f"{side}_{concept}" for side in ("left", "right") for concept in package._SIDED}
    return {*known, *sides, "sacrum", *package.NOT_IN_A_THORAX}


def test_a_concept_is_asked_by_its_name_mostly_and_by_each_synonym() -> None:
    entry = next(concept for concept in load_concepts() if concept.concept_id == "inferior_vena_cava")
    bank, draws = PhraseBank([entry.concept_id]), rng()
    counts = Counter(bank.draw(entry.concept_id, draws) for _ in range(600))
    assert bank.name(entry.concept_id) == entry.name
    assert set(counts) == set(entry.phrases)
    assert counts[entry.name] / 600 == pytest.approx(0.67, abs=0.06)


def test_no_concept_is_asked_by_the_phrase_of_another() -> None:
    concepts = [concept.concept_id for concept in load_concepts()]
    bank, draws = PhraseBank(concepts), rng(1)
    for concept in concepts:
        for _ in range(12):
            found = find_concept(bank.draw(concept, draws))
            assert found is not None
            assert found.concept_id == concept


def test_a_phrase_that_means_two_concepts_is_not_drawn() -> None:
    bank, draws = PhraseBank(["intervertebral_disc"]), rng()
    assert "disc" in next(c.synonyms for c in load_concepts() if c.concept_id == "intervertebral_disc")
    assert "disc" not in {bank.draw("intervertebral_disc", draws) for _ in range(300)}


def test_a_concept_without_an_entry_is_asked_by_its_id() -> None:
    bank = PhraseBank(["odd_structure"])
    assert bank.name("odd_structure") == bank.draw("odd_structure", rng()) == "odd structure"


def test_the_lists_of_nonsense_share_no_phrase() -> None:
    lists = [{normalise(phrase) for phrase in phrases} for phrases in (ELSEWHERE, EVERYDAY, HELD_OUT_NONSENSE)]
    assert [len(one) for one in lists] == [len(ELSEWHERE), len(EVERYDAY), len(HELD_OUT_NONSENSE)]
    assert len(set.union(*lists)) == sum(len(one) for one in lists)


@pytest.mark.parametrize("phrase", [*ELSEWHERE, *EVERYDAY, *HELD_OUT_NONSENSE])
def test_nonsense_names_nothing_that_is_trained(phrase: str) -> None:
    concept = find_concept(phrase)
    assert concept is None or concept.concept_id not in trained_concepts()


def test_drawn_nonsense_is_of_four_kinds_and_never_held_out() -> None:
    draws = rng()
    phrases = [draw_nonsense(draws) for _ in range(3000)]

    def kind(phrase: str) -> str:
        if phrase in ELSEWHERE:
            return "elsewhere"
        if phrase in EVERYDAY:
            return "everyday"
        return "words" if set(phrase.split()) <= set(other_words()) else "no words"

    kinds = Counter(kind(phrase) for phrase in phrases)
    for name, share in {"elsewhere": 0.3, "everyday": 0.15, "words": 0.4, "no words": 0.15}.items():
        assert kinds[name] / 3000 == pytest.approx(share, abs=0.04), name
    assert not set(phrases) & set(HELD_OUT_NONSENSE)
    assert all(find_concept(phrase) is None for phrase in phrases if phrase not in ELSEWHERE)


def test_other_words_are_in_no_name_of_a_concept_and_not_held_out() -> None:
    words = set(other_words())
    assert {"garden", "piano", "algebra"} <= words
    assert not words & {"liver", "hepatic", "bone", "left", "zebra", "tooth", "wisdom"}
    assert len(words) > 20_000


def test_nonsense_is_never_a_concept_that_slices_may_show() -> None:
    draws = rng()
    phrases = {draw_nonsense(draws, ("brain", "eyeball", "thyroid_gland")) for _ in range(1500)}
    assert not phrases & {"brain", "eye", "thyroid"}
    assert "tongue" in phrases


def test_other_anatomy_is_not_asked_of_data_that_may_show_it() -> None:
    draws = rng()
    phrases = {draw_nonsense(draws, elsewhere=False) for _ in range(1500)}
    assert not phrases & set(ELSEWHERE)
    assert phrases & set(EVERYDAY)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("optic disc", "optic discs"), ("cell nucleus", "cell nuclei"), ("retinal artery", "retinal arteries"),
        ("vertebra", "vertebrae"), ("coronary stenosis", "coronary stenoses"), ("left atrium", "left atria"),
        ("mitochondrion", "mitochondria"), ("thorax", "thoraxes"), ("kidney", "kidneys"), ("scissors", "scissors"),
        ("tooth", "teeth"), ("mass", "masses"), ("bronchial branch", "bronchial branches"), ("stomach", "stomachs"),
    ],
)  # fmt: skip
def test_several_of_a_thing_are_called_as_anatomists_call_them(one: str, many: str) -> None:
    assert plural(one) == many


def test_variants_never_ask_for_another_concept() -> None:
    for concept in load_concepts():
        variants = prompt_variants(concept.concept_id)
        assert variants["canonical"] == (concept.name,)
        for kind in ("synonym", "plural"):
            assert all(find_concept(phrase) in (concept, None) for phrase in variants[kind]), concept.name
        assert all(concept.name in phrase for phrase in variants["clinical"])


def test_substances_and_single_sides_have_no_plural() -> None:
    assert prompt_variants("left_kidney")["plural"] == ()
    assert prompt_variants("body_fat")["plural"] == ()
    assert prompt_variants("unheard_of_structure") == {
        "canonical": ("unheard of structure",),
        "synonym": (),
        "plural": ("unheard of structures",),
        "clinical": (
            "the unheard of structure",
            "unheard of structure region",
            "outline of the unheard of structure",
            "unheard of structure in this image",
        ),
    }


def test_a_bank_draws_the_kinds_it_was_asked_for() -> None:
    bank, draws = PhraseBank(["spleen"], ("plural", "clinical")), rng()
    variants = prompt_variants("spleen")
    drawn = {bank.draw("spleen", draws) for _ in range(400)}
    assert drawn == {"spleen", *variants["plural"], *variants["clinical"]}
    assert {PhraseBank(["spleen"], ()).draw("spleen", draws) for _ in range(20)} == {"spleen"}
