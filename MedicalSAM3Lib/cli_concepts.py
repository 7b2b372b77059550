"""``medsam3 concepts``: look through the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from MedicalSAM3Lib.concepts import Concept

app = typer.Typer(name="concepts", help="Look through the vocabulary. Any other words can be asked for, too.")

Text = Annotated[str, typer.Argument(metavar="TEXT", help="A concept, or part of its name.")]


@app.callback(invoke_without_command=True)
def _concepts(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_concepts() -> None:
    """List all known concepts with their synonyms; of a pair (kidney) there is a left and a right one, too."""
    from MedicalSAM3Lib.concepts import load_concepts

    show_table(concept for concept in load_concepts() if not concept.side or not _made_of_pair(concept))


@app.command()
def search(
    text: Text, limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The most to list.")] = 15
) -> None:
    """List the concepts that TEXT may mean, best first."""
    from MedicalSAM3Lib.completion import complete

    found = complete(text, limit)
    if not found:
        print(f"No known concept resembles '{text}'; it can be asked for all the same.")
        return
    show_table(found)


@app.command()
def show(text: Text) -> None:
    """Tell what TEXT is read as: the concept, its codes, what it is part of and who labels it."""
    from MedicalSAM3Lib.concepts import ancestors
    from MedicalSAM3Lib.interpret import read_phrase

    reading = read_phrase(text)
    if reading.concept is None:
        print(reading.notices[0])
        return
    concept, rgb = reading.concept, "#{:02x}{:02x}{:02x}".format(*reading.concept.colour)
    codes = [code.replace("^", " ") for code in (concept.codes.category, concept.codes.type, concept.codes.modifier)]
    for title, value in (
        ("concept", f"{concept.name} ({concept.concept_id})"),
        ("also called", ", ".join(concept.synonyms)),
        ("codes", "; ".join(filter(None, codes)) or "none in the published lists"),
        ("colour", rgb),
        ("part or kind of", ", ".join(ancestors(concept.concept_id))),
        ("sides", "has a left and a right one" if concept.paired else concept.side),
        ("labelled by", ", ".join(concept.datasets)),
    ):
        if value:
            print(f"{title:18}{value}")


@app.command()
def presets() -> None:
    """List the presets for `medsam3 segment --preset`, with their concepts."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Cell

    from MedicalSAM3Lib.presets import load_presets

    table = Table("Preset", "Concepts")
    for name, concepts in load_presets().items():
        table.add_row(Cell(name), Cell(", ".join(concept.name for concept in concepts)))
    Console().print(table)


def show_table(concepts: Iterable[Concept]) -> None:
    """Print concepts with their synonyms, on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text as Cell

    table = Table("Concept", "Also called")
    for concept in concepts:
        table.add_row(Cell(concept.name), Cell(", ".join(concept.synonyms)))
    Console().print(table)


def _made_of_pair(concept: Concept) -> bool:
    return concept.concept_id == f"{concept.side}_{concept.parents[0]}" if concept.parents else False
