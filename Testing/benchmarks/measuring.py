"""Time and memory of a piece of work, and processes in which nothing has happened yet."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from MedicalSAM3Lib.process_memory import trim
from MedicalSAM3Lib.runtime import peak_memory_mb, start_peak_memory

P = ParamSpec("P")
T = TypeVar("T")

PRELOADED = ["MedicalSAM3Lib.pipeline", "Testing.benchmarks.video_baseline"]
"""Importing torch and transformers takes longer than many a measurement; a copy of that state is as fresh."""


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Shortest time of ``repeats`` runs: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def in_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function of a module in a process of its own, and return what it returns or raise what it raises."""
    with ProcessPoolExecutor(1, mp_context=_context()) as pool:
        return pool.submit(work, *args, **kwargs).result()


class PeakMemory:
    """Most memory above what was in use when it was made; take it when model and input are there.

    On Linux that of the process, set back by the kernel; elsewhere the process's peak so far, which can hide work
    that needs less than loading did. On a CUDA device that of the device.
    """

    def __init__(self, device: torch.device) -> None:
        give_back()  # or what was freed while loading would serve the run, and not be counted
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._device = device
        start_peak_memory(device)
        self._before_mb = self._now_mb()

    def above_mb(self) -> float | None:
        """Megabytes (10^6 bytes) since; None where the system does not tell."""
        peak = self._peak_mb()
        return None if peak is None or self._before_mb is None else peak - self._before_mb

    def _now_mb(self) -> float | None:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device) / 1e6
        return resident_mb() if sys.platform == "linux" else self._peak_mb()

    def _peak_mb(self) -> float | None:
        if self._device.type == "cuda":
            return peak_memory_mb(self._device)["device"]
        return _of_status("VmHWM") if sys.platform == "linux" else peak_memory_mb(self._device)["host"]


def give_back() -> None:
    """Return memory that is freed, but kept by Python or by C's allocator, to the system."""
    gc.collect()
    trim()


def resident_mb() -> float:
    """Memory that the process has now, in 10^6 bytes; NaN where the system does not tell."""
    return _of_status("VmRSS") if sys.platform == "linux" else float("nan")


def _of_status(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def _context() -> BaseContext:
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
