"""Open a zip archive from a stranger: bounded in files, bytes and expansion, and no name of it is ever a path."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from MedicalSAM3Lib.errors import InputError, TooLarge
from MedicalSAM3Lib.guards import Allowance

MOST_FILES = 20_000
_BLOCK = 1 << 20


def unpack(archive: Path, folder: Path, limit: Allowance, suffixes: tuple[str, ...]) -> list[Path]:
    """Write the files of an archive into an empty folder under new names: "00000.dcm", "00001.dcm" and so on.

    Folders, links, hidden files and what a Mac adds are left out.

    Args:
        archive: A zip file.
        folder: An empty one.
        limit: All files together may take ``expanded_bytes``.
        suffixes: That a new name may keep; any other file has none, as DICOM files often do.

    Raises:
        TooLarge: More files or bytes than allowed; whatever the archive's own list says, it is the bytes that count.
        InputError: Damaged, encrypted, compressed in an unknown way, or empty.
    """
    paths, room = [], limit.expanded_bytes
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if _is_wanted(entry)]
            if len(entries) > MOST_FILES:
                raise TooLarge(f"Expected an archive of at most {MOST_FILES:,} files, got {len(entries):,}; send less.")
            if sum(entry.file_size for entry in entries) > room:
                raise _bomb(limit)
            for number, entry in enumerate(entries):
                paths.append(folder / f"{number:05d}{_suffix(entry.filename, suffixes)}")
                room -= _extract(opened, entry, paths[-1], room, limit)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        raise InputError(
            "Expected a complete zip archive without a password, got one that is damaged, encrypted or compressed in "
            "an unknown way; make it again."
        ) from error
    if not paths:
        raise InputError("Expected an archive with an image or a DICOM series, got one without a file.")
    return paths


def expands_within(file: Path, limit: Allowance) -> None:
    """Check that a gzip file expands to no more than it may, without keeping any of it.

    Raises:
        TooLarge: It expands to more. What is damaged is left to the reader to say.
    """
    with file.open("rb") as stored:
        expander, expanded = zlib.decompressobj(wbits=31), 0
        while block := stored.read(_BLOCK):
            while block:
                try:
                    expanded += len(expander.decompress(block, _BLOCK))
                except zlib.error:
                    return
                if expanded > limit.expanded_bytes:
                    raise _bomb(limit)
                block = expander.unconsumed_tail
                if expander.eof:  # another member may follow
                    block, expander = expander.unused_data, zlib.decompressobj(wbits=31)


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, room: int, limit: Allowance) -> int:
    """Write one file; return its size."""
    size = 0
    with opened.open(entry) as source, target.open("wb") as file:
        while block := source.read(min(_BLOCK, room - size + 1)):
            size += len(block)
            if size > room:
                raise _bomb(limit)
            file.write(block)
    return size


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
    is_hidden = not parts or parts[0] == "__MACOSX" or parts[-1].startswith(".")
    return not entry.is_dir() and not is_hidden and kind in (0, stat.S_IFREG)


def _suffix(name: str, suffixes: tuple[str, ...]) -> str:
    return next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")


def _bomb(limit: Allowance) -> TooLarge:
    return TooLarge(
        f"Expected a file that expands to {limit.expanded_bytes / 1e6:,.0f} MB at most, got one that grows beyond; "
        "send fewer images."
    )
