"""``medsam3 concepts``: look through the vocabulary."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from MedicalSAM3Lib.concepts import Concept, load_concepts


def matching(search: str) -> list[Concept]:
    """Known concepts that have ``search`` in their name or a synonym, whatever the case; all for ""."""
    wanted = search.strip().lower()
    return [concept for concept in load_concepts() if any(wanted in phrase.lower() for phrase in concept.phrases)]


def show_concepts(search: str) -> None:
    """Print the matching concepts with their synonyms, on stdout."""
    found = matching(search)
    if not found:
        print(f"No known concept has '{search}' in its name; it can be asked for all the same.")
        return
    table = Table("Concept", "Also called")
    for concept in found:
        table.add_row(Text(concept.name), Text(", ".join(concept.synonyms)))
    Console().print(table)
