"""An engine process for tests of batches: ``python -m Testing.lib.batch_worker LOG``. No torch: it is there at once.

Its way to the parent is that of the real one; what is bright is a lesion. In LOG it notes each order that it begins.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from MedicalSAM3Lib import volume_files
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine import Engine, _listen, _take_over_stdout
from MedicalSAM3Lib.engine_port import Answer, ModelFacts, Order
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord
from MedicalSAM3Lib.result_files import write_results
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume

WORK_S = 0.05
"""A case takes a while, so that something is in flight when a run is killed."""


class BrightWorkshop:
    """What ``engine_work.Workshop`` is to an engine, with a threshold in the place of the network."""

    device, is_lost = "cpu", False

    def __init__(self, log: Path) -> None:
        self._log = log

    def warm_up(self) -> ModelFacts:
        return ModelFacts("oracle", "0" * 64, True, False)

    def do(self, order: Order, answer: Callable[[Answer], None], _is_cancelled: object) -> None:
        with self._log.open("a", encoding="utf-8") as file:
            file.write(order.volume_id + "\n")
        volume = volume_files.load(order.volume, order.volume_id)
        time.sleep(WORK_S)
        write_results(order.out, *bright_parts(volume, order.concepts))
        answer(Answer(order.job_id, "done", {"notices": []}))

    def drop_features(self, _volumes: list[str] | None) -> int:
        return 0


def bright_parts(volume: Volume, concepts: tuple[str, ...]) -> tuple[Segmentation, RunRecord]:
    """The first concept is what is bright, the others are not there."""
    layer = (volume.array > 127).astype(np.uint16)
    voxels = int(layer.sum())
    first = Finding(concepts[0], "found", presence=0.9, confidence=0.9, voxels=voxels,
                    volume_ml=voxels * volume.voxel_ml, slice_range=(0, len(layer) - 1), instances=1, layer=0,
                    label=1)  # fmt: skip
    findings = (first, *(Finding(phrase, "not_found", presence=0.1) for phrase in concepts[1:]))
    record = RunRecord(
        InputRecord.of(volume), ModelRecord("oracle", "0" * 64, True, ""), make_settings(), 2, len(layer), "cpu",
        "float32", {}, {"host": None, "device": None}, findings,
    )  # fmt: skip
    return Segmentation((layer,), volume.ijk_to_lps, findings), record


def main(log: str) -> int:
    """Work until the parent is gone."""
    send = _take_over_stdout()
    engine = Engine(lambda: BrightWorkshop(Path(log)), send)  # type: ignore[arg-type, return-value]
    threading.Thread(target=_listen, args=(engine,), daemon=True).start()
    return engine.work()


if __name__ == "__main__":
    os._exit(main(sys.argv[1]))
