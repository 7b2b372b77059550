"""The words that a concept is asked with, and words that are never the answer."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np

from MedicalSAM3Lib.concepts import find_concept, load_concepts

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

    def draw(self, concept: str, rng: np.random.Generator) -> str:
        """The name in two thirds of the draws, else one of the synonyms."""
        phrases = self._phrases[concept]
        if len(phrases) == 1 or rng.random() < 0.67:
            return phrases[0]
        return phrases[int(rng.integers(1, len(phrases)))]


def draw_nonsense(rng: np.random.Generator, known: Container[str] = ()) -> str:
    """A phrase that no training slice can answer: other anatomy, everyday things, or no word at all.

    Args:
        rng: What draws.
        known: Concept ids that slices may show; none of them is drawn.
    """
    while True:
        phrase = _draw_any(rng)
        concept = find_concept(phrase)
        if concept is None or concept.concept_id not in known:
            return phrase


def _draw_any(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.4:
        return str(rng.choice(ELSEWHERE))
    if kind < 0.7:
        return str(rng.choice(EVERYDAY))
    words = ["".join(rng.choice(_SYLLABLES, int(rng.integers(1, 4)))) for _ in range(int(rng.integers(1, 3)))]
    return " ".join(words)
