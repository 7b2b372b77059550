"""The limits of a child process that handles what a stranger sent, set by itself before it looks at it."""

from __future__ import annotations

import sys


def tighten(*, memory_bytes: int, cpu_s: int, file_bytes: int) -> None:
    """Limit this process for good: address space, processor time, size of each file it writes; no core dump.

    On Windows there are no such limits; there the parent's time limit is what ends it.
    """
    if sys.platform == "win32":
        return
    import resource

    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        lower = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(kind, (lower, lower))
        except (ValueError, OSError):  # macOS knows some of them by name only
            continue
