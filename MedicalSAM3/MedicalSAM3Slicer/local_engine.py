"""The engine on this computer: ``medsam3 serve --local`` in a process that the module starts and ends.

It gets the library from where this module has it, so the chosen Python needs only the library's dependencies. It
ends by itself when Slicer ends, however that happens, and when it was idle for half an hour.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import slicer
from slicer.i18n import tr as _

import MedicalSAM3Lib
from MedicalSAM3Lib.local_server import Connection, read_connection

from .options import EngineSettings
from .task import ThreadTask, UserError

LOOK_S = 0.1
MODULE = "MedicalSAM3Lib.cli"
PYTHON_OF_SLICER = "PythonSlicer"
_SAID_BYTES = 4000


class LocalEngine:
    """A server of this Slicer. ``start`` may be called again once it has ended."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._said: IO[bytes] | None = None
        self._folder: Path | None = None

    def isAlive(self) -> bool:
        """Whether it runs and can be reached."""
        return self._connection is not None and self._process is not None and self._process.poll() is None

    def start(self, task: ThreadTask) -> tuple[str, str]:
        """Start it and wait until it can be reached; return its address and token. In the thread of a task.

        Raises:
            UserError: It does not start; the message says what it said.
            TaskCancelled: Meanwhile; it is ended then.
        """
        self.stop()
        self._folder = Path(tempfile.mkdtemp(prefix="medsam3-"))  # only its owner can read it
        file = self._folder / "connection.json"
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lent to the process
        try:
            process = self._process = subprocess.Popen(
                command(self._settings, file),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
                env=environment(self._settings),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            while (found := read_connection(file)) is None:
                if process.poll() is not None:
                    raise UserError(_("The engine did not start: {said}").format(said=self.lastWords()))
                task.pause(LOOK_S)
        except OSError as error:
            self.stop()
            raise UserError(_("The Python of the engine cannot be started; choose another one.")) from error
        except BaseException:
            self.stop()
            raise
        self._connection = found
        return found.url, found.token

    def stop(self) -> None:
        """End it, if it runs, and leave nothing behind."""
        process, connection, folder, said = self._process, self._connection, self._folder, self._said
        if process is not None:
            if connection is not None and connection.pid != process.pid and process.poll() is None:
                with suppress(OSError):  # a launcher started it: ending only that would leave it
                    os.kill(connection.pid, signal.SIGTERM)
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if said is not None:
            said.close()
        self._process = self._connection = self._folder = self._said = None

    def lastWords(self) -> str:
        """The last line that it wrote; "" where it wrote none."""
        return "" if self._said is None or self._said.closed else lastLine(self._said)


def lastLine(said: IO[bytes]) -> str:
    """The last line that a process wrote to a file; "" where it wrote none."""
    said.seek(0, os.SEEK_END)
    said.seek(max(0, said.tell() - _SAID_BYTES))
    lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("medsam3:").strip() if lines else ""


def command(settings: EngineSettings, file: Path) -> list[str]:
    """The command line of a local server.

    Raises:
        UserError: The chosen Python does not exist.
    """
    words = [python(settings), "-m", MODULE, "serve", "--local", "--parent", str(os.getpid())]
    words += ["--connection-file", str(file)]
    words += ["--model", settings.model] if settings.model else []
    return [*words, "--devices", settings.device] if settings.device else words


def python(settings: EngineSettings) -> str:
    """The program that runs Python: the chosen one, else Slicer's own.

    Raises:
        UserError: The chosen one does not exist.
    """
    if not settings.python:
        return shutil.which(PYTHON_OF_SLICER) or sys.executable
    found = shutil.which(settings.python)
    if found is None:
        raise UserError(_("The chosen Python is no program: '{path}'; choose it again.").format(path=settings.python))
    return found


def environment(settings: EngineSettings) -> dict[str, str]:
    """Of the process: for another Python that of before Slicer, whose variables would mislead it."""
    found = dict(slicer.util.startupEnvironment() if settings.python else os.environ)
    library = str(Path(MedicalSAM3Lib.__file__).resolve().parent.parent)
    inherited = found.get("PYTHONPATH", "")
    found["PYTHONPATH"] = os.pathsep.join([library, inherited] if inherited else [library])
    return found
