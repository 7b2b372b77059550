"""A real server: a process of its own with engines, behind a real socket, as ``medsam3 serve --local`` starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.local_server import read_connection

LOOKS = 6000
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Live:
    """A running server.

    Attributes:
        process: Its process; the engines are children of that.
        url, token: How to reach it.
        spool: Where it keeps what clients send.
    """

    process: subprocess.Popen[str]
    url: str
    token: str
    file: Path
    spool: Path

    def client(self, url: str | None = None, **options: Any) -> Client:
        """A client of it, through another address where one is given."""
        return Client(url or self.url, self.token, **options)

    @property
    def address(self) -> tuple[str, int]:
        """For a proxy."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def wait_ready(self) -> None:
        """Wait until all engines are idle."""
        client = self.client()
        wait_until(lambda: all(engine["state"] == "idle" for engine in client.health()["engines"]))

    def engines(self) -> list[int]:
        """Process ids of the engines, from the system's own list."""
        return [pid for pid in children(self.process.pid) if b"MedicalSAM3Lib.engine" in command_line(pid)]


@contextmanager
def live(folder: Path, *flags: str, model: str = "tiny", devices: str = "cpu") -> Iterator[Live]:
    """Run a server for as long as the context lasts."""
    file, spool = folder / "connection.json", folder / "spool"
    command = [sys.executable, "-m", "MedicalSAM3Lib.cli", "serve", "--local", "--connection-file", str(file)]
    command += ["--devices", devices, "-m", model, "--threads", "1", "--set", f"spool={spool}", *flags]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True, env=environment()
        )
    try:
        wait_until(lambda: is_of(file, process.pid) or process.poll() is not None)
        found = read_connection(file)
        assert found is not None, (folder / "log.txt").read_text()
        yield Live(process, found.url, found.token, file, spool)
    finally:
        process.terminate()
        process.wait()


def is_of(file: Path, pid: int) -> bool:
    """Whether a connection file is that of a process, not of one before it."""
    found = read_connection(file)
    return found is not None and found.pid == pid


def environment() -> dict[str, str]:
    """Of a child: this checkout, one thread, nobody's text cache."""
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MEDSAM3_TEXT_CACHE": "0"}


def wait_until(holds: Any) -> None:
    """Wait for something that comes; that it does not come is a failure.

    Looks are counted, not seconds: a machine that stops all processes for a while is no failure.
    """
    for _ in range(LOOKS):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come")


def children(pid: int) -> list[int]:
    """Processes that a process has started and that run."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _status(int(folder.name))[1:2] == [str(pid)]:
            found.append(int(folder.name))
    return [child for child in found if runs(child)]


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    return _status(pid)[:1] not in ([], ["Z"])  # Z: ended, and not yet noticed by whoever inherited it


def command_line(pid: int) -> bytes:
    """How a process was started."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _status(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def cli(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``medsam3`` in a process of its own."""
    command: Sequence[str] = [sys.executable, "-m", "MedicalSAM3Lib.cli", *map(str, words)]
    return subprocess.run(command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False)


def read_json(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
