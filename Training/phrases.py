"""The words that a concept is asked with, and words that are never the answer."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from functools import cache
from typing import Literal

import numpy as np

from MedicalSAM3Lib.concepts import find_concept, load_concepts
from MedicalSAM3Lib.resources import resource

ELSEWHERE = (
    "brain", "skull", "eye", "tooth", "tongue", "knee", "hand", "foot", "finger", "elbow", "nose", "ear",
    "mandible", "optic disc", "polyp", "skin lesion", "cell nucleus", "molar", "patella", "tibia", "cochlea",
    "hippocampus", "cerebellum", "pituitary gland", "lens", "stapes", "wrist", "ankle", "uterus", "embryo",
)  # fmt: skip
"""Real structures that no slice of the demonstration's volumes shows; of other data only their owner knows that."""

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

PromptKind = Literal["canonical", "synonym", "plural", "clinical"]

CLINICAL = ("the {}", "{} region", "outline of the {}", "{} in this image")
"""How clinicians write around a name."""

_IRREGULAR = {"foot": "feet", "tooth": "teeth", "atrium": "atria", "septum": "septa", "ganglion": "ganglia",
              "mitochondrion": "mitochondria", "iris": "irides", "pelvis": "pelves", "scissors": "scissors",
              "forceps": "forceps", "stomach": "stomachs"}  # fmt: skip
_ENDINGS = (("us", "i"), ("ebra", "ebrae"), ("bula", "bulae"), ("sis", "ses"), ("rix", "rices"), ("pex", "pices"),
            ("ch", "ches"), ("sh", "shes"), ("ss", "sses"), ("x", "xes"), ("ay", "ays"), ("ey", "eys"), ("y", "ies"),
            ("s", "ses"))  # fmt: skip
_NO_PLURAL = ("blood", "fat", "bile", "stroma", "tissue", "fluid", "material", "necrosis", "mucosa", "cartilage")
"""Substances: nobody asks for several of them."""

_SYLLABLES = (
    "ba", "ke", "lo", "mi", "tru", "sha", "ven", "dor", "pli", "qua",
    "zet", "gor", "hin", "fla", "rem", "ost", "uz", "yel", "crip", "nar",
)  # fmt: skip


class PhraseBank:
    """Phrases per concept: its name most of the time, now and then another that means nothing else.

    Args:
        concepts: Concept ids.
        kinds: Which other phrases there are (``prompt_variants``).
    """

    def __init__(self, concepts: Sequence[str], kinds: Sequence[PromptKind] = ("synonym",)) -> None:
        self._phrases: dict[str, tuple[str, ...]] = {}
        for concept in concepts:
            variants = prompt_variants(concept)
            others = [phrase for kind in kinds if kind != "canonical" for phrase in variants[kind]]
            self._phrases[concept] = tuple(dict.fromkeys((*variants["canonical"], *others)))

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


def prompt_variants(concept: str) -> dict[PromptKind, tuple[str, ...]]:
    """All ways of asking for a concept, by kind; the canonical name is exactly one.

    Synonyms and plurals that would mean another concept as well are left out; one side of the body has no plural.

    Args:
        concept: Id in the vocabulary, or of a concept that is not in it.
    """
    entry = next((one for one in load_concepts() if one.concept_id == concept), None)
    name = entry.name if entry else concept.replace("_", " ")
    synonyms = tuple(phrase for phrase in (entry.synonyms if entry else ()) if find_concept(phrase) is entry)
    is_sided = name.startswith(("left ", "right "))
    plurals = () if is_sided or name.endswith(_NO_PLURAL) else (plural(name),)
    return {
        "canonical": (name,),
        "synonym": synonyms,
        "plural": tuple(phrase for phrase in plurals if find_concept(phrase) in (entry, None)),
        "clinical": tuple(template.format(name) for template in CLINICAL),
    }


def plural(phrase: str) -> str:
    """The plural of a phrase, by its last word, with the Latin and Greek endings of anatomy."""
    head, _, word = phrase.rpartition(" ")
    start = f"{head} " if head else ""
    if word in _IRREGULAR:
        return start + _IRREGULAR[word]
    for ending, other in _ENDINGS:
        if word.endswith(ending):
            return start + word.removesuffix(ending) + other
    return start + word + "s"


def draw_nonsense(rng: np.random.Generator, known: Container[str] = (), *, elsewhere: bool = True) -> str:
    """A phrase that no training slice can answer: other anatomy, everyday things, any words, or no word at all.

    Args:
        rng: What draws.
        known: Concept ids that slices may show; none of them is drawn.
        elsewhere: Whether other anatomy is drawn too. A radiograph of a hand that is labelled with its tumour alone
            shows a hand, and must not teach that it does not.
    """
    while True:
        phrase = _draw_any(rng)
        if phrase in ELSEWHERE and not elsewhere:
            continue
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
