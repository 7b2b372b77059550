"""Something that takes time, in a thread of its own, so that Slicer stays usable. Needs no Slicer.

The thread never touches the scene. Whoever owns the task calls ``poll()`` from a timer on the main thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

YIELD_S = 0.005
"""Slicer's main thread holds Python's lock also while it waits for events; each poll lends it to the others."""


class UserError(RuntimeError):
    """Something cannot be done; the message is a sentence for users."""


class TaskCancelled(Exception):  # noqa: N818 - no fault
    """Raised in the thread once the task was cancelled."""


@dataclass(frozen=True)
class Progress:
    """How far a task is.

    Attributes:
        stage: What it does now, for users.
        fraction: Of all, 0..1; None where it is not known.
        done, total: Slices or bytes of this stage; 0 where there is nothing to count.
        secondsLeft: Estimated; None where it is not known.
    """

    stage: str = ""
    fraction: float | None = None
    done: int = 0
    total: int = 0
    secondsLeft: float | None = None


class Task:
    """Something that was started.

    Attributes:
        state: "running", "done", "failed" or "cancelled".
        progress: The latest.
        result: What came out once it is "done".
        error: A sentence once it "failed".
        onChange: Called by ``poll`` with the task after each change.
    """

    def __init__(self, work: Callable[[Task], Any], sentence: Callable[[BaseException], str] = str) -> None:
        self.state = "running"
        self.progress = Progress()
        self.result: Any = None
        self.error = ""
        self.onChange: Callable[[Task], None] | None = None
        self._sentence = sentence
        self._work = work
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="MedicalSAM3", daemon=True)
        self._thread.start()

    # --- on the main thread ---

    @property
    def isRunning(self) -> bool:
        """Whether it has not ended."""
        return self.state == "running"

    def poll(self) -> bool:
        """Take note of what the thread did; return whether the task goes on."""
        ...

    def cancel(self) -> None:
        """End it at once, as far as its owner is concerned; the thread ends as soon as it can."""
        ...

    def wait(self, onProgress: Callable[[Progress], None] | None = None) -> Any:
        """Poll until it has ended; return the result.

        Raises:
            UserError: It failed or was cancelled.
        """
        ...

    # --- in the thread ---

    def report(self, progress: Progress) -> None:
        """Say how far it is.

        Raises:
            TaskCancelled: It was cancelled.
        """
        ...

    def _run(self) -> None: ...
