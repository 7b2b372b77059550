"""Presets: lists of concepts that are often asked for together, by name."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

from MedicalSAM3Lib.concepts import Concept, load_concepts
from MedicalSAM3Lib.errors import PromptError
from MedicalSAM3Lib.resources import ResourceError, resource


@cache
def load_presets() -> dict[str, tuple[Concept, ...]]:
    """Name of each preset ("abdomen") to its concepts, in the order of the file.

    Raises:
        ResourceError: The file is missing or damaged.
    """
    return read_presets(resource("presets.csv"))


def read_presets(path: Path) -> dict[str, tuple[Concept, ...]]:
    """Read a file of presets and check it.

    Raises:
        ResourceError: Other columns, a name twice, a concept that is not in the vocabulary or twice in a preset.
    """
    known = {concept.concept_id: concept for concept in load_concepts()}
    presets: dict[str, tuple[Concept, ...]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != ["name", "concepts"]:
            raise ResourceError(f"{path.name}: expected the columns name, concepts, got {reader.fieldnames}.")
        for row in reader:
            ids = row["concepts"].split("|")
            wrong = next((one for one in ids if one not in known or ids.count(one) > 1), None)
            if wrong is not None or row["name"] in presets:
                raise ResourceError(f"{path.name}: {row['name']}: expected known concepts, each once, got '{wrong}'.")
            presets[row["name"]] = tuple(known[one] for one in ids)
    return presets


def preset(name: str) -> tuple[Concept, ...]:
    """The concepts of a preset, whatever the case and with spaces or underscores.

    Raises:
        PromptError: There is none of that name.
    """
    found = load_presets().get("_".join(name.lower().replace("_", " ").split()))
    if found is None:
        raise PromptError(f"Expected a preset ({', '.join(load_presets())}), got '{name}'.")
    return found
