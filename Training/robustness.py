"""The same concepts in other words: synonym, plural, clinical phrase, misspelling; and words that mean nothing here"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from MedicalSAM3Lib.concepts import find_concept
from Training.phrases import HELD_OUT_NONSENSE, prompt_variants

KINDS = ("synonym", "plural", "clinical", "misspelling")
READINGS = ("vocabulary", "verbatim")
"""With the words that the library makes of them, and with the words as they are."""


def in_other_words(concepts: Sequence[str], kind: str, seed: int) -> dict[str, str]:
    """One phrase of a kind for each concept that has one.

    Args:
        concepts: Ids.
        kind: One of ``KINDS``.
        seed: Of the misspellings.
    """
    if kind == "misspelling":
        return {concept: misspelt(prompt_variants(concept)["canonical"][0], seed) for concept in concepts}
    phrases = {concept: prompt_variants(concept)[kind] for concept in concepts}  # type: ignore[index]
    return {concept: found[0] for concept, found in phrases.items() if found}


def misspelt(phrase: str, seed: int) -> str:
    """The phrase with two neighbouring letters of its longest word in the wrong order; the same for the same seed."""
    words = phrase.split()
    longest = max(range(len(words)), key=lambda n: len(words[n]))
    word = words[longest]
    places = [n for n in range(1, len(word) - 1) if word[n] != word[n + 1]]
    if not places:
        words[longest] = word + word[-1]
        return " ".join(words)
    # The letters themselves seed the draw, so that the order of concepts decides nothing.
    n = places[int(np.random.default_rng([seed, *phrase.encode()]).integers(len(places)))]
    words[longest] = word[:n] + word[n + 1] + word[n] + word[n + 2 :]
    return " ".join(words)


def nonsense(most: int = 8) -> tuple[str, ...]:
    """Words that are no anatomy and were never used in training."""
    return tuple(phrase for phrase in HELD_OUT_NONSENSE if find_concept(phrase) is None)[:most]
