"""What a typed phrase is read as, and the words that the model is asked with. What was changed is always told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib.completion import nearest
from MedicalSAM3Lib.concepts import Concept, find_concept
from MedicalSAM3Lib.errors import PromptError
from MedicalSAM3Lib.spelling import put_right
from MedicalSAM3Lib.words import asks_for_both, normalise

if TYPE_CHECKING:
    from MedicalSAM3Lib.structures import Finding

Trained = Mapping[str, Sequence[str]]
"""Concept id to the phrases that a model was trained on, the most frequent first."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One typed phrase, understood.

    Attributes:
        typed: As it was typed.
        asked: What the model is asked with; as typed where the vocabulary does not know it.
        concept: What it means, None for free text.
        notices: What a person should know of it, a sentence each.
        both: Whether it asks for both of a pair in so many words.
    """

    typed: str
    asked: str
    concept: Concept | None
    notices: tuple[str, ...] = ()
    both: bool = False


def read_phrase(typed: str, trained: Trained | None = None, *, verbatim: bool = False) -> Reading:
    """Understand a typed phrase, whatever its case, number, side, order and spelling.

    Args:
        typed: A phrase.
        trained: Of the model that will be asked; None where it does not say. Without it a concept is asked by its name.
        verbatim: Ask with the words as they were typed; only codes and colours are looked up, and nothing is put right.
    """
    if verbatim:
        return Reading(typed, typed, find_concept(typed))
    concept = find_concept(typed)
    if concept is None:
        right = put_right(typed)
        concept = right[1] if right else None
    if concept is None:
        return Reading(typed, typed, None, (_unknown(typed),))
    phrases = (trained or {}).get(concept.concept_id, ())
    asked = phrases[0] if phrases else concept.name
    notices = [f"'{typed}' was asked as '{asked}'."] if asked != typed else []
    if trained and not phrases:
        notices.append(f"The model was not trained on '{concept.name}'.")
    return Reading(typed, asked, concept, tuple(notices), concept.paired and asks_for_both(typed))


def read_all(concepts: Sequence[str], trained: Trained | None = None, *, verbatim: bool = False) -> list[Reading]:
    """Understand the typed phrases of a question.

    Raises:
        PromptError: None, an empty one, or one concept asked for twice, under whatever name.
    """
    if isinstance(concepts, str):
        raise PromptError("Expected a list of concepts, got one text; write ['liver'] for one concept.")
    if not concepts:
        raise PromptError("Expected at least one concept such as 'liver', got none; type what to look for.")
    seen: dict[str, str] = {}
    readings = []
    for phrase in concepts:
        if not normalise(phrase):
            got = f"'{phrase}', in which is no word" if phrase.strip() else "an empty one"
            raise PromptError(f"Expected a concept such as 'liver', got {got}; type what to look for.")
        reading = read_phrase(phrase, trained, verbatim=verbatim)
        key = reading.concept.concept_id if reading.concept else normalise(phrase)
        if key in seen:
            raise PromptError(f"'{phrase}' asks for the same concept as '{seen[key]}'; ask for each concept once.")
        seen[key] = phrase
        readings.append(reading)
    return readings


def check_concepts(concepts: Sequence[str]) -> list[str]:
    """Return the phrases as typed.

    Raises:
        PromptError: As ``read_all``.
    """
    return [reading.typed for reading in read_all(concepts)]


def likely(typed: str) -> Concept | None:
    """The concept that a phrase probably means: put right where it is misspelled, else the one that looks like it."""
    right = put_right(typed)
    return right[1] if right else nearest(typed)


def as_typed(findings: Sequence[Finding], readings: Sequence[Reading]) -> tuple[Finding, ...]:
    """Findings of what the model was asked, as answers to what was typed."""
    return tuple(
        replace(finding, phrase=reading.typed, asked=reading.asked, **_identity(reading))
        for finding, reading in zip(findings, readings, strict=True)
    )


def _identity(reading: Reading) -> dict[str, Any]:
    concept = reading.concept
    if concept is None:
        return {}
    return {"concept_id": concept.concept_id, "colour": concept.colour, "codes": concept.codes}


def _unknown(typed: str) -> str:
    near = nearest(typed)
    hint = f"; the nearest that is there: '{near.name}'" if near else ""
    return f"'{typed}' is not in the vocabulary and was asked as it is{hint}."
