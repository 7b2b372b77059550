"""Typed words find the right concept, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.concepts import (
    HEADER,
    ancestors,
    are_relatives,
    colour_of,
    derive_colour,
    find_concept,
    load_concepts,
    read_concepts,
)
from MedicalSAM3Lib.resources import ResourceError
from MedicalSAM3Lib.words import key_of, normalise

TRAINED = (
    "liver spleen kidney left_kidney right_kidney stomach aorta inferior_vena_cava vertebra back_muscle psoas_muscle "
    "urinary_bladder colon small_bowel hip_bone femur gluteal_muscle rib sacrum pancreas gallbladder duodenum "
    "portal_vein lung left_lung right_lung heart esophagus adrenal_gland spinal_cord prostate costal_cartilage"
).split()


@pytest.mark.parametrize(
    ("phrase", "concept_id"),
    [
        ("LIVER", "liver"),
        (" the  Liver. ", "liver"),
        ("Kidney right", "right_kidney"),
        ("left kidneys", "left_kidney"),
        ("kidney (L)", "left_kidney"),
        ("Rt. kidney", "right_kidney"),
        ("left-sided kidney", "left_kidney"),
        ("both kidneys", "kidney"),
        ("left_kidney", "left_kidney"),
        ("urinary bladder", "urinary_bladder"),
        ("bladder", "urinary_bladder"),
        ("gall bladder", "gallbladder"),
        ("vertebrae", "vertebra"),
        ("L1 vertebra", "vertebra_l1"),
        ("vertebrae L1", "vertebra_l1"),
        ("oesophagus", "esophagus"),
        ("Brain Tumours", "brain_tumor"),
        ("left atrium of the heart", "left_atrium"),
        ("psoas", "psoas_muscle"),
        ("nuclei", "cell_nucleus"),
        ("IVC", "inferior_vena_cava"),
        ("small intestine", "small_bowel"),
        ("lobe, temporal, left", "left_temporal_lobe"),
        ("Glnd_Lacrimal_R", "right_lacrimal_gland"),
        ("left rib 3", "left_rib_3"),
    ],
)
def test_typed_phrase_finds_its_concept(phrase: str, concept_id: str) -> None:
    concept = find_concept(phrase)
    assert concept is not None
    assert concept.concept_id == concept_id


@pytest.mark.parametrize(
    "phrase",
    [
        "left liver",  # there is no such thing: neither the liver nor a left one
        "left and right kidney",  # two concepts in one phrase
        "disc",  # of the eye or of the spine
        "ventricle",  # of the heart or of the brain
        "body of",  # of what?
        "river",  # no misspelled liver
        "purple rain",
        "the",
        "...",
        "",
    ],
)
def test_ambiguous_or_unknown_phrase_finds_nothing(phrase: str) -> None:
    assert find_concept(phrase) is None


def test_every_name_leads_back_to_its_concept() -> None:
    for concept in load_concepts():
        found = find_concept(concept.name)
        assert found is not None, concept.name
        assert found.concept_id == concept.concept_id


def test_concepts_of_the_bundled_model_are_known() -> None:
    assert set(TRAINED) <= {concept.concept_id for concept in load_concepts()}


def test_a_sided_concept_has_the_codes_of_its_whole_and_a_modifier() -> None:
    left, whole = find_concept("left kidney"), find_concept("kidney")
    assert left is not None
    assert whole is not None
    assert left.codes.type == whole.codes.type == "SCT^64033007^Kidney"
    assert left.codes.modifier == "SCT^7771000^Left"
    assert whole.codes.modifier == ""
    assert left.parents == ("kidney",)
    assert left.colour == (185, 102, 83)  # the modifier's colour; the type itself says grey


def test_a_row_of_a_pair_is_a_left_and_a_right_one_too(tmp_path: Path) -> None:
    rows = [
        "kidney,kidney,ren,paired,,SCT^1^A,SCT^2^Kidney,,,totalsegmentator|ct2us_kidney",
        "cortex,cortex,,paired,kidney,,,,#010203,",
    ]
    path = tmp_path / "concepts.csv"
    path.write_text("\n".join([",".join(HEADER), *rows]), encoding="utf-8")
    found = {concept.concept_id: concept for concept in read_concepts(path)}
    assert list(found) == ["kidney", "left_kidney", "right_kidney", "cortex", "left_cortex", "right_cortex"]
    right = found["right_kidney"]
    assert (right.name, right.synonyms, right.side, right.paired) == ("right kidney", ("right ren",), "right", False)
    assert (right.parents, right.codes.modifier) == (("kidney",), "SCT^24028007^Right")
    assert right.datasets == ("totalsegmentator",)  # the other one does not tell left from right
    assert right.colour == derive_colour("right kidney")
    assert found["kidney"].paired
    assert found["left_cortex"].parents == ("cortex", "left_kidney")
    assert found["left_cortex"].codes.modifier == ""
    assert found["left_cortex"].colour == (1, 2, 3)


def test_no_two_concepts_share_a_name() -> None:
    keys = [key_of(concept.name) for concept in load_concepts()]
    assert len(set(keys)) == len(keys)


def test_codes_come_whole_or_not_at_all() -> None:
    for concept in load_concepts():
        assert bool(concept.codes.category) == bool(concept.codes.type), concept.concept_id
        assert concept.codes.type or not concept.codes.modifier, concept.concept_id
        assert not concept.codes.modifier or concept.side, concept.concept_id


@given(st.text(max_size=40))
def test_normalise_is_idempotent_and_keeps_the_answer(phrase: str) -> None:
    once = normalise(phrase)
    assert normalise(once) == once
    assert find_concept(once) == find_concept(phrase)


@given(st.text(min_size=1, max_size=40))
def test_unknown_phrase_has_a_stable_colour_that_is_not_grey(phrase: str) -> None:
    red, green, blue = derive_colour(phrase)
    assert (red, green, blue) == derive_colour(f"  {phrase} ")
    assert max(red, green, blue) - min(red, green, blue) > 60
    assert max(red, green, blue) <= 255


def test_colour_of_known_and_unknown() -> None:
    assert colour_of("LIVERS") == (221, 130, 101)
    assert colour_of("purple rain") == colour_of("Purple  Rain") == derive_colour("purple rain")
    assert colour_of("purple rain") != colour_of("yellow rain")


GOOD = "liver,liver,,,,,,,#dd8265,"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, GOOD], "'liver' again"),
        ([",liver,,,,,,,,"], "an id of its own"),
        (["lobe,lobe,,,lung,,,,,"], "known parent, got 'lung'"),
        (["lobe,lobe,,,lobe,,,,,"], "a circle of parents"),
        (["a,a,,,c,,,,,", "b,b,,,a,,,,,", "c,c,,,b,,,,,", "d,d,,,a,,,,,"], "a: expected .* circle"),
        (["lobe,lobe,,middle,,,,,,"], "side left, right, paired or nothing, got 'middle'"),
        (["lobe,lobe,,,,SCT^1,,,,"], "scheme\\^value\\^meaning, got 'SCT\\^1'"),
        (["lobe,lobe,,,,,,,#12,"], "colour like #dd8265, got '#12'"),
        (["lobe,lobe,,,,,,,red,"], "colour like #dd8265, got 'red'"),
    ],
)
def test_damaged_vocabulary_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    path = tmp_path / "concepts.csv"
    path.write_text("\n".join([",".join(HEADER), *rows]), encoding="utf-8")
    with pytest.raises(ResourceError, match=message):
        read_concepts(path)


def test_another_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "concepts.csv"
    path.write_text("id,name\n", encoding="utf-8")
    with pytest.raises(ResourceError, match="expected the columns concept_id"):
        read_concepts(path)


def test_ancestors_go_up_to_the_whole() -> None:
    assert ancestors("vertebra_l1") == ("lumbar_spine", "spine")
    assert ancestors("liver_tumor") == ("liver", "neoplasm", "lesion")
    assert ancestors("kidney") == ancestors("nothing of the kind") == ()


@pytest.mark.parametrize(
    ("one", "other", "related"),
    [
        ("kidney", "left kidney", True),
        ("renal parenchyma", "kidney, right", True),
        ("L1 vertebra", "spine", True),
        ("left kidney", "right kidney", False),
        ("liver", "spleen", False),
        ("purple kidney", "kidney", False),
        ("purple rain", "yellow rain", False),
    ],
)
def test_relatives_are_wholes_and_their_parts(one: str, other: str, related: bool) -> None:
    assert are_relatives(one, other) is related
    assert are_relatives(other, one) is related
