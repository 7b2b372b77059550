"""Seconds and memory of a piece of work, for predicting what more of it will cost. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from MedicalSAM3Lib.process_memory import marked_peak_bytes, resident_bytes, set_mark_back

T = TypeVar("T")

clock = time.perf_counter
"""In seconds; tests put their own here."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Times work, and tells how far it took the process beyond ``start`` bytes (None: the system does not tell).

    ``before``: called before each piece of work; what it raises ends the measuring.
    """

    start: int | None
    before: Callable[[], object] = lambda: None

    def run(self, work: Callable[[], T], otherwise: int = 0) -> tuple[T, float, int]:
        """Do the work; return its result, its seconds, and the process's growth in bytes.

        Args:
            otherwise: Growth where the system does not let us measure it.
        """
        self.before()
        is_marked = set_mark_back()
        begin = clock()
        result = work()
        seconds = clock() - begin
        peak = marked_peak_bytes() if is_marked else None
        return result, seconds, otherwise if peak is None or self.start is None else max(0, peak - self.start)

    def growth(self) -> int:
        """Bytes that the process has now beyond ``start``; 0 where the system does not tell."""
        now = resident_bytes()
        return 0 if now is None or self.start is None else max(0, now - self.start)
