"""The words that a concept is asked with, and words that are never the answer."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from functools import cache

import numpy as np

from MedicalSAM3Lib.concepts import find_concept, load_concepts
from MedicalSAM3Lib.resources import resource

ELSEWHERE = (
    "brain", "skull", "eye", "tooth", "tongue", "knee", "hand", "foot", "finger", "elbow", "nose", "ear",
    "mandible", "optic disc", "polyp", "skin lesion", "cell nucleus", "molar", "patella", "tibia", "cochlea",
    "hippocampus", "cerebellum", "pituitary gland", "lens", "stapes", "wrist", "ankle", "uterus", "embryo",
)  # fmt: skip
"""Real structures that no slice of the training volumes shows."""

EVERYDAY = (
    "car", "dog", "tree", "house", "table", "bicycle", "banana", "cloud", "guitar", "river", "shoe", "clock",
    "aeroplane", "window", "bottle", "flower", "train", "book", "horse", "bridge", "ship", "mountain", "lamp",
    "keyboard", "cat", "road", "cake", "star", "umbrella", "piano",
)  # fmt: skip
"""Things of everyday life, as a stand-in for any phrase that is not anatomy."""

HELD_OUT_NONSENSE = (
    "zebra", "teapot", "violin", "traffic light", "pizza", "kneecap", "eyeball", "toe", "football", "elephant",
    "wisdom tooth", "asdfgh", "helicopter", "chess board", "forehead", "unicorn", "purple rain", "sofa",
)  # fmt: skip
"""Never used in training: what evaluation asks to see whether nonsense is turned down."""

_SYLLABLES = (
    "ba", "ke", "lo", "mi", "tru", "sha", "ven", "dor", "pli", "qua",
    "zet", "gor", "hin", "fla", "rem", "ost", "uz", "yel", "crip", "nar",
)  # fmt: skip


class PhraseBank:
    """Phrases per concept: its name most of the time, now and then a synonym that means nothing else."""

    def __init__(self, concepts: Sequence[str]) -> None:
        known = {concept.concept_id: concept for concept in load_concepts()}
        self._phrases: dict[str, tuple[str, ...]] = {}
        for concept in concepts:
            entry = known.get(concept)
            name = entry.name if entry else concept.replace("_", " ")
            synonyms = entry.synonyms if entry else ()
            self._phrases[concept] = (name, *(phrase for phrase in synonyms if find_concept(phrase) is entry))

    def name(self, concept: str) -> str:
        """The canonical phrase."""
        return self._phrases[concept][0]

    def phrases(self, concept: str) -> tuple[str, ...]:
        """All phrases of a concept, the canonical one first."""
        return self._phrases[concept]

    def draw(self, concept: str, rng: np.random.Generator) -> str:
        """The name in two thirds of the draws, else one of the synonyms."""
        phrases = self._phrases[concept]
        if len(phrases) == 1 or rng.random() < 0.67:
            return phrases[0]
        return phrases[int(rng.integers(1, len(phrases)))]


def draw_nonsense(rng: np.random.Generator, known: Container[str] = ()) -> str:
    """A phrase that no training slice can answer: other anatomy, everyday things, any words, or no word at all.

    Args:
        rng: What draws.
        known: Concept ids that slices may show; none of them is drawn.
    """
    while True:
        phrase = _draw_any(rng)
        concept = find_concept(phrase)
        if concept is None or concept.concept_id not in known:
            return phrase


@cache
def other_words() -> tuple[str, ...]:
    """All English words that the tokenizer knows as one token and that no concept's name contains.

    Lists of nonsense are short and soon learned by heart; of these some twenty thousand hardly any is asked
    twice, and what a network learns from them holds for words that it never met.
    """
    taken = {word for phrase in HELD_OUT_NONSENSE for word in phrase.split()}
    for concept in load_concepts():
        taken.update(word for phrase in (concept.name, *concept.synonyms) for word in phrase.lower().split())
    tokens = json.loads((resource("tokenizer") / "vocab.json").read_text(encoding="utf-8"))
    words = (token.removesuffix("</w>") for token in tokens if token.endswith("</w>"))
    free = (word for word in words if len(word) > 2 and word.isascii() and word.isalpha() and word not in taken)
    return tuple(sorted(word for word in free if find_concept(word) is None))


def _draw_any(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.3:
        return str(rng.choice(ELSEWHERE))
    if kind < 0.45:
        return str(rng.choice(EVERYDAY))
    count = int(rng.integers(1, 3))
    if kind < 0.85:
        words = other_words()
        return " ".join(words[int(rng.integers(len(words)))] for _ in range(count))
    return " ".join("".join(rng.choice(_SYLLABLES, int(rng.integers(1, 4)))) for _ in range(count))
