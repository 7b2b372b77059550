"""Write files so that they appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from MedicalSAM3Lib.errors import OutputError


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Lend temporary names, and give the files their own names when all have been written.

    The temporary files lie in the same folder (so that the renaming is one step of the file system) and
    end in the same suffixes (by which writers choose a format). On any error they are removed, and what
    was there before stays as it was.

    Raises:
        OutputError: In place of an OSError, or of a RuntimeError as SimpleITK raises it.
    """
    partial = tuple(path.with_name(f".{uuid.uuid4().hex[:12]}{''.join(path.suffixes[-2:])}") for path in paths)
    try:
        yield partial
        for source, target in zip(partial, paths, strict=True):
            os.replace(source, target)
    except (OSError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "the writer failed"
        raise OutputError(
            f"Expected to write {paths[0].name}, but {reason.lower()}; check the folder and the free space on its disk."
        ) from error
    finally:
        for source in partial:
            with suppress(OSError):
                source.unlink(missing_ok=True)


def check_writable(path: Path, suffixes: Sequence[str]) -> None:
    """Check that a file of this name could be written.

    Args:
        path: The file to be.
        suffixes: What its name may end in, lower case.

    Raises:
        OutputError: Unknown suffix, a folder of that name, no such folder, or the folder is not writable.
    """
    if not path.name.lower().endswith(tuple(suffixes)):
        raise OutputError(f"Expected a name that ends in {' or '.join(suffixes)}, got {path.name}; rename the output.")
    if path.is_dir():
        raise OutputError(f"Expected a file name, got a folder of that name: {path}; rename the output.")
    if not path.parent.is_dir():
        raise OutputError(f"Expected a folder that exists, got {path.parent}; make it first or choose another.")
    try:
        # Permission bits do not know about read-only and network file systems; trying does.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"Expected a folder that can be written to, got {path.parent}; choose another.") from error


def require_space(folder: Path, needed: int, name: str) -> None:
    """Check that a disk has room for so many more bytes.

    Args:
        folder: On that disk.
        needed: Bytes.
        name: What is to be written, for the message.

    Raises:
        OutputError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(f"Expected {needed / 1e9:.1f} GB of free disk for {name}, got {free / 1e9:.1f}; make room.")


def swap_folders(new: Path, folder: Path, old: Path) -> None:
    """Put ``new`` in the place of ``folder``, which becomes ``old``; if that fails it is back where it was."""
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
