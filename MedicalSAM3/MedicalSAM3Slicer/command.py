"""From what the user typed to the command line that does it. Needs no Slicer."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAM = "medsam3"
VOLUME_FILE = "volume.nrrd"
SEGMENTATION_FILE = "result.seg.nrrd"
REPORT_FILE = "report.json"
"""Names that say nothing of the patient: the folder of a run is temporary, its files carry no node names."""

SEPARATE_OPTION = "--instances"
"""A segment for each object of a concept."""


def splitConcepts(text: str) -> list[str]:
    """The typed concepts, in their order: parted by commas, semicolons or lines, each asked once."""
    phrases = (" ".join(part.split()) for part in re.split(r"[,;\n]", text))
    unique: dict[str, str] = {}
    for phrase in phrases:
        if phrase:
            unique.setdefault(phrase.casefold(), phrase)
    return list(unique.values())


def findProgram(configured: str = "", which: Callable[[str], str | None] = shutil.which) -> str:
    """Path of the ``medsam3`` command: the configured one, else the one on the PATH.

    Raises:
        FileNotFoundError: There is none; the message says what to do.
    """
    if configured.strip():
        if Path(configured).is_file():
            return configured
        raise FileNotFoundError(f"Expected the {PROGRAM} command at '{configured}', found no file; choose it again.")
    found = which(PROGRAM)
    if found is None:
        raise FileNotFoundError(
            f"The {PROGRAM} command is not on the PATH: install medical-sam3 in a Python environment of its own "
            "and choose its command under Advanced."
        )
    return found


def buildCommand(program: str, folder: Path, concepts: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Program and arguments that segment the volume of a run's folder into that folder.

    Args:
        program: Path of the command.
        folder: Of the run.
        concepts: At least one phrase.
        options: More options of ``medsam3 segment``, such as ``SEPARATE_OPTION``.

    Raises:
        ValueError: No concept was given.
    """
    if not concepts:
        raise ValueError("Type at least one concept, for instance: liver, left kidney.")
    command = [program, "segment", str(folder / VOLUME_FILE)]
    for concept in concepts:
        # One word with "=": a concept that begins with a dash is not taken for an option.
        command.append(f"--concept={concept}")
    return [
        *command,
        "--output",
        str(folder / SEGMENTATION_FILE),
        "--report",
        str(folder / REPORT_FILE),
        "--quiet",
        *options,
    ]
