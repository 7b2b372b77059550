"""``medsam3 models``: which models there are, and getting, checking and removing them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from MedicalSAM3Lib.errors import SettingsError

if TYPE_CHECKING:
    from MedicalSAM3Lib.catalogue import ModelInfo
    from MedicalSAM3Lib.registry import ModelState

NO_NAMES: list[str] = []

app = typer.Typer(name="models", help="List, download, import, verify and remove models.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")]


@app.callback(invoke_without_command=True)
def _models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_models() -> None:
    """List all models: what they are, their size, their licence, and which are installed."""
    from rich.console import Console
    from rich.table import Table

    from MedicalSAM3Lib import registry

    table = Table("Name", "Installed", "Size", "Licence", "What it is")
    for state in registry.list_models():
        table.add_row(*_row(state))
    Console().print(table)
    print(f"Models are kept in {registry.home()}; set MEDSAM3_HOME to choose another folder.")


@app.command()
def download(
    name: Name,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licence without being asked; read it before.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN", help="Hugging Face token for a gated model; better set HF_TOKEN, which no one sees."
        ),
    ] = None,
) -> None:
    """Show a model's licence, download it and install it. Called again, it goes on where it stopped."""
    from MedicalSAM3Lib import cli_show, registry

    def accept(info: ModelInfo) -> bool:
        print(f"{info.title}\n{info.about_gb:.1f} GB from {info.repo}\n{info.licence.name}: {info.licence.accept}")
        print(info.licence.url)
        return accept_licence or _confirmed("Do you accept this licence?", "--accept-licence")

    with cli_show.byte_bar(name) as on_bytes:
        folder = registry.download_model(name, accept, token=token, on_bytes=on_bytes)
    print(f"Installed {name} in {folder}")


@app.command("import")
def import_model(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A checkpoint file or a model folder.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to install it under.")],
    base: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model whose tracker to take if SOURCE has none.")
    ] = None,
) -> None:
    """Install a checkpoint of SAM3 or Medical SAM3 that you have, of Meta or of Hugging Face."""
    from MedicalSAM3Lib import cli_show, registry

    with cli_show.waiting(f"Converting {source.name}"):
        folder = registry.import_model(source, name, base=base)
    print(f"Installed {name} in {folder}")


@app.command()
def verify(
    names: Annotated[list[str], typer.Argument(metavar="[NAME]...", help="Which; all installed if none.")] = NO_NAMES,
) -> None:
    """Check every file of installed models against its SHA-256."""
    from MedicalSAM3Lib import registry

    names = names or [state.name for state in registry.list_models() if state.folder]
    if not names:
        print("No model is installed.")
    for name in names:
        count = len(registry.verify_model(name))
        print(f"{name}: {count} files are as they were written")


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove an installed model and its download."""
    from MedicalSAM3Lib import registry

    if not (yes or _confirmed(f"Remove the model '{name}'?", "--yes")):
        raise typer.Abort
    print(f"Removed {registry.remove_model(name)}")


def _row(state: ModelState) -> tuple[str, str, str, str, str]:
    from MedicalSAM3Lib.doctor import folder_gb

    info = state.info
    size = folder_gb(state.folder) if state.folder else info.about_gb if info else 0.0
    installed = "bundled" if info and info.kind == "bundled" else "yes"
    licence = "" if info is None else info.licence.name + (" (account needed)" if info.gated else "")
    return (
        state.name,
        installed if state.folder else "no",
        f"{size:.2f} GB",
        licence,
        info.title if info else "Imported by you",
    )


def _confirmed(question: str, option: str) -> bool:
    """Ask yes or no.

    Raises:
        SettingsError: Nobody is there to answer.
    """
    if not sys.stdin.isatty():
        raise SettingsError(f"Expected an answer to '{question}' from a terminal; add {option} to answer yes.")
    return typer.confirm(question)
