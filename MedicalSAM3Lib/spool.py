"""The private folder in which the server keeps what clients sent and what became of it.

    ROOT/                       mode 0700, of this user
      session-1f0c.../          one server; a lock says that it lives
        unfinished.jsonl        jobs that did not end yet: names only (``journal``)
        volume-.../  job-.../   nothing in it outlives its use, nor the server

What a server that was killed left behind is removed by the next one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.session_folder import SessionFolder

JOURNAL = "unfinished.jsonl"
RESERVE_BYTES = 256 << 20
"""Left free on the disk, for everybody else on the machine."""


class Spool:
    """The folder of one running server."""

    def __init__(self, root: Path, most_bytes: int) -> None:
        """Make the folder of this session, and remove those of servers that are gone.

        Args:
            root: Made where it is missing.
            most_bytes: That all files together may take.

        Raises:
            OutputError: The folder belongs to somebody else, or cannot be written.
        """
        self._most_bytes = most_bytes
        self._promised: dict[Path, int] = {}
        self.left_behind: list[str] = []
        try:
            self._session = SessionFolder(root, on_left_behind=self._read_journal)
        except OSError as error:
            reason = (error.strerror or "it refused").lower()
            raise OutputError(
                f"Expected a folder for uploads that can be written to, but {reason}; set spool."
            ) from error
        self.folder = self._session.path

    @property
    def journal(self) -> Path:
        """File for the names of unfinished jobs."""
        return self.folder / JOURNAL

    def new_folder(self, kind: str, num_bytes: int = 0) -> Path:
        """An empty private folder.

        Args:
            kind: First part of its name.
            num_bytes: That will be written there, as far as is known; see ``promise``.

        Raises:
            Refused: 507 "disk_full".
        """
        folder = self.folder / f"{kind}-{secrets.token_hex(8)}"
        self.promise(folder, num_bytes)
        with full_disk_refused():
            folder.mkdir(mode=0o700)
        return folder

    def promise(self, folder: Path, num_bytes: int) -> None:
        """Set bytes aside for a folder, in place of what was promised to it before; ``remove`` gives them back.

        Raises:
            Refused: 507 "disk_full": they are not there, or are more than this server may take.
        """
        before = self._promised.get(folder, 0)
        if num_bytes > before:
            room = min(self.free_bytes() - RESERVE_BYTES, self._most_bytes - self.promised_bytes)
            if num_bytes - before > room:
                raise _full()
        self._promised[folder] = num_bytes

    @property
    def promised_bytes(self) -> int:
        """Set aside for all folders together."""
        return sum(self._promised.values())

    def settle(self, folder: Path) -> None:
        """Set aside for a folder what it takes by now.

        Raises:
            Refused: 507 "disk_full".
        """
        self.promise(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    def free_bytes(self) -> int:
        """Room on the disk."""
        return shutil.disk_usage(self.folder).free

    def write(self, file: Path, offset: int, data: bytes | memoryview) -> None:
        """Write at a place of a file, which is made where it is missing; what lay behind stays.

        Raises:
            Refused: 507 "disk_full".
        """
        with full_disk_refused():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.seek(offset)
                opened.write(data)

    def remove(self, folder: Path | None) -> None:
        """Remove a folder of this session; one that is gone, or None, is nothing."""
        if folder is not None:
            self._promised.pop(folder, None)
            shutil.rmtree(folder, ignore_errors=True)

    def close(self, *, keep_journal: bool = False) -> None:
        """Remove everything; only the names of unfinished jobs stay, if told so, for the next server."""
        self._session.close(JOURNAL if keep_journal else None)

    def _read_journal(self, folder: Path) -> None:
        with suppress(OSError):
            self.left_behind += (folder / JOURNAL).read_text(encoding="utf-8").splitlines()


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Turn the error of a full disk into a refusal that the client can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _full() from error
        raise


def _full() -> Refused:
    return Refused(507, "disk_full", "Expected room on the server's disk, there is none; remove volumes or try later.")
