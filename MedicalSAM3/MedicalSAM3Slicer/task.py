"""Something that takes time, in a thread of its own, so that Slicer stays usable. Needs no Slicer but translations.

The thread never touches the scene. Whoever owns the task calls ``poll()`` from a timer on the main thread.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

YIELD_S = 0.005
"""Slicer's main thread holds Python's lock also while it waits for events; each poll lends it to the others."""


class UserError(RuntimeError):
    """Something cannot be done; the message is a sentence for users."""


class TaskCancelled(Exception):
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
        onChange: Called on the main thread with the task after each change.
    """

    def __init__(self) -> None:
        self.state = "running"
        self.progress = Progress()
        self.result: Any = None
        self.error = ""
        self.onChange: Callable[[Any], None] | None = None

    @property
    def isRunning(self) -> bool:
        """Whether it has not ended."""
        return self.state == "running"

    def poll(self) -> bool:
        """Take note of what happened since the last call; return whether the task goes on."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End it. What goes on elsewhere ends as soon as it can, and nothing of it is heard any more."""
        if self.isRunning:
            self._end("cancelled")

    def wait(self, onProgress: Callable[[Progress], None] | None = None) -> Any:
        """Poll until it has ended; return the result. For scripts.

        Raises:
            UserError: It failed or was cancelled.
        """
        try:
            while self.poll():
                if onProgress:
                    onProgress(self.progress)
                time.sleep(YIELD_S)
        except BaseException:
            self.cancel()
            raise
        if self.state != "done":
            raise UserError(self.error or _("It was cancelled."))
        return self.result

    def _end(self, state: str, result: Any = None, error: str = "") -> None:
        self.state, self.result, self.error = state, result, error
        self._tell()

    def _tell(self) -> None:
        if self.onChange:
            self.onChange(self)


class ThreadTask(Task):
    """A task whose work is done in a thread.

    Args:
        work: Called in the thread with this task; returns what ``finish`` gets on the main thread.
        explain: Makes a sentence for users of what ``work`` or ``finish`` raised.
    """

    def __init__(self, work: Callable[[ThreadTask], Any], explain: Callable[[BaseException], str] = str) -> None:
        super().__init__()
        self._work, self._explain = work, explain
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._atCancel: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def begin(self) -> ThreadTask:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="MedicalSAM3", daemon=True)
        self._thread.start()
        return self

    # --- on the main thread ---

    def poll(self) -> bool:
        """Take note of what the thread did; return whether the task goes on."""
        if self.isRunning:
            time.sleep(YIELD_S)
        while self.isRunning:
            try:
                kind, value = self._messages.get_nowait()
            except queue.Empty:
                break
            self._take(kind, value)
        return self.isRunning

    def cancel(self) -> None:
        """End it at once for its owner; the thread, and what it asked an engine for, end as soon as they can."""
        if self.isRunning:
            self._abandon()
            super().cancel()

    def finish(self, value: Any) -> Any:
        """Make the result of what the thread returned. On the main thread: may touch the scene."""
        return value

    def take(self, kind: str, value: Any) -> None:
        """Take note of a message of one's own kind."""

    def _take(self, kind: str, value: Any) -> None:
        if kind == "progress":
            self.progress = value
        elif kind == "failed":
            return self._end("failed", error=value)
        elif kind == "done":
            try:
                value = self.finish(value)
            except Exception as error:
                return self._end("failed", error=self._explain(error))
            return self._end("done", value)
        else:
            self.take(kind, value)
        return self._tell()

    def _fail(self, error: str) -> None:
        """End it with a sentence, although the thread goes on."""
        self._abandon()
        self._end("failed", error=error)

    def _abandon(self) -> None:
        with self._lock:
            self._stop.set()
            calls, self._atCancel = self._atCancel, []
        if calls:
            threading.Thread(target=_callAll, args=(calls,), name="MedicalSAM3 cancel", daemon=True).start()

    # --- in the thread ---

    def report(self, progress: Progress) -> None:
        """Say how far it is.

        Raises:
            TaskCancelled: It was cancelled.
        """
        self.post("progress", progress)

    def post(self, kind: str, value: Any) -> None:
        """Send a message to the main thread.

        Raises:
            TaskCancelled: It was cancelled.
        """
        self.check()
        self._messages.put((kind, value))

    def check(self) -> None:
        """Raise TaskCancelled if it was cancelled."""
        if self._stop.is_set():
            raise TaskCancelled

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a cancellation.

        Raises:
            TaskCancelled: It was cancelled.
        """
        self._stop.wait(seconds)
        self.check()

    def whenCancelled(self, call: Callable[[], object]) -> None:
        """Have something called, in another thread, when the task is cancelled; at once if it was already.

        Raises:
            TaskCancelled: It was already.
        """
        with self._lock:
            if not self._stop.is_set():
                self._atCancel.append(call)
                return
        _callAll([call])
        raise TaskCancelled

    def _run(self) -> None:
        work, self._work = (
            self._work,
            _nothing,
        )  # mostly a method of its own: what it holds would wait for the collector
        try:
            message = "done", work(self)
        except TaskCancelled:
            return
        except BaseException as error:
            message = "failed", "" if self._stop.is_set() else self._explain(error)
        if not self._stop.is_set():
            self._messages.put(message)


def _nothing(task: ThreadTask) -> None:
    """The work of a task that has begun."""


def _callAll(calls: list[Callable[[], object]]) -> None:
    for call in calls:
        try:
            call()
        except Exception:
            continue
