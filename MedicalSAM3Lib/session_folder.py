"""A private folder for one run of a program; what a run that was killed left behind is removed by the next one.

ROOT/                       mode 0700, of this user
  session-1f0c.../          one run; a lock says that it lives
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from MedicalSAM3Lib.errors import OutputError

LOCK = ".lock"


class SessionFolder:
    """The folder of this run.

    Attributes:
        path: Where it is.
    """

    def __init__(self, root: Path, name_bytes: int = 8, on_left_behind: Callable[[Path], None] | None = None) -> None:
        """Make it, and remove those of runs that are gone.

        Args:
            root: Made where it is missing.
            name_bytes: Length of the random part of the name; fewer where the path must be short.
            on_left_behind: Called with the folder of a run that is gone, before it is removed.

        Raises:
            OutputError: The root is a link, no folder, or another user's.
            OSError: It cannot be made.
        """
        _make_private(root)
        _sweep(root, on_left_behind)
        self.path = root / f"session-{secrets.token_hex(name_bytes)}"
        self.path.mkdir(mode=0o700)
        self._lock = FileLock(self.path / LOCK, thread_local=False)  # closed by whichever thread
        self._lock.acquire(timeout=0)

    def close(self, keep: str | None = None) -> None:
        """Remove all that is in it, but for a file that the next run is to find."""
        has_kept = keep is not None and (self.path / keep).is_file()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != keep:
                entry.unlink(missing_ok=True)
        self._lock.release()
        if not has_kept:
            shutil.rmtree(self.path, ignore_errors=True)


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise OutputError(f"Expected a folder of your own, got {folder.name}; remove it, or name another.")
    folder.chmod(0o700)


def _sweep(root: Path, on_left_behind: Callable[[Path], None] | None) -> None:
    for folder in sorted(root.glob("session-*")):
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue  # a run that lives, or a folder that another one is just removing
        if on_left_behind is not None:
            on_left_behind(folder)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
