"""Token ids are those of SAM3's own tokenizer, and a phrase it cannot hold is refused with its length."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.errors import PromptError, WeightsError
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.text import CONTEXT_LENGTH, Tokenizer, clean_phrase, load_tokenizer

START, END = 49406, 49407

# What the tokenizer of the package sam3 0.1.4 gives, without start and end.
PUBLISHED = {
    "liver": [12639],
    "Left  Kidney": [1823, 14610],
    "  inferior vena cava ": [16258, 2498, 47442, 48682],
    "L1 vertebra": [331, 272, 35158, 5860],
    "T12-vertebra (body)": [339, 272, 273, 268, 35158, 5860, 263, 1774, 264],
    "spleen &amp; liver": [588, 15940, 261, 12639],
    "don't know": [847, 713, 1038],
    "Ödem der Lunge": [7255, 7825, 801, 3221, 710],
    "naïve 3.5cm lesion!": [1097, 35689, 563, 274, 269, 276, 3741, 534, 1015, 256],
    "肝臓": [164, 224, 251, 164, 229, 497],
    "left\tatrial\nappendage": [1823, 13882, 566, 882, 945, 805],
    "a_b": [320, 318, 321],
}


@cache
def shipped() -> Tokenizer:
    """The tokenizer of this repository; hypothesis cannot use a fixture."""
    return load_tokenizer(resource("tokenizer"))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return shipped()


@pytest.mark.parametrize("phrase", PUBLISHED)
def test_ids_are_the_published_ones(tokenizer: Tokenizer, phrase: str) -> None:
    ids, mask = tokenizer.encode([phrase])
    tokens = [START, *PUBLISHED[phrase], END]
    assert ids[0].tolist() == tokens + [END] * (CONTEXT_LENGTH - len(tokens))
    assert mask[0].tolist() == [1] * len(tokens) + [0] * (CONTEXT_LENGTH - len(tokens))


def test_shape_is_always_the_same(tokenizer: Tokenizer) -> None:
    for phrases in ([], ["liver"], ["liver", "a very much longer phrase with an adjective or two"]):
        ids, mask = tokenizer.encode(phrases)
        assert ids.shape == mask.shape == (len(phrases), CONTEXT_LENGTH)
        assert ids.dtype == mask.dtype == torch.int64


def test_thirty_two_tokens_fit_and_thirty_three_are_refused_with_their_number(tokenizer: Tokenizer) -> None:
    assert int(tokenizer.encode(["liver " * 30])[1].sum()) == 32
    with pytest.raises(PromptError, match=r"at most 32 tokens .*got 33 tokens"):
        tokenizer.encode(["liver " * 31])


@pytest.mark.parametrize("phrase", ["", "   ", "\n\t", "&nbsp;"])
def test_an_empty_phrase_is_refused(tokenizer: Tokenizer, phrase: str) -> None:
    with pytest.raises(PromptError, match="got an empty one"):
        tokenizer.encode([phrase])


def test_ten_thousand_characters_are_refused_at_once(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="got 10000 characters"):
        tokenizer.encode(["a" * 10_000])


def test_a_control_token_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptError, match="control token"):
        tokenizer.encode(["liver <|endoftext|> spleen"])


@given(st.text(min_size=1, max_size=60))
def test_any_text_is_encoded_or_refused(phrase: str) -> None:
    try:
        ids, mask = shipped().encode([phrase])
    except PromptError:
        return
    used = int(mask.sum())
    assert ids[0, 0] == START
    assert (ids[0, used - 1 :] == END).all()


def test_cleaning_is_done_once_for_all(tokenizer: Tokenizer) -> None:
    assert clean_phrase("  Left\u00a0KIDNEY &amp;amp; ureter ") == "left kidney & ureter"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    shutil.copy(resource("tokenizer", "vocab.json"), tmp_path)
    with pytest.raises(WeightsError, match=r"merges\.txt is missing"):
        load_tokenizer(tmp_path)


def test_a_damaged_vocabulary_is_refused(tmp_path: Path) -> None:
    shutil.copy(resource("tokenizer", "merges.txt"), tmp_path)
    (tmp_path / "vocab.json").write_text("{ no json", encoding="utf-8")
    with pytest.raises(WeightsError, match="byte-pair vocabulary"):
        load_tokenizer(tmp_path)
