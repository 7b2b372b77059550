"""The vocabulary: known concepts, and how typed words find them.

A phrase is split into a side ("left", "right" or "") and the rest, and both are looked up together, so
"Kidney right" and "right kidneys" are one concept and "left liver" is none. A phrase that fits two
concepts fits none: a wrong code on a segment is worse than no code. Phrases that are not found can still
be segmented; they have no id and no codes, and a colour derived from their words.

A row of the file whose side is "paired" is three concepts: the pair, and the left and the right one made from it.
"""

from __future__ import annotations

import colorsys
import csv
import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from MedicalSAM3Lib.codes import Codes
from MedicalSAM3Lib.resources import ResourceError, resource
from MedicalSAM3Lib.words import key_of, normalise

HEADER = (
    "concept_id", "name", "synonyms", "side", "parent",
    "category_code", "type_code", "modifier_code", "colour", "datasets",
)  # fmt: skip

SIDE_CODES = {"left": "SCT^7771000^Left", "right": "SCT^24028007^Right"}

TELLS_SIDES = frozenset({"totalsegmentator", "slicerio"})
"""The data sets that label the left and the right of a pair apart."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Concept:
    """One row of ``Resources/concepts.csv``.

    Attributes:
        concept_id: Stable name for programs ("left_kidney").
        name: As a person would write it ("left kidney").
        synonyms: Other phrases for exactly the same thing.
        side: "left", "right" or "".
        paired: Whether the vocabulary has a left and a right one of it.
        parents: Each ``concept_id`` that it is a part or a kind of: a liver tumour is in the liver, and a neoplasm.
        codes: Terminology, empty where no published list has the concept.
        colour: RGB, 0..255: the terminology's own, else derived from the name.
        datasets: Names of the data sets that label it.
    """

    concept_id: str
    name: str
    synonyms: tuple[str, ...] = ()
    side: str = ""
    paired: bool = False
    parents: tuple[str, ...] = ()
    codes: Codes = Codes()  # noqa: RUF009 - frozen, so shared without harm
    colour: Rgb = (0, 0, 0)
    datasets: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """The name and all synonyms."""
        return (self.name, *self.synonyms)


@cache
def load_concepts() -> tuple[Concept, ...]:
    """All known concepts, in the order of the file.

    Raises:
        ResourceError: The file is missing or damaged.
    """
    return read_concepts(resource("concepts.csv"))


def read_concepts(path: Path) -> tuple[Concept, ...]:
    """Read a vocabulary file and check it.

    Raises:
        ResourceError: Another header, an id twice, an unknown parent, one that is its own
            ancestor, a malformed side, code or colour.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != HEADER:
            raise ResourceError(f"{path.name}: expected the columns {', '.join(HEADER)}, got {reader.fieldnames}.")
        rows = [_concept(row, path.name) for row in reader]
    pairs = {row.concept_id for row in rows if row.paired}
    concepts = tuple(concept for row in rows for concept in (row, *_both_sides(row, pairs)))
    _check_ids(concepts, path.name)
    return concepts


def find_concept(phrase: str) -> Concept | None:
    """The concept that a typed phrase means, whatever its case, plural, synonym, side and order of words.

    Misspelled words are not put right here: see ``interpret``.

    Returns:
        None when nothing fits or when more than one concept does.
    """
    return _index().get(key_of(phrase))


@cache
def ancestors(concept_id: str) -> tuple[str, ...]:
    """Ids of all wholes that a concept is a part or a kind of, the nearest first; none for an unknown id."""
    return _above(concept_id, _parents())


def are_relatives(phrase: str, other: str) -> bool:
    """Whether one phrase means a part or a kind, however far down, of what the other means.

    "Kidney" and "left kidney" are relatives; "left kidney" and "right kidney" are not, and free text has none.
    """
    one, two = find_concept(phrase), find_concept(other)
    if one is None or two is None:
        return False
    return one.concept_id in ancestors(two.concept_id) or two.concept_id in ancestors(one.concept_id)


def colour_of(phrase: str) -> Rgb:
    """RGB, 0..255, of a phrase: the concept's own, else one derived from the words, the same in every run."""
    concept = find_concept(phrase)
    return concept.colour if concept else derive_colour(phrase)


def derive_colour(phrase: str) -> Rgb:
    """A clear colour from the words alone. Never grey: Slicer's lists use grey for "no colour"."""
    digest = hashlib.sha256(normalise(phrase).encode()).digest()
    hue = int.from_bytes(digest[:4], "big") / 2**32
    saturation = 0.45 + 0.35 * digest[4] / 255
    value = 0.75 + 0.2 * digest[5] / 255
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


