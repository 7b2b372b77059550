"""The command line ``medsam3``.

Importing this loads neither torch nor NumPy: each command imports what it needs when it runs, so that
``medsam3 --help`` answers at once.

Exit codes: 0 answered, 2 wrong call or unreadable input, 3 failed run (or a case of a batch), 130 cancelled.
Every error is one line on stderr; the environment variable MEDSAM3_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from MedicalSAM3Lib import __version__, cli_batch, cli_concepts, cli_doctor, cli_models, cli_segment, cli_serve
from MedicalSAM3Lib.errors import MedicalSAM3Error

PROGRAM = "medsam3"
CALL_ERROR, RUN_ERROR, CANCELLED = 2, 3, 130

# Typer carries its own copy of click since 0.20, and click's errors have no other public name there.
_UsageError: type[Any] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name=PROGRAM,
    help="Segment medical volumes and images by typed concepts, with SAM3. For research only.",
    add_completion=False,
    rich_markup_mode="markdown",  # joins the lines of a paragraph
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(cli_segment.segment)
app.command()(cli_batch.batch)
app.command()(cli_doctor.doctor)
app.command()(cli_serve.serve)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_concepts.app, name="concepts")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Without the program's name; None takes ``sys.argv``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return guarded(lambda: app(args=words, prog_name=PROGRAM, standalone_mode=False))


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code; every failure is one line on stderr.

    Args:
        command: Returns an exit code, None for 0, or raises.
    """
    debug = os.environ.get("MEDSAM3_DEBUG", "") not in ("", "0")
    if not debug:
        _silence_libraries()
    try:
        code = command() or 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, message = _explain(error)
        _complain(message)
        return code
    if code == CANCELLED:  # Typer turns Ctrl-C into this exit code, without a word
        _complain("cancelled.")
    return code


def _silence_libraries() -> None:
    """Keep warnings and logs of the libraries below from standing before the one line that matters."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(handlers=[logging.NullHandler()])
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an exception."""
    if isinstance(error, MedicalSAM3Error):
        return error.exit_code, str(error)
    if isinstance(error, _UsageError):
        message = error.format_message()
        return CALL_ERROR, f"{message}{'' if message.endswith(('.', '?')) else '.'} See: {PROGRAM} --help"
    if isinstance(error, (typer.Abort, KeyboardInterrupt)):
        return CANCELLED, "cancelled."
    if isinstance(error, MemoryError):
        return RUN_ERROR, "Not enough memory; choose fewer slices (--slices A:B) or a smaller image."
    if isinstance(error, OSError) and error.strerror:
        return RUN_ERROR, f"{error.filename or 'A file'} cannot be read or written: {error.strerror}."
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return RUN_ERROR, f"Unexpected error, please report it with the traceback that MEDSAM3_DEBUG=1 shows: {reason}"


def _complain(message: str) -> None:
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
