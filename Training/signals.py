"""Turn a scheduler's signals into a question that the loop asks once a step."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPED = 75
"""Exit code of a run that was asked to stop and goes on with ``--resume auto``: "try again later" of sysexits."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""SIGTERM as everybody sends it, SIGUSR1 as SLURM's ``--signal`` before the time is up, SIGUSR2 as submitit."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether one of the signals has come since; whoever handled them before handles them afterwards again."""
    asked: list[int] = []
    previous = {number: signal.signal(number, lambda number, frame: asked.append(number)) for number in SIGNALS}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
