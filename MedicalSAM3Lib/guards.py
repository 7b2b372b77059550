"""Refuse, in one line and before it costs anything, what cannot be read or used."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import ChoiceNeeded, InputError, TooLarge

CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
"""Limit, use and what is used for, of a container's memory (cgroup version 2, then 1)."""

CPU_QUOTA_FILES = (
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
"""Microseconds of processor time that a container may use in each period, and the period (cgroup 2, then 1)."""


ALWAYS_EXPANDS_TO = 64 << 20
"""Bytes that a file may expand to, however small it is."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a reader may take for a file from a stranger, beyond what the memory has room for.

    Attributes:
        values: Voxels, times colours.
        expanded_bytes: As stored, after decompression.
    """

    values: int
    expanded_bytes: int

    @classmethod
    def of(cls, values: int, ratio: int, file_bytes: int) -> Allowance:
        """By how many times larger than the file its content may be."""
        return cls(values, max(ratio * file_bytes, ALWAYS_EXPANDS_TO))


allowance: ContextVar[Allowance | None] = ContextVar("allowance", default=None)
"""Holds for all readers that are called while it is set; files of one's own need none."""


class _WindowsMemory(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
        (name, ctypes.c_ulonglong) for name in ("total", "available", "a", "b", "c", "d", "e")
    ]


def available_memory_bytes() -> int:
    """Memory that this process may still take without swapping, in bytes.

    In a container its limit counts, too. macOS does not tell what is free: there it is all memory.
    """
    if sys.platform == "win32":
        status = _WindowsMemory(length=ctypes.sizeof(_WindowsMemory))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.available)
    if not sys.platform.startswith("linux"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    for limit_file, use_file, stat_file in CGROUP_FILES:
        try:
            limit, used, parts = (Path(name).read_text().strip() for name in (limit_file, use_file, stat_file))
        except OSError:
            continue
        if limit.isdigit():
            free = min(free, max(int(limit) - int(used) + _file_pages_bytes(parts), 0))
    return free


def usable_cores() -> int:
    """How many cores this process can keep busy: those that it may run on, within a container's share of time.

    More threads than that do no harm to a result, but wait for one another: a container with two of 64 cores' time
    is stopped for most of each period when it runs 64 threads. A fraction of a core counts as one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in CPU_QUOTA_FILES:
        try:
            words = " ".join(Path(name).read_text(encoding="ascii") for name in names).split()
        except OSError:
            continue
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):  # no limit: "max" or -1
            cores = min(cores, max(1, math.ceil(int(words[0]) / int(words[1]))))
    return cores


def _file_pages_bytes(memory_stat: str) -> int:
    """Copies of files that the system keeps while nobody needs the memory: used, yet free to take."""
    sizes = dict(line.split() for line in memory_stat.splitlines())
    return int(sizes.get("active_file", 0)) + int(sizes.get("inactive_file", 0))


def require_memory(shape: Sequence[int], bytes_per_voxel: int) -> None:
    """Refuse an image that would not fit while it is read, before any of it is.

    Args:
        shape: Size of the array, colours included.
        bytes_per_voxel: As stored in the file; the float32 copy comes on top.

    Raises:
        TooLarge: More memory is needed than the machine has left, or than ``allowance`` grants.
    """
    values = int(np.prod([int(size) for size in shape], dtype=object))
    needed, free, size = (bytes_per_voxel + 4) * values, available_memory_bytes(), " x ".join(map(str, shape))
    limit = allowance.get()
    if limit is not None and values > limit.values:
        raise TooLarge(f"Expected an image of at most {limit.values:,} values, got {size}; crop or resample it.")
    if limit is not None and bytes_per_voxel * values > limit.expanded_bytes:
        raise TooLarge(
            f"Expected a file that expands to {limit.expanded_bytes / 1e6:,.0f} MB at most, got a header that promises "
            f"{bytes_per_voxel * values / 1e6:,.0f} MB; check the header, or save it with less compression."
        )
    if needed > free:
        raise TooLarge(
            f"Expected an image that fits in memory, got a header that promises {size} values, which need "
            f"{needed / 1e9:,.1f} GB where {free / 1e9:,.1f} GB are free; "
            "crop or resample the image, or check its header."
        )


def pick_frame(frame: int | None, num_frames: int, kind: str = "frames") -> int:
    """Index of the frame to read; an image of one frame needs no choice.

    Args:
        frame: What the user asked for, 0-based.
        num_frames: How many there are.
        kind: What they are called in the message ("frames", "pages", ...).

    Raises:
        ChoiceNeeded: There are several and none was asked for.
        InputError: The one asked for is not there.
    """
    if frame is None and num_frames == 1:
        return 0
    if frame is None:
        raise ChoiceNeeded(
            f"Expected one 3D volume or one picture, got {num_frames} {kind}; "
            f"pick one with frame= (--frame), 0 to {num_frames - 1}."
        )
    if not 0 <= frame < num_frames:
        raise InputError(
            f"Expected a frame from 0 to {num_frames - 1}, got {frame}; the image has {num_frames} {kind}."
        )
    return frame


def check_finite(array: np.ndarray) -> None:
    """Refuse NaN and infinite voxels.

    Raises:
        InputError: Says how many there are; they are not replaced, for only the owner knows by what.
    """
    if np.isfinite(array).all():
        return
    nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    raise InputError(
        f"Expected finite voxels, got {nan} NaN and {infinite} infinite of {array.size}; "
        "replace them, for example by the lowest finite value, and save the image again."
    )
