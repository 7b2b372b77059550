"""A DICOM code for a segment: the engine's, else that of Slicer's own lists, else that of its kind. Never a guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import slicer

from MedicalSAM3Lib.concepts import Concept, ancestors, find_concept, load_concepts
from MedicalSAM3Lib.seg_nrrd import TYPE_CONTEXT, terminology_entry
from MedicalSAM3Lib.structures import Codes
from MedicalSAM3Lib.words import split_side

ALTERED, ANATOMICAL = "SCT^49755003^", "SCT^123037004^"
"""Categories: a finding, which is somewhere, and an anatomical structure, which is a place."""

GREY = (127, 127, 127)
"""Of Slicer's lists: no colour."""


@dataclass(frozen=True)
class Term:
    """A terminology entry as Slicer serialises it, and its colour (RGB, 0..255); None where it has none."""

    entry: str
    colour: tuple[int, int, int] | None = None


def termOf(phrase: str, codes: Mapping[str, str]) -> Term | None:
    """The term of a concept; None where none fits, or more than one does.

    Args:
        codes: "category", "type" and "modifier" of the engine, each scheme^value^meaning or empty.
    """
    entry = terminology_entry(Codes(**codes)) if codes else ""
    if entry:
        return Term(entry)
    return _listed(phrase) or _kindOf(phrase)


def _listed(phrase: str) -> Term | None:
    """The term of Slicer's own list."""
    logic = _logic()
    if logic is None or not logic.IsTerminologyContextLoaded(TYPE_CONTEXT):
        return None
    for label in dict.fromkeys((phrase, " ".join(phrase.casefold().split()))):
        found = slicer.vtkSlicerTerminologyEntry()  # a fresh one each time: it is never cleared, and a miss leaves it
        if logic.FindTypeInTerminologyBy3dSlicerLabel(TYPE_CONTEXT, label, found):
            return _term(logic, found)
    return _index(logic).get(split_side(phrase))


def _kindOf(phrase: str) -> Term | None:
    """Of a finding without a code of its own: a brain tumour is a neoplasm, in the brain."""
    concept = find_concept(phrase)
    above = {one.concept_id: one for one in load_concepts()} if concept is not None else {}
    wholes = [above[name] for name in ancestors(concept.concept_id)] if concept is not None else []
    kind = _nearest(wholes, ALTERED)
    if kind is None:
        return None
    place = _nearest(wholes, ANATOMICAL)
    return Term(terminology_entry(kind.codes, place.codes if place else None))


def _nearest(concepts: Sequence[Concept], category: str) -> Concept | None:
    """The first of them with a code of its own, in a category."""
    return next((one for one in concepts if one.codes.type and one.codes.category.startswith(category)), None)


def _logic() -> Any:
    module = getattr(slicer.modules, "terminologies", None)
    return module.logic() if module else None


_indices: dict[Any, dict[tuple[str, str], Term]] = {}


def _index(logic: Any) -> dict[tuple[str, str], Term]:
    """(side, words) to the one term of Slicer's list that means them; words of two terms are left out."""
    if logic in _indices:
        return _indices[logic]
    owners: dict[tuple[str, str], dict[str, Term]] = {}
    for entry in _entries(logic):
        kind, modifier = entry.GetTypeObject(), entry.GetTypeModifierObject()
        words = f"{modifier.GetCodeMeaning() or ''} {kind.GetCodeMeaning()}"
        term = _term(logic, entry)
        owners.setdefault(split_side(words), {})[term.entry] = term
    found = {key: next(iter(terms.values())) for key, terms in owners.items() if len(terms) == 1}
    _indices.clear()
    _indices[logic] = found
    return found


def _entries(logic: Any) -> list[Any]:
    """Each type of the list, and each type with a modifier, as an entry of its own."""
    entries = []
    for number in range(logic.GetNumberOfCategoriesInTerminology(TYPE_CONTEXT)):
        category = slicer.vtkSlicerTerminologyCategory()
        logic.GetNthCategoryInTerminology(TYPE_CONTEXT, number, category)
        for place in range(logic.GetNumberOfTypesInTerminologyCategory(TYPE_CONTEXT, category)):
            kind = slicer.vtkSlicerTerminologyType()
            logic.GetNthTypeInTerminologyCategory(TYPE_CONTEXT, category, place, kind)
            entries.append(_entry(category, kind, None))
            # Slicer logs an error where it is asked for the modifiers of a type that has none.
            count = kind.GetHasModifiers() and logic.GetNumberOfTypeModifiersInTerminologyType(
                TYPE_CONTEXT, category, kind
            )
            for which in range(count):
                modifier = slicer.vtkSlicerTerminologyType()
                logic.GetNthTypeModifierInTerminologyType(TYPE_CONTEXT, category, kind, which, modifier)
                entries.append(_entry(category, kind, modifier))
    return entries


def _entry(category: Any, kind: Any, modifier: Any) -> Any:
    entry = slicer.vtkSlicerTerminologyEntry()
    entry.SetTerminologyContextName(TYPE_CONTEXT)
    entry.GetCategoryObject().Copy(category)
    entry.GetTypeObject().Copy(kind)
    if modifier is not None:
        entry.GetTypeModifierObject().Copy(modifier)
    return entry


def _term(logic: Any, entry: Any) -> Term:
    kind, modifier = entry.GetTypeObject(), entry.GetTypeModifierObject()
    coloured = modifier if modifier.GetCodeValue() else kind
    red, green, blue = coloured.GetRecommendedDisplayRGBValue()
    colour = None if (red, green, blue) == GREY else (red, green, blue)
    return Term(logic.SerializeTerminologyEntry(entry), colour)
