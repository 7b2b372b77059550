"""Look up the SNOMED CT codes and the colours of the vocabulary in published lists.

    python -m Training.make_vocabulary TERMINOLOGIES MAPPING [--write]

TERMINOLOGIES is the folder ``trame_slicer/resources/terminologies`` of the wheel trame-slicer 2.0.0, MAPPING the file
``totalsegmentator/resources/totalsegmentator_snomed_mapping.csv`` of the wheel totalsegmentator 2.18.0 (both:
``pip download --no-deps``); the third list is pydicom's own. A concept has the code of the entry whose meaning is its
name, else one of its synonyms, looked up as typed phrases are; of what is no anatomy (a row that comes with another
category) the name alone counts, because there a synonym is often a special case. Codes that are in the file stay as
they are. Without ``--write`` the file is only checked: every code must be in one of the lists.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydicom.sr.codedict import codes as pydicom_codes

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.concepts import HEADER
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.words import key_of

ANATOMY = "SCT^123037004^Anatomical Structure"

GREY = (127, 127, 127)
"""What Slicer's lists write for "no colour"."""

Key = tuple[str, tuple[str, ...]]
Entry = tuple[str, str, str]
"""Category and type, each ``scheme^value^meaning``, and a colour such as #dd8265 or ""."""


def slicer_entries(folder: Path) -> Iterator[Entry]:
    """The types of Slicer's lists, General Anatomy first, then DICOM's master lists of segments and of regions."""
    for name in ("SlicerGeneralAnatomy", "DICOM-Master"):
        lists = json.loads((folder / f"SegmentationCategoryTypeModifier-{name}.term.json").read_text(encoding="utf-8"))
        for category in lists["SegmentationCodes"]["Category"]:
            for one in category["Type"]:
                yield _code(category), _code(one), _colour(one)
    regions = json.loads((folder / "AnatomicRegionAndModifier-DICOM-Master.term.json").read_text(encoding="utf-8"))
    for one in regions["AnatomicCodes"]["AnatomicRegion"]:
        yield ANATOMY, _code(one), ""


def totalsegmentator_entries(mapping: Path) -> Iterator[Entry]:
    """The entries of TotalSegmentator's mapping that need no second code for the region."""
    parts = ("CodingSchemeDesignator", "CodeValue", "CodeMeaning")
    with mapping.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if not row["AnatomicRegionSequence.CodeValue"]:
                category = "^".join(row[f"SegmentedPropertyCategoryCodeSequence.{part}"] for part in parts)
                yield category, "^".join(row[f"SegmentedPropertyTypeCodeSequence.{part}"] for part in parts), ""


def pydicom_entries() -> Iterator[Entry]:
    """The SNOMED CT codes that the DICOM standard uses; their category is for the concept's place to tell."""
    for keyword in pydicom_codes.SCT.dir():
        try:
            code = getattr(pydicom_codes.SCT, keyword)
        except RuntimeError:  # pydicom: one keyword, several codes
            continue
        yield "", f"SCT^{code.value}^{code.meaning}", ""


def by_meaning(entries: Iterator[Entry]) -> dict[Key, Entry]:
    """Meaning, as typed phrases are read, to the first entry that has it; a bracket at its end is left out."""
    found: dict[Key, Entry] = {}
    for entry in entries:
        meaning = entry[1].split("^")[2].partition(" (")[0]
        found.setdefault(key_of(meaning.removesuffix(" structure")), entry)
    return found


def look_up(rows: Sequence[dict[str, str]], lists: Sequence[Mapping[Key, Entry]]) -> int:
    """Fill in the codes of the rows that have none; returns how many were found.

    A list's category counts, else the row's own, else it is anatomy. A row of which nothing is found stays as it is.
    """
    filled = 0
    for row in rows:
        entry = None if row["type_code"] else _find(row, lists)
        if entry is None:
            continue
        filled += 1
        row["category_code"] = entry[0] or row["category_code"] or ANATOMY
        row["type_code"], row["colour"] = entry[1], row["colour"] or entry[2]
    return filled


def unknown_codes(rows: Sequence[Mapping[str, str]], entries: Sequence[Entry]) -> list[str]:
    """Ids of the rows whose code is in none of the lists."""
    values = {entry[1].split("^")[1] for entry in entries}
    return [row["concept_id"] for row in rows if row["type_code"] and row["type_code"].split("^")[1] not in values]


def _find(row: Mapping[str, str], lists: Sequence[Mapping[Key, Entry]]) -> Entry | None:
    is_anatomy = row["category_code"] in ("", ANATOMY)
    for phrase in [row["name"], *(filter(None, row["synonyms"].split("|")) if is_anatomy else ())]:
        for entries in lists:
            if key_of(phrase) in entries:
                return entries[key_of(phrase)]
    return None


def _code(entry: Mapping[str, Any]) -> str:
    return f"{entry['CodingSchemeDesignator']}^{entry['CodeValue']}^{entry['CodeMeaning'].strip()}"


def _colour(entry: Mapping[str, Any]) -> str:
    """The type's colour, or of a pair, whose type says grey, that of its left and right."""
    for one in (entry, *entry.get("Modifier", ())):
        rgb = tuple(one.get("recommendedDisplayRGBValue", GREY))
        if rgb != GREY:
            return "#{:02x}{:02x}{:02x}".format(*rgb)
    return ""


def main(arguments: Sequence[str]) -> int:
    """Check the vocabulary's codes, or fill in those that are missing."""
    paths = [Path(argument) for argument in arguments if not argument.startswith("-")]
    if len(paths) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    sources = [list(slicer_entries(paths[0])), list(totalsegmentator_entries(paths[1])), list(pydicom_entries())]
    with resource("concepts.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    filled = look_up(rows, [by_meaning(iter(entries)) for entries in sources])
    unknown = unknown_codes(rows, [entry for entries in sources for entry in entries])
    coded = sum(bool(row["type_code"]) for row in rows)
    print(f"{len(rows)} rows, {coded - filled} with codes, {filled} more found; in no list: {unknown or 'none'}")
    if "--write" in arguments:
        with replacing(resource("concepts.csv")) as (new,), new.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, HEADER, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
