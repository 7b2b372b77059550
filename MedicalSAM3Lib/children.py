"""Short-lived child processes of the server: each prints lines of JSON, and may die without harm.

Their last line is their result: ``{"ok": true, ...}`` or ``{"ok": false, "code": ..., "message": ...}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.refusals import STATUS_OF_CODE, Refused

LONGEST_LINE = 1 << 20

OnLine = Callable[[dict[str, Any]], None]


async def run_child(
    module: str, arguments: Sequence[str], *, timeout_s: float, on_line: OnLine | None = None
) -> dict[str, Any]:
    """Run a module of this library to its end and return its last line.

    The child ends with this call, however that ends: also when it is cancelled.

    Args:
        module: Such as "decoding".
        arguments: Of its command line.
        timeout_s: After which it is killed.
        on_line: Called with each line before the last.

    Raises:
        Refused: What the child refused, with its code; or 422 "child_died" or "too_slow".
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"MedicalSAM3Lib.{module}", *arguments,
        stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, limit=LONGEST_LINE, env=_environment(),
    )  # fmt: skip
    try:
        last = await asyncio.wait_for(_follow(process, on_line), timeout_s)
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise Refused(
            422, "too_slow", "Expected a file that can be read in reasonable time, this one cannot."
        ) from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if last is None or "ok" not in last:
        message = "The process that handled it ended without a word; the file is damaged or takes too much memory."
        raise Refused(422, "child_died", message)
    if not last["ok"]:
        more = {name: value for name, value in last.items() if name not in ("ok", "code", "message")}
        raise Refused(STATUS_OF_CODE.get(last["code"], 422), last["code"], last["message"], **more)
    return last


async def _follow(process: Process, on_line: OnLine | None) -> dict[str, Any] | None:
    """The last line that a process prints before it ends; None if it prints none, or its last is no JSON."""
    assert process.stdout is not None
    last: dict[str, Any] | None = None
    async for line in process.stdout:
        if last is not None and on_line is not None:
            on_line(last)
        try:
            last = json.loads(line)
        except ValueError:
            last = None
    await process.wait()
    return last


def _environment() -> dict[str, str]:
    """The own one without the server's secrets, and with one thread: what a client sends is worth one core."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDSAM3_SERVER_")}
    paths = (str(Path(__file__).resolve().parent.parent), kept.get("PYTHONPATH", ""))
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, paths))  # this library and no other, however it was found
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
