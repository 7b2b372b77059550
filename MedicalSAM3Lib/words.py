"""One spelling for typed phrases: case, punctuation, plural, British spelling, and the side apart."""

from __future__ import annotations

import re
import unicodedata

SIDES = {"left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right"}

_FILLERS = frozenset({"a", "an", "the", "of", "both", "bilateral", "side", "sided"})

_SINGULARS = {
    "atria": "atrium",
    "bronchi": "bronchus",
    "femora": "femur",
    "glutei": "gluteus",
    "hippocampi": "hippocampus",
    "humeri": "humerus",
    "lenses": "lens",
    "maxillae": "maxilla",
    "metastases": "metastasis",
    "nuclei": "nucleus",
    "ova": "ovum",
    "patellae": "patella",
    "scapulae": "scapula",
    "teeth": "tooth",
    "testes": "testis",
    "thalami": "thalamus",
    "tibiae": "tibia",
    "vertebrae": "vertebra",
}
"""Plurals that no rule makes singular."""

_SPELLINGS = {
    "disk": "disc",
    "grey": "gray",
    "haemorrhage": "hemorrhage",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "tumour": "tumor",
}


def split_side(phrase: str) -> tuple[str, str]:
    """The side ("left", "right" or "") and the other words of a phrase, in one spelling.

    A single "l" or "r" is a side only as the first or the last word. A phrase that names both sides
    keeps both words, and so fits no concept.
    """
    words = _spell(phrase)
    sides = {SIDES[word] for place, word in enumerate(words) if _is_side(word, place, len(words))}
    if len(sides) != 1:
        return "", " ".join(words)
    rest = [word for place, word in enumerate(words) if not _is_side(word, place, len(words))]
    return sides.pop(), " ".join(rest)


def _is_side(word: str, place: int, count: int) -> bool:
    return word in SIDES and (len(word) > 1 or (count > 1 and place in (0, count - 1)))


def _spell(phrase: str) -> list[str]:
    text = unicodedata.normalize("NFKC", phrase).casefold()
    # Letters and digits of every script are words, everything else parts them.
    words = [_singular(word) for word in re.findall(r"[^\W_]+", text)]
    return [_SPELLINGS.get(word, word) for word in words if word not in _FILLERS]


def _singular(word: str) -> str:
    if word in _SINGULARS:
        return _SINGULARS[word]
    if len(word) < 4 or word.endswith(("ss", "us", "is", "as", "os")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") else word
