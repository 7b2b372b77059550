"""A child process that the panel does not wait for, and a folder that goes when it ends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer


class Job:
    """One run of a command. ``onDone(exitCode, stderr)`` is called once; exitCode is None when cancelled.

    The folder holds the patient's image, so it is removed however the run ends.
    """

    def __init__(self, onDone: Callable[[int | None, str], None]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="run-", dir=slicer.app.temporaryPath))
        self._onDone = onDone
        self._isDone = False
        self._isCancelled = False
        self._process = qt.QProcess()
        # To a file, not to a pipe: a pipe that nobody empties stops the child.
        self._process.setStandardErrorFile(str(self.folder / "stderr.txt"))
        self._process.setStandardOutputFile(qt.QProcess.nullDevice())
        self._process.setProcessEnvironment(_startupEnvironment())
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._failed)

    def start(self, command: Sequence[str]) -> None:
        """Start the program (first word) with its arguments; returns at once."""
        self._process.start(command[0], list(command[1:]))

    def cancel(self) -> None:
        """Kill the process; ``onDone`` follows. Does nothing once the run has ended."""
        self._isCancelled = True
        if self._process.state() != qt.QProcess.NotRunning:
            self._process.kill()

    def discard(self) -> None:
        """Kill the process, tell nobody, remove the folder."""
        self._isDone = True
        self.cancel()
        self._process.waitForFinished(2000)
        self._remove()

    def _finished(self, exitCode: int, exitStatus: int) -> None:
        crashed = exitStatus != qt.QProcess.NormalExit
        self._end(exitCode or (-1 if crashed else 0))

    def _failed(self, error: int) -> None:
        # Every other error is followed by "finished"; a program that did not start says only this.
        if error == qt.QProcess.FailedToStart:
            self._end(-1)

    def _end(self, exitCode: int) -> None:
        if self._isDone:
            return
        self._isDone = True
        log = self.folder / "stderr.txt"
        stderr = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        try:
            self._onDone(None if self._isCancelled else exitCode, stderr)
        finally:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _startupEnvironment() -> qt.QProcessEnvironment:
    """The environment that Slicer was started in: Slicer's own Python settings would break another Python."""
    environment = qt.QProcessEnvironment()
    for name, value in slicer.util.startupEnvironment().items():
        environment.insert(name, value)
    return environment
