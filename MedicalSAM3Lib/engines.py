"""The supervisor: one engine process a device, started, watched, and replaced when it dies. No torch.

It is what ``engine_port.Engines`` asks for. An engine that dies fails its order with a reason, and a new one does the
next; one that dies again before it was ready is started again later and later. An engine that is silent for long, or
does not hear a cancel, is ended like one that died.

Patience is counted in ticks of the supervisor, not by a clock: a machine that slept, or whose clock was set, has
missed nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from MedicalSAM3Lib.engine import order_to
from MedicalSAM3Lib.engine_port import ENDINGS, Answer, EngineState, ModelFacts, OnAnswer, OnChange, Order, Readiness
from MedicalSAM3Lib.engine_process import EngineOptions, EngineProcess, OnMessage

TICK_S = 1.0
SILENCE_TICKS = 120
"""An engine says every other second that it is alive."""
CANCEL_TICKS = 600
"""A batch of slices can take minutes on a CPU; what takes longer hangs."""
LONGEST_WAIT_TICKS = 60
_VOLUMES_REMEMBERED = 8
_FREED_PATIENCE_S = 5.0

DIED = {
    "code": "engine_died",
    "message": "The engine ended while it worked on this job, most likely because memory ran out; a new one is being "
    "started. Run it again, with fewer slices or concepts if it happens twice.",
}
SILENT = {
    "code": "engine_died",
    "message": "The engine did not answer any more while it worked on this job and was ended; a new one is being "
    "started. Run the job again.",
}


class EngineLink(Protocol):
    """One engine as the supervisor sees it, wherever it runs."""

    @property
    def pid(self) -> int:
        """Process id; 0 on another machine."""
        ...

    def send(self, message: dict[str, Any]) -> None:
        """Say something to it, at once; one that has ended hears nothing."""
        ...

    def kill(self) -> None:
        """End it at once; its end is told as every other."""
        ...

    def end(self) -> None:
        """End it, whatever it does, and return once it is gone."""
        ...


OnEnd = Callable[[int], None]
Launch = Callable[[str, OnMessage, OnEnd], EngineLink]
"""Start an engine for a device: what is called for each message, and after the last one, from a thread of its own."""


@dataclass(slots=True, eq=False)
class _Slot:
    """A place for one engine at a time."""

    device: str
    process: EngineLink | None = None
    state: Readiness = "dead"
    order: Order | None = None
    shown: str = ""
    recent: deque[Path] = field(default_factory=lambda: deque(maxlen=_VOLUMES_REMEMBERED))
    silent_ticks: int = 0
    cancel_ticks: int | None = None
    was_silent: bool = False
    failed_starts: int = 0
    wait_ticks: int = 0


class WatchedEngines:
    """Engines that are started, watched and replaced.

    Args:
        devices: One engine each.
        launch: Starts one.
    """

    def __init__(self, devices: Sequence[str], launch: Launch) -> None:
        self._start_one = launch
        self._slots = [_Slot(device, shown=device) for device in devices]
        self._lock = threading.RLock()
        self._model: ModelFacts | None = None
        self._tickets: dict[int, list[int]] = {}
        self._freed = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._watch_all, name="engines", daemon=True)

    def start(self, on_answer: OnAnswer, on_change: OnChange) -> None:
        """As ``Engines.start``."""
        self._on_answer, self._on_change = on_answer, on_change
        with self._lock:
            for slot in self._slots:
                self._launch(slot)
        self._watch.start()

    def states(self) -> tuple[EngineState, ...]:
        """As ``Engines.states``."""
        with self._lock:
            return tuple(EngineState(slot.shown, slot.state) for slot in self._slots)

    def model(self) -> ModelFacts | None:
        """As ``Engines.model``."""
        return self._model

    def give(self, order: Order) -> bool:
        """As ``Engines.give``."""
        with self._lock:
            free = [slot for slot in self._slots if slot.state == "idle" and slot.process is not None]
            if not free or self._stopping.is_set():
                return False
            slot = next((slot for slot in free if order.volume in slot.recent), free[0])
            slot.order, slot.state, slot.cancel_ticks = order, "busy", None
            if order.volume in slot.recent:
                slot.recent.remove(order.volume)
            slot.recent.append(order.volume)
            process = slot.process
        assert process is not None
        process.send({"order": order_to(order)})
        return True

    def cancel(self, job_id: str) -> None:
        """As ``Engines.cancel``."""
        with self._lock:
            slot = next((slot for slot in self._slots if slot.order and slot.order.job_id == job_id), None)
            if slot is None or slot.process is None:
                return
            slot.cancel_ticks = slot.cancel_ticks or 0
            process = slot.process
        process.send({"cancel": job_id})

    def drop_features(self, volumes: Sequence[Path] | None) -> int:
        """As ``Engines.drop_features``."""
        names = None if volumes is None else [str(volume) for volume in volumes]
        with self._lock:
            ticket = max(self._tickets, default=0) + 1
            answers = self._tickets[ticket] = []
            asked = [slot.process for slot in self._slots if slot.process and slot.state in ("idle", "busy")]
        for process in asked:
            process.send({"drop": names, "ticket": ticket})
        with self._freed:
            self._freed.wait_for(lambda: len(answers) >= len(asked), _FREED_PATIENCE_S)
            del self._tickets[ticket]
            return sum(answers)

    def pids(self) -> tuple[int, ...]:
        """Process ids of the engines that run."""
        with self._lock:
            return tuple(slot.process.pid for slot in self._slots if slot.process)

    def stop(self) -> None:
        """As ``Engines.stop``."""
        with self._lock:
            self._stopping.set()
            processes = [slot.process for slot in self._slots if slot.process]
        for process in processes:
            process.end()
        if self._watch.is_alive():
            self._watch.join()

    def _launch(self, slot: _Slot) -> None:
        slot.state, slot.silent_ticks, slot.was_silent = "starting", 0, False
        slot.recent.clear()
        slot.process = self._start_one(
            slot.device, lambda message: self._hear(slot, message), lambda _code: self._ended(slot)
        )

    def _hear(self, slot: _Slot, message: dict[str, Any]) -> None:
        slot.silent_ticks = 0
        if "answer" in message:
            self._answered(slot, Answer(**message["answer"]))
        elif "freed" in message:
            with self._freed:
                if message["ticket"] in self._tickets:
                    self._tickets[message["ticket"]].append(message["freed"])
                    self._freed.notify_all()
        elif "ready" in message or "unready" in message:
            with self._lock:
                if "ready" in message:
                    self._model, slot.shown = ModelFacts(**message["ready"]), message["device"]
                slot.state, slot.failed_starts = "idle", 0
            self._on_change()

    def _answered(self, slot: _Slot, answer: Answer) -> None:
        is_end = answer.kind in ENDINGS
        if is_end:
            with self._lock:
                slot.order, slot.cancel_ticks, slot.state = None, None, "idle"
        self._on_answer(answer)
        if is_end:
            self._on_change()

    def _ended(self, slot: _Slot) -> None:
        with self._lock:
            order, was_cancelled = slot.order, slot.cancel_ticks is not None
            reason = SILENT if slot.was_silent else DIED
            if slot.state == "starting":
                slot.failed_starts += 1
                slot.wait_ticks = min(2**slot.failed_starts, LONGEST_WAIT_TICKS)
            slot.process, slot.order, slot.cancel_ticks, slot.state = None, None, None, "dead"
        if order is not None:
            answer = (
                Answer(order.job_id, "cancelled") if was_cancelled else Answer(order.job_id, "failed", dict(reason))
            )
            self._on_answer(answer)
        with self._lock:
            if not self._stopping.is_set() and not slot.wait_ticks:
                self._launch(slot)
        self._on_change()

    def _watch_all(self) -> None:
        while not self._stopping.wait(TICK_S):
            for slot in self._slots:
                self._tick(slot)

    def _tick(self, slot: _Slot) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            if slot.process is None:
                slot.wait_ticks = max(0, slot.wait_ticks - 1)
                if not slot.wait_ticks:
                    self._launch(slot)
                return
            slot.silent_ticks += 1
            if slot.cancel_ticks is not None:
                slot.cancel_ticks += 1
            if slot.silent_ticks > SILENCE_TICKS or (slot.cancel_ticks or 0) > CANCEL_TICKS:
                slot.was_silent = True
                slot.process.kill()


class ProcessEngines(WatchedEngines):
    """Engines as child processes of this one.

    Args:
        options: How many, where and with which model.
        command: Device to command line; for tests.
    """

    def __init__(self, options: EngineOptions, command: Callable[[str], Sequence[str]] | None = None) -> None:
        make_command = command or options.command
        super().__init__(options.devices, lambda device, *heard: EngineProcess(make_command(device), *heard))
