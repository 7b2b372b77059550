"""Engines for the tests of batches: in a thread, or as a process, with the oracle in the place of the model.

python -m Testing.lib.batch_engine LOG ...      an engine process that notes in LOG each order that it begins
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from MedicalSAM3Lib import engine_work, volume_files
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine_port import Answer, EngineState, ModelFacts, OnAnswer, OnChange, Order
from MedicalSAM3Lib.pipeline import segment_with_report
from MedicalSAM3Lib.result_files import write_results
from MedicalSAM3Lib.structures import Segmentation
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


def without_pictures(replace: Callable[[object, str, object], None]) -> None:
    """Let a batch write small files in place of its pictures."""
    from MedicalSAM3Lib import batch_files

    def thumbnails(folder: Path, _: object, segmentation: Segmentation) -> None:
        for place, finding in enumerate(segmentation.findings):
            if finding.state == "found":
                (folder / f"{place}.jpg").write_bytes(b"picture")

    replace(batch_files, "write_preview", lambda path, *_: path.write_bytes(b"picture"))
    replace(batch_files, "write_thumbnails", thumbnails)


class ThreadEngines:
    """``engine_port.Engines`` in this process, an order at a time each.

    Attributes:
        begun: Case ids in the order in which they were begun.
    """

    def __init__(self, n: int = 1, work: Callable[[Order], Answer] = do) -> None:
        self._free, self._n, self._work = n, n, work
        self._lock = threading.Lock()
        self.begun: list[str] = []
        self.dropped: list[Path] = []

    def start(self, on_answer: OnAnswer, on_change: OnChange) -> None:
        self._on_answer, self._on_change = on_answer, on_change

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


def _process(log: Path) -> int:
    """An engine process: the real one's way to its parent, the oracle's answers."""
    from MedicalSAM3Lib.engine import Engine, _listen, _take_over_stdout

    class Workshop:
        device, is_lost = "cpu", False

        def warm_up(self) -> ModelFacts:
            return ModelFacts("oracle", "0" * 64, True, False)

        def do(self, order: Order, answer: Callable[[Answer], None], _is_cancelled: object) -> None:
            with log.open("a", encoding="utf-8") as file:
                file.write(order.volume_id + "\n")
            time.sleep(0.02)
            answer(do(order))

        def drop_features(self, volumes: list[str] | None) -> int:
            return 0

    send = _take_over_stdout()
    engine = Engine(Workshop, send)  # type: ignore[arg-type]
    threading.Thread(target=_listen, args=(engine,), daemon=True).start()
    return engine.work()


if __name__ == "__main__":
    import os

    os._exit(_process(Path(sys.argv[1])))
