"""An engine inside a Ray worker: what hears and what speaks. Knows neither Ray nor, until it works, torch."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.engine import BEAT_S, Engine
from MedicalSAM3Lib.engine_port import ENDINGS
from MedicalSAM3Lib.structures import Volume

if TYPE_CHECKING:
    from MedicalSAM3Lib.engine_process import EngineOptions
    from MedicalSAM3Lib.engine_work import Workshop

Parcels = dict[str, Any]
"""Job id to what came with its order (a volume) or goes with its end (segmentation and record)."""

MakeWorkshop = Callable[[str, "EngineOptions", Parcels, Parcels], "Workshop"]


class Worker:
    """The messages are those of ``engine``; a volume comes beside its order, results go beside "done".

    Nothing is written: a volume and results lie in memory until the order has ended.

    Args:
        device: As in ``EngineOptions``.
        options: The server's.
        make_workshop: Called in the thread that works.
        leave: Ends this process with a code: the device is lost.
    """

    def __init__(
        self,
        device: str,
        options: EngineOptions,
        make_workshop: MakeWorkshop | None = None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        make = make_workshop or _make_workshop
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        self._volumes: Parcels = {}
        self._results: Parcels = {}
        self._engine = Engine(lambda: make(device, options, self._volumes, self._results), self._say)
        self._leave = leave
        self._say({"version": __version__})
        threading.Thread(target=self._work, name="work", daemon=True).start()

    def hear(self, message: dict[str, Any], array: np.ndarray | None = None) -> None:
        """Take a message; with an order come the facts of its volume, and its voxels as ``array``."""
        if "order" in message:
            assert array is not None
            order, facts = message["order"], message["volume"]
            self._volumes[order["job_id"]] = Volume(
                array, np.array(facts["ijk_to_lps"]), facts["modality"], facts["is_2d"], order["volume_id"]
            )
        self._engine.hear(message)

    def take(self) -> list[dict[str, Any]]:
        """What was said since the last call; after a while without a word, nothing, which says that it lives."""
        try:
            said = [self._said.get(timeout=BEAT_S)]
        except queue.Empty:
            return []
        while not self._said.empty():
            said.append(self._said.get())
        return said

    def _say(self, message: dict[str, Any]) -> None:
        answer = message.get("answer")
        if answer is not None and answer["kind"] in ENDINGS:
            self._volumes.pop(answer["job_id"], None)
            message = message | {"results": self._results.pop(answer["job_id"], None)}
        self._said.put(message)

    def _work(self) -> None:
        try:
            code = self._engine.work()
        except BaseException:
            self._leave(1)
            raise
        if code:
            self._leave(code)


def _make_workshop(device: str, options: EngineOptions, volumes: Parcels, results: Parcels) -> Workshop:
    import torch

    from MedicalSAM3Lib.ray_work import RayWorkshop

    if options.threads:
        torch.set_num_threads(options.threads)
    return RayWorkshop(device, options, volumes, results)
