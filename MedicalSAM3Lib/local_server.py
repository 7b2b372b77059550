"""A server that a program starts for itself on this machine: found by a private file, gone with whoever started it.

    medsam3 serve --local --parent PID

The file holds the address and a token, and only its owner can read it. A second server for the same file is refused.
No torch, and no web framework: this is only about living and dying.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import OutputError, SettingsError

FILE_NAME = "local-server.json"
_SYNCHRONIZE, _STILL_THERE = 0x00100000, 0x102


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a local server: what stands in its file."""

    url: str
    token: str
    pid: int
    version: str = __version__


def default_file() -> Path:
    """Where the file is unless told otherwise: beside the user's models."""
    from MedicalSAM3Lib.registry import home

    return home() / FILE_NAME


def read_connection(file: Path) -> Connection | None:
    """What a file says; None where there is none, or half a one."""
    try:
        return Connection(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Hold the right to serve for a connection file; the system takes it back however this process ends.

    Raises:
        SettingsError: Another server has it.
        OutputError: The folder cannot be written to.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = open(file.with_suffix(".lock"), "a+b")  # noqa: SIM115 - it is closed below
    except OSError as error:
        raise OutputError(f"Expected to write {file.name}, but {(error.strerror or 'it failed').lower()}.") from error
    with lock:
        if not _lock(lock):
            raise SettingsError(f"A local server runs already; {file} says how to reach it.")
        try:
            _remove(file)  # of a server that was killed: it leads nowhere
            yield
        finally:
            _remove(file)


def publish(file: Path, url: str, token: str) -> None:
    """Write the file; from then on the server can be found.

    Raises:
        OutputError: It cannot be written.
    """
    with replacing(file) as (new,):
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump(asdict(Connection(url, token, os.getpid())), opened)


def new_token() -> str:
    """A token for one life of a server."""
    return secrets.token_urlsafe(32)


def parent_watch(parent: int | None) -> Callable[[], bool]:
    """What tells whether the parent is still there.

    Args:
        parent: Process id; None = whoever started this process.

    Raises:
        SettingsError: There is no such process.
    """
    if sys.platform == "win32":
        return _windows_watch(os.getppid() if parent is None else parent)
    if parent is None or parent == os.getppid():
        # The system gives an orphan another parent: no number that is used again can deceive.
        first = os.getppid()
        return lambda: os.getppid() == first
    born = _birth(parent)
    if not _exists(parent):
        raise SettingsError(f"parent: expected the id of a process that runs, got {parent}.")
    return lambda: _exists(parent) and _birth(parent) == born


class Idleness:
    """Counts how long nobody has used a server, in ticks: a machine that sleeps does not use it, nor does time pass.

    Args:
        most_ticks: After so many the server may end.
    """

    def __init__(self, most_ticks: float) -> None:
        self._most, self._ticks, self._open = most_ticks, 0, 0

    @contextmanager
    def use(self) -> Iterator[None]:
        """A request is being answered."""
        self._open += 1
        self._ticks = 0
        try:
            yield
        finally:
            self._open -= 1
            self._ticks = 0

    def tick(self, *, busy: bool) -> bool:
        """A tick has passed; ``busy`` engines are use. True once the server has been idle for too long."""
        self._ticks = 0 if busy or self._open else self._ticks + 1
        return self._ticks >= self._most


def open_missing_streams() -> None:
    """Give a process without a terminal something to read from and write to.

    A program that was started from a desktop may have none of its three streams, and the next files that it opens
    would take their places: what is printed would go into a socket.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is this one
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()


def _lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except OSError:
        return False
    return True


def _birth(pid: int) -> str:
    """When a process began, in the system's own count; empty where it does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _windows_watch(parent: int) -> Callable[[], bool]:
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(_SYNCHRONIZE, False, parent)
    if not handle:
        raise SettingsError(f"parent: expected the id of a process that runs, got {parent}.")
    return lambda: bool(kernel.WaitForSingleObject(ctypes.c_void_p(handle), 0) == _STILL_THERE)
