"""A piece of work of the library in the engine's Python, in a process of its own: what needs this computer, no engine.

It prints lines of JSON, the last of which is its answer. It ends when its standard input does: at a cancellation, and
however Slicer ends.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from slicer.i18n import tr as _

from .local_engine import environment, lastLine, python
from .options import EngineSettings
from .task import ThreadTask, UserError

PATIENCE_S = 90.0
"""Longer than the child gives itself to tidy up; whoever is killed then is a launcher, or hangs."""


def runChild(
    task: ThreadTask,
    settings: EngineSettings,
    module: str,
    words: Sequence[str],
    onLine: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Run ``python -m MedicalSAM3Lib.MODULE WORDS`` and return its last line. In the thread of a task.

    Args:
        settings: Of the engine on this computer.
        onLine: Called with each line before the last.

    Raises:
        UserError: It could not be done; the message says why.
        TaskCancelled: Meanwhile; the child is told to end.
    """
    with tempfile.TemporaryFile() as said:
        process = _start(settings, module, words, said)
        try:
            assert process.stdin is not None
            task.whenCancelled(process.stdin.close)
            last = _follow(process, onLine)
            task.check()
            if process.wait() != 0 or last is None:
                raise UserError(_endedEarly(lastLine(said)))
        finally:
            _end(process)
    if not last.get("ok"):
        raise UserError(str(last.get("message", "")))
    return last


def _start(settings: EngineSettings, module: str, words: Sequence[str], said: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [python(settings), "-m", f"MedicalSAM3Lib.{module}", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=environment(settings),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise UserError(_("The Python of the engine cannot be started; choose another one.")) from error


def _follow(process: subprocess.Popen[bytes], onLine: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    """The last line of JSON; what else a process prints, such as warnings, is no answer."""
    last: dict[str, Any] | None = None
    assert process.stdout is not None
    for line in process.stdout:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if last is not None:
            onLine(last)
        last = found if isinstance(found, dict) else None
    return last


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _endedEarly(said: str) -> str:
    if said:
        return _("The Python of the engine could not do it: {said}").format(said=said)
    return _("The Python of the engine ended without a word, perhaps because memory was full; close other programs.")
