"""Engines for the tests of batches: in threads, with the oracle in the place of the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from MedicalSAM3Lib import engine_work, volume_files
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine_port import Answer, EngineState, ModelFacts, OnAnswer, OnChange, Order
from MedicalSAM3Lib.pipeline import segment_with_report
from MedicalSAM3Lib.result_files import write_results
from Testing.lib.fakes import fake_model

BANDS = {"lesion": (0.75, 1.5)}


def do(order: Order) -> Answer:
    """What an engine does with an order."""
    volume = volume_files.load(order.volume, order.volume_id)
    model, settings = fake_model(BANDS), make_settings(**{**order.settings, "speed": "exact", "device": "cpu"})
    try:
        segmentation, record = segment_with_report(volume, order.concepts, model, settings)
        write_results(order.out, segmentation, record)
    except Exception as error:
        return Answer(order.job_id, "failed", engine_work.explain(error))
    return Answer(order.job_id, "done", {"notices": []})


class ThreadEngines:
    """``engine_port.Engines`` in this process, an order at a time each.

    Attributes:
        begun: Case ids in the order in which they were begun.
        is_started: Whether they were needed.
    """

    def __init__(self, n: int = 1, work: Callable[[Order], Answer] = do) -> None:
        self._free, self._n, self._work = n, n, work
        self._lock = threading.Lock()
        self.begun: list[str] = []
        self.dropped: list[Path] = []
        self.is_started = False

    def start(self, on_answer: OnAnswer, on_change: OnChange) -> None:
        self._on_answer, self._on_change, self.is_started = on_answer, on_change, True

    def states(self) -> tuple[EngineState, ...]:
        return tuple(EngineState("cpu", "idle") for _ in range(self._n))

    def model(self) -> ModelFacts | None:
        return None

    def give(self, order: Order) -> bool:
        with self._lock:
            if not self._free:
                return False
            self._free -= 1
            self.begun.append(order.volume_id)
        threading.Thread(target=self._do, args=(order,), daemon=True).start()
        return True

    def _do(self, order: Order) -> None:
        answer = self._work(order)
        self._on_answer(answer)
        with self._lock:
            self._free += 1
        self._on_change()

    def cancel(self, job_id: str) -> None:
        pass

    def drop_features(self, volumes: Sequence[Path] | None) -> int:
        self.dropped += volumes or []
        return 0

    def stop(self) -> None:
        pass
