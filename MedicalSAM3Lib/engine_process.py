"""One engine as its parent sees it: a child process, the order that it does, and messages both ways. No torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

OnMessage = Callable[[dict[str, Any]], None]

_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How engines are started.

    Attributes:
        devices: One engine each: "auto", "cpu", "mps", "cuda:N"; the same one twice makes two engines on it.
        model: Which one "auto" means.
        threads: Of the CPU for each engine; 0 shares the cores among those on the CPU.
        memory_budget_gb: Of the features of each engine, None = from the machine.
        models_kept: How many models stay loaded in each.
    """

    devices: tuple[str, ...] = ("auto",)
    model: str = "auto"
    threads: int = 0
    memory_budget_gb: float | None = None
    models_kept: int = 2

    def command(self, device: str) -> list[str]:
        """The command line of an engine."""
        words = [sys.executable, "-m", "MedicalSAM3Lib.engine", "--device", device, "--model", self.model]
        words += ["--threads", str(self._threads(device)), "--models-kept", str(self.models_kept)]
        if self.memory_budget_gb is not None:
            words += ["--memory-budget", str(self.memory_budget_gb)]
        return words

    def _threads(self, device: str) -> int:
        from MedicalSAM3Lib.guards import usable_cores

        neighbours = self.devices.count("cpu")
        if self.threads or device != "cpu" or neighbours < 2:
            return self.threads
        return max(1, usable_cores() // neighbours)


class EngineProcess:
    """A child process that has been started. It ends when its parent does, however the parent ends.

    Args:
        command: What to run.
        on_message: Called in a thread of its own for each message.
        on_end: Called in that thread after the last one, with the exit code.
    """

    def __init__(self, command: Sequence[str], on_message: OnMessage, on_end: Callable[[int], None]) -> None:
        self._lock = threading.Lock()
        self._on_message, self._on_end = on_message, on_end
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self._reader = threading.Thread(target=self._read, name="engine", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def send(self, message: dict[str, Any]) -> None:
        """Write a message; one that has ended gets none, and its end is told by ``on_end``."""
        assert self._process.stdin is not None
        with self._lock, suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self) -> None:
        """End it, whatever it does, and return once it is gone."""
        assert self._process.stdin is not None
        with self._lock, suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_PATIENCE_S)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            for line in self._process.stdout:
                with suppress(json.JSONDecodeError):  # the last line of a killed process may be half a one
                    self._on_message(json.loads(line))
        code = self._process.wait()
        with self._lock, suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._on_end(code)
