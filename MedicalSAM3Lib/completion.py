"""What a person who types a few letters probably means: known concepts, the best first."""

from __future__ import annotations

from MedicalSAM3Lib.concepts import Concept, find_concept, load_concepts

_NO_FIT = 9


def complete(typed: str) -> list[Concept]:
    """Known concepts that fit; all, in the order of the vocabulary, for nothing typed.

    The concept that the words mean stands first, then those whose name begins with them, then those with a word
    that does, then synonyms, then those that hold the letters anywhere. Ties: the shorter name first.
    """
    wanted = " ".join(typed.casefold().split())
    if not wanted:
        return list(load_concepts())
    meant = find_concept(typed)
    ranked = [
        (-1 if concept is meant else _rank(concept, wanted), len(concept.name), concept.name, concept)
        for concept in load_concepts()
    ]
    return [concept for rank, _, _, concept in sorted(ranked, key=lambda entry: entry[:3]) if rank < _NO_FIT]


def _rank(concept: Concept, wanted: str) -> int:
    name, synonyms = concept.name.casefold(), [synonym.casefold() for synonym in concept.synonyms]
    fits = (
        name.startswith(wanted),
        f" {wanted}" in name,
        any(synonym.startswith(wanted) for synonym in synonyms),
        any(f" {wanted}" in synonym for synonym in synonyms),
        wanted in name,
        any(wanted in synonym for synonym in synonyms),
    )
    return next((rank for rank, fit in enumerate(fits) if fit), _NO_FIT)
