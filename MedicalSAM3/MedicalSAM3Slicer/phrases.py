"""From what the user typed to the concepts that are asked for. Needs no Slicer but for its translations."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slicer.i18n import tr as _

from MedicalSAM3Lib.completion import complete
from MedicalSAM3Lib.concepts import find_concept
from MedicalSAM3Lib.errors import PromptError
from MedicalSAM3Lib.interpret import check_concepts, likely

from .task import UserError


def splitConcepts(text: str) -> list[str]:
    """The typed concepts, in their order: parted by commas, semicolons or lines, each asked once."""
    phrases = (" ".join(part.split()) for part in re.split(r"[,;\n]", text))
    unique: dict[str, str] = {}
    for phrase in phrases:
        if phrase:
            unique.setdefault(phrase.casefold(), phrase)
    return list(unique.values())


def checkedConcepts(concepts: Sequence[str] | str) -> list[str]:
    """The concepts as a list.

    Raises:
        UserError: There is none, or one is asked for twice, under whatever name.
    """
    phrases = splitConcepts(concepts) if isinstance(concepts, str) else list(concepts)
    if not phrases:
        raise UserError(_("Type at least one concept, for instance: liver, left kidney."))
    try:
        return check_concepts(phrases)
    except PromptError as error:
        raise UserError(str(error)) from error


def learnWords() -> None:
    """Build what is looked up while somebody types: the first letter would wait for it, a tenth of a second or more."""
    completions("liver", 1)
    likelyMeant("livre")


def completions(typed: str, limit: int) -> list[str]:
    """Names of known concepts that fit what was typed, the best first."""
    return [concept.name for concept in complete(typed, limit)]


def likelyMeant(phrase: str) -> str:
    """The name that was probably meant by a phrase that the vocabulary has not; "" where there is none."""
    meant = None if find_concept(phrase) else likely(phrase)
    return meant.name if meant else ""
