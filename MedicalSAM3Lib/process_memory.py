"""How much main memory this process has, and had at its peak. No torch.

Linux keeps the peak in a mark that can be set back, so that the peak of one piece of work can be seen; other systems
know the peak of the process alone, and Windows is not asked.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

STATUS_FILE = Path("/proc/self/status")
MARK_FILE = Path("/proc/self/clear_refs")
_SET_MARK_BACK = "5"

_earlier_peak = 0
"""What the mark showed before it was set back: the peak of the process must not get lost."""


def resident_bytes() -> int | None:
    """Memory that the process has now, in bytes; its peak where only that is known, None where not even that."""
    return _status("VmRSS") or peak_bytes()


def trim() -> None:
    """Give memory to the system that was freed, but that C's allocator keeps; where that is not glibc, do nothing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Trimmer:
    """Trims whenever the process has grown by ``growth_bytes`` since: what was freed cannot pile up beyond that.

    Its first call trims; what work of that size costs is much more than a trim, and getting the pages again.
    """

    def __init__(self, growth_bytes: int, let_go: Callable[[], None]) -> None:
        """``let_go`` is called with each trim, for what else can be given back."""
        self._growth, self._mark, self._let_go = growth_bytes, -growth_bytes, let_go

    def __call__(self) -> None:
        """Trim if it is time."""
        now = resident_bytes() or 0
        if now >= self._mark + self._growth:
            self._let_go()
            trim()
            self._mark = resident_bytes() or 0
        else:
            self._mark = min(self._mark, now)


def peak_bytes() -> int | None:
    """Most memory that the process ever had, in bytes; None where the system does not tell."""
    peak = _status("VmHWM") or _resource_peak()
    return None if peak is None else max(peak, _earlier_peak)


def set_mark_back() -> bool:
    """Begin a new measurement for ``marked_peak_bytes``; False where the system does not let us."""
    global _earlier_peak
    before = peak_bytes()
    try:
        MARK_FILE.write_text(_SET_MARK_BACK, encoding="ascii")
    except OSError:
        return False
    _earlier_peak = before or 0
    return True


def marked_peak_bytes() -> int | None:
    """Most memory since ``set_mark_back``, in bytes; None where there is no such mark."""
    return _status("VmHWM")


def _status(name: str) -> int | None:
    with suppress(OSError, ValueError):
        for line in STATUS_FILE.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _resource_peak() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    # Linux counts a parent's memory here when it starts a child, so its own file is asked first.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