@cache
def _index() -> Mapping[tuple[str, tuple[str, ...]], Concept]:
    """Key of a phrase (``words.key_of``) to the one concept that has it; keys of two concepts are left out."""
    owners: dict[tuple[str, tuple[str, ...]], dict[str, Concept]] = {}
    for concept in load_concepts():
        for phrase in concept.phrases:
            owners.setdefault(key_of(phrase), {})[concept.concept_id] = concept
    return {key: next(iter(found.values())) for key, found in owners.items() if len(found) == 1}


@cache
def _parents() -> Mapping[str, tuple[str, ...]]:
    return {concept.concept_id: concept.parents for concept in load_concepts()}


def _both_sides(whole: Concept, pairs: Container[str]) -> tuple[Concept, ...]:
    """The left and the right one of a pair, with its codes, data sets and, where a list gives one, its colour.

    A part of a pair lies on its side: the left renal cortex is renal cortex, and in the left kidney.
    """
    if not whole.paired:
        return ()
    has_own = whole.colour != derive_colour(whole.name)
    return tuple(
        replace(
            whole,
            concept_id=f"{side}_{whole.concept_id}",
            name=f"{side} {whole.name}",
            synonyms=tuple(f"{side} {synonym}" for synonym in whole.synonyms),
            side=side,
            paired=False,
            parents=(whole.concept_id, *(f"{side}_{parent}" for parent in whole.parents if parent in pairs)),
            datasets=tuple(name for name in whole.datasets if name in TELLS_SIDES),
            codes=replace(whole.codes, modifier=code if whole.codes.type else ""),
            colour=whole.colour if has_own else derive_colour(f"{side} {whole.name}"),
        )
        for side, code in SIDE_CODES.items()
    )


def _concept(row: Mapping[str, str], file: str) -> Concept:
    if row["side"] not in ("", "left", "right", "paired"):
        raise ResourceError(
            f"{file}: {row['concept_id']}: expected side left, right, paired or nothing, got '{row['side']}'."
        )
    # A category without a type says where to look a code up, and codes nothing.
    codes = Codes(row["category_code"], row["type_code"], row["modifier_code"]) if row["type_code"] else Codes()
    for code in (row["category_code"], row["type_code"], row["modifier_code"]):
        if code and (code.count("^") != 2 or not all(code.split("^"))):
            raise ResourceError(f"{file}: {row['concept_id']}: expected scheme^value^meaning, got '{code}'.")
    return Concept(
        concept_id=row["concept_id"],
        name=row["name"],
        synonyms=_parts(row["synonyms"]),
        side="" if row["side"] == "paired" else row["side"],
        paired=row["side"] == "paired",
        parents=_parts(row["parent"]),
        codes=codes,
        colour=_colour(row, file),
        datasets=_parts(row["datasets"]),
    )


def _above(concept_id: str, parents: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Parents, then their parents and so on, each once."""
    found = list(parents.get(concept_id, ()))
    for one in found:  # grows while it is walked along
        found += [parent for parent in parents[one] if parent not in found]
    return tuple(found)


def _parts(cell: str) -> tuple[str, ...]:
    return tuple(part for part in cell.split("|") if part)


def _colour(row: Mapping[str, str], file: str) -> Rgb:
    if not row["colour"]:
        return derive_colour(row["name"])
    try:
        red, green, blue = bytes.fromhex(row["colour"].removeprefix("#"))
    except ValueError as error:
        message = f"{file}: {row['concept_id']}: expected a colour like #dd8265, got '{row['colour']}'."
        raise ResourceError(message) from error
    return red, green, blue


def _check_ids(concepts: Sequence[Concept], file: str) -> None:
    seen: set[str] = set()
    for concept in concepts:
        if not concept.concept_id or not concept.name or concept.concept_id in seen:
            raise ResourceError(
                f"{file}: expected a name and an id of its own, got '{concept.concept_id}' again or empty."
            )
        seen.add(concept.concept_id)
    for concept in concepts:
        unknown = next((parent for parent in concept.parents if parent not in seen), None)
        if unknown is not None:
            raise ResourceError(f"{file}: {concept.concept_id}: expected a known parent, got '{unknown}'.")
    parents = {concept.concept_id: concept.parents for concept in concepts}
    for concept_id in parents:
        if concept_id in _above(concept_id, parents):
            raise ResourceError(f"{file}: {concept_id}: expected a parent above it, got a circle of parents.")
