"""The one timer of the panel: it asks running tasks how far they are, on the main thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

INTERVAL_MS = 50

Told = Callable[[Any], None]


class Ticker:
    """Polls tasks until they have ended; rests while there is none."""

    def __init__(self) -> None:
        self._followed: list[tuple[Any, Told, Told]] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(INTERVAL_MS)
        self._timer.connect("timeout()", self.tick)

    def follow(self, task: Any, onChange: Told, onEnd: Told) -> None:
        """Call ``onChange(task)`` at each tick while it goes on, and ``onEnd(task)`` once."""
        self._followed.append((task, onChange, onEnd))
        self._timer.start()

    def isBusy(self) -> bool:
        """Whether any task has not ended yet."""
        return bool(self._followed)

    def stop(self) -> None:
        """Forget all tasks; none of them is told."""
        self._followed.clear()
        self._timer.stop()

    def tick(self) -> None:
        """Ask each task once."""
        for entry in list(self._followed):
            task, onChange, onEnd = entry
            goesOn = task.poll()
            if entry not in self._followed:  # what poll() told somebody made them stop us
                continue
            if goesOn:
                onChange(task)
            else:
                self._followed.remove(entry)
                onEnd(task)
        if not self._followed:
            self._timer.stop()
