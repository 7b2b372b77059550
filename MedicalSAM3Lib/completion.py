"""Concepts for a text that is still being typed, best first; and the nearest one to a text that is none."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import cache

from MedicalSAM3Lib.concepts import Concept, find_concept, load_concepts
from MedicalSAM3Lib.spelling import put_right
from MedicalSAM3Lib.words import spell

NEAR = 0.65
"""Share of letters in common (``difflib``) from which a name is a hint."""


def complete(text: str, limit: int = 10) -> list[Concept]:
    """The concepts that a text may become, best first.

    First what it means as it stands; then names that begin with it, synonyms that do, names and synonyms of which some
    words begin with its words, in any order; last, where that is not enough, names that look like it. Of equals the
    shorter name comes first.

    Args:
        text: What was typed so far. Empty: the first of the vocabulary.
        limit: The most to return.
    """
    words = spell(text)
    typed = " ".join(words)
    if not typed:
        return list(load_concepts()[: max(limit, 0)])
    ranked: list[tuple[int, int, int, Concept]] = []
    for place, (concept, phrases) in enumerate(_spelled()):
        rank = min(_rank(phrase, typed, words) + min(number, 1) for number, phrase in enumerate(phrases))
        if rank < _NO_MATCH:
            ranked.append((rank, len(concept.name), place, concept))
    found = [entry[3] for entry in sorted(ranked, key=lambda entry: entry[:3])]
    right = None if find_concept(text) else put_right(text)
    meant = find_concept(text) or (right[1] if right else None)
    best = ([meant] if meant else []) + [concept for concept in found if concept is not meant]
    if len(best) < limit and len(typed) >= 3:
        best += [concept for concept in _alike(typed) if concept not in best]
    return best[: max(limit, 0)]


def nearest(text: str) -> Concept | None:
    """The concept whose name looks most like a text; None when nothing looks like it."""
    alike = _alike(" ".join(spell(text)))
    return alike[0] if alike else None


_NO_MATCH = 6


def _rank(phrase: str, typed: str, words: list[str]) -> int:
    """0 for a phrase that begins with the text, 2 for one with a word that begins with each of its words."""
    if phrase.startswith(typed):
        return 0
    own = phrase.split()
    return 2 if all(any(one.startswith(word) for one in own) for word in words) else _NO_MATCH


@cache
def _spelled() -> tuple[tuple[Concept, tuple[str, ...]], ...]:
    """Each concept with its phrases as typed text is spelled."""
    return tuple((concept, tuple(" ".join(spell(phrase)) for phrase in concept.phrases)) for concept in load_concepts())


@cache
def _alike(typed: str) -> tuple[Concept, ...]:
    """Concepts whose name looks like a text, the likest first."""
    matcher, alike = SequenceMatcher(autojunk=False), []
    matcher.set_seq2(typed)
    for place, (concept, phrases) in enumerate(_spelled()):
        matcher.set_seq1(phrases[0])
        if matcher.real_quick_ratio() >= NEAR and matcher.quick_ratio() >= NEAR and matcher.ratio() >= NEAR:
            alike.append((-matcher.ratio(), place, concept))
    return tuple(entry[2] for entry in sorted(alike, key=lambda entry: entry[:2])[:20])
