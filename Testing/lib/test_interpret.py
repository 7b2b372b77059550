"""What a typed phrase is read as, put right and told; and completion of what is half typed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.completion import complete, nearest
from MedicalSAM3Lib.concepts import find_concept, load_concepts
from MedicalSAM3Lib.interpret import as_typed, read_phrase
from MedicalSAM3Lib.spelling import is_a_slip, is_known, put_right
from MedicalSAM3Lib.structures import Finding
from MedicalSAM3Lib.words import asks_for_both, key_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lobe, temporal, left", "left temporal lobe"),
        ("renal cysts", "cyst of the kidney"),
        ("BrainStem", "brain stem"),
        ("5th rib", "fifth rib"),
        ("ren sinister", "left ren"),
        ("haematoma", "hematoma"),
        ("set of ribs", "rib"),
        ("metastasis to liver", "hepatic metastases"),
    ],
)
def test_two_ways_of_saying_the_same_have_one_key(one: str, other: str) -> None:
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("left kidney", "right kidney"), ("body", "body of"), ("ren sinister", "right ren"), ("lens", "len")],
)
def test_what_is_not_the_same_has_two_keys(one: str, other: str) -> None:
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize(
    ("typed", "meant", "slips", "is_one"),
    [
        ("livr", "liver", 1, True),
        ("liiver", "liver", 1, True),
        ("luver", "liver", 1, True),
        ("lievr", "liver", 1, True),
        ("reviel", "liver", 1, False),
        ("kindey", "kidney", 1, True),
        ("haemmorhage", "haemorrhage", 2, True),
        ("liver", "liver", 1, True),
        ("spleen", "liver", 2, False),
    ],
)
def test_slips_are_letters_more_less_other_or_swapped(typed: str, meant: str, slips: int, is_one: bool) -> None:
    assert is_a_slip(typed, meant, slips) is is_one
    assert is_a_slip(meant, typed, slips) is is_one


@given(st.sampled_from([c.name for c in load_concepts() if not c.side and c.name.isalpha()]), st.data())
def test_a_letter_left_out_is_put_right_or_left_alone_but_never_another_concept(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(name) - 1))
    typed = name[:place] + name[place + 1 :]
    found = find_concept(typed)
    right = put_right(typed)
    assert found is not None or right is None or is_a_slip(typed, right[0], 2)


@pytest.mark.parametrize(
    "phrase", ["river", "hearth", "scull", "long", "heart of gold", "purple rain", "zebra", "", "?!"]
)
def test_ordinary_words_are_not_put_right(phrase: str) -> None:
    assert put_right(phrase) is None


def test_an_ordinary_word_beside_an_anatomical_one_can_be_a_slip() -> None:
    right = put_right("spinal chord")
    assert right is not None
    assert (right[0], right[1].concept_id) == ("spinal cord", "spinal_cord")
    assert is_known("chord")
    assert put_right("heart chord") is None


def test_a_concept_is_asked_by_its_name_and_the_change_is_told() -> None:
    reading = read_phrase("LIVERS")
    assert (reading.asked, reading.notices) == ("liver", ("'LIVERS' was asked as 'liver'.",))
    assert read_phrase("liver").notices == ()
    assert read_phrase("kidnye, left").asked == "left kidney"


def test_a_model_is_asked_with_the_phrase_that_it_was_trained_on() -> None:
    trained = {"liver": ["hepatic parenchyma", "liver"]}
    assert read_phrase("liver", trained).asked == "hepatic parenchyma"
    reading = read_phrase("spleen", trained)
    assert reading.asked == "spleen"
    assert reading.notices == ("The model was not trained on 'spleen'.",)


def test_verbatim_asks_what_was_typed_and_tells_nothing() -> None:
    reading = read_phrase("LIVERS", {"liver": ["liver"]}, verbatim=True)
    assert (reading.asked, reading.notices) == ("LIVERS", ())
    assert reading.concept is not None
    assert read_phrase("livr", verbatim=True).concept is None


def test_an_unknown_phrase_passes_with_the_nearest_as_a_hint() -> None:
    reading = read_phrase("hepatic flexures vein")
    assert (reading.asked, reading.concept) == ("hepatic flexures vein", None)
    assert "the nearest that is there: 'hepatic vein'" in reading.notices[0]
    assert read_phrase("xylophone player").notices == (
        "'xylophone player' is not in the vocabulary and was asked as it is.",
    )


def test_both_of_a_pair_is_heard_and_of_anything_else_it_means_nothing() -> None:
    assert read_phrase("both kidneys").both
    assert read_phrase("bilateral lungs").both
    assert not read_phrase("kidneys").both
    assert not read_phrase("both livers").both
    assert asks_for_both("Both, of them")


def test_findings_carry_what_was_typed_and_what_was_asked() -> None:
    findings = [Finding("liver", "found"), Finding("purple rain", "not_found", colour=(1, 2, 3))]
    told = as_typed(findings, [read_phrase("livr"), read_phrase("purple rain")])
    assert [(one.phrase, one.asked, one.concept_id) for one in told] == [
        ("livr", "liver", "liver"),
        ("purple rain", "purple rain", ""),
    ]
    assert told[0].codes.type == "SCT^10200004^Liver"
    assert told[1].colour == (1, 2, 3)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("kid", "kidney"),
        ("left kid", "left_kidney"),
        ("kidney l", "left_kidney"),
        ("LIV", "liver"),
        ("hepatic cy", "liver_cyst"),
        ("livr", "liver"),
        ("IVC", "inferior_vena_cava"),
        ("lobe temp", "temporal_lobe"),
    ],
)
def test_completion_begins_with_the_likeliest(text: str, first: str) -> None:
    assert complete(text)[0].concept_id == first


def test_completion_has_no_concept_twice_and_no_more_than_asked() -> None:
    for text in ("k", "left", "vert l", "spleeen", ""):
        found = complete(text, 7)
        assert len(found) == 7 or text == "spleeen"
        assert len({concept.concept_id for concept in found}) == len(found)
    assert complete("kid", 0) == complete("", 0) == []
    assert complete("qqqq xxxx") == []


@given(st.text(max_size=30))
def test_any_text_can_be_completed_and_read(text: str) -> None:
    assert len(complete(text, 5)) <= 5
    reading = read_phrase(text)
    assert reading.typed == text
    assert reading.asked or not text


def test_nearest_of_nothing_is_nothing() -> None:
    assert nearest("qqqq xxxx") is None
    near = nearest("kidneey cystt")
    assert near is not None
    assert near.concept_id == "kidney_cyst"


def test_the_vocabulary_needs_nothing_beyond_python() -> None:
    script = (
        "import sys\n"
        "from MedicalSAM3Lib import codes, completion, concepts, interpret, presets, spelling, words\n"
        "interpret.read_phrase('kidnye, left'); completion.complete('kid'); presets.load_presets()\n"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    )
    run = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert {name for name in run.stdout.split() if not name.startswith("_")} <= {"MedicalSAM3Lib"}
