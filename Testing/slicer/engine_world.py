"""The real server over a real socket in this process, with engines that find what the test says, when it says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import uvicorn

from MedicalSAM3Lib import result_files, serving, volume_files
from MedicalSAM3Lib.concepts import colour_of, find_concept
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.engine_port import Answer, Order
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord
from MedicalSAM3Lib.structures import Codes, Finding, ObjectPart, Segmentation, Volume
from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import settings_of, work_here

VALUES = {"liver": (1,), "spleen": (2,), "rib": (3, 4), "left kidney": (5,), "zorp": (6,), "trunk": (1, 2)}
"""What a phrase finds: the voxels of these values, each an object of its own. All other phrases find nothing."""

LOOKS = 2000


class KnownEngines(FakeEngines):
    """Engines that find values of voxels."""

    def finish(self, job_id: str) -> None:
        """Finish an order with what ``VALUES`` says."""
        order = next(order for order in self.running.values() if order.job_id == job_id)
        if order.kind == "estimate":
            told = {"seconds": 95.0, "host_more_mb": 3000.0, "host_free_mb": 2000.0, "device_peak_mb": None}
            self._end(job_id, Answer(job_id, "done", {"estimate": told | {"device": "cpu"}}))
            return
        write(order)
        self._end(job_id, Answer(job_id, "done", {"notices": ["The engine was slow today."]}))


def write(order: Order) -> None:
    """The results of an order, as an engine would write them."""
    volume = volume_files.load(order.volume, order.volume_id)
    array = np.asarray(volume.array)
    array = array[..., 0] if array.ndim == 4 else array
    region = np.zeros(array.shape, dtype=bool)
    i0, i1, j0, j1, k0, k1 = order.settings["roi"] or (0, 9999) * 3
    region[k0:k1, j0:j1, i0:i1] = True
    layers, findings = [], []
    for phrase in order.concepts:
        finding, layer = find(phrase, array * region, len(layers), volume, order.settings["instances"])
        findings.append(finding)
        layers += [] if layer is None else [layer]
    layers = layers or [np.zeros(array.shape, np.uint16)]
    record = RunRecord(
        input=InputRecord.of(volume), model=ModelRecord("known", "abc" * 20, True, ""),
        settings=SegmentSettings.model_validate(order.settings), axis=2, slices=array.shape[0], device="cpu",
        dtype="float32", timings_s={}, peak_memory_mb={"host": 1.0, "device": None}, findings=tuple(findings),
    )  # fmt: skip
    result_files.write_results(order.out, Segmentation(tuple(layers), volume.ijk_to_lps, tuple(findings)), record)


def find(phrase: str, array: np.ndarray, layer: int, volume: Volume, apart: bool) -> tuple[Finding, np.ndarray | None]:
    """The answer to a phrase, and its layer of labels."""
    values = [value for value in VALUES.get(phrase.casefold(), ()) if (array == value).any()]
    if not values:
        return Finding(phrase, "not_found", reason="Its presence is 0.04, below 0.50.", presence=0.04), None
    labels = np.zeros(array.shape, np.uint16)
    for label, value in enumerate(values, start=1):
        labels[array == value] = label if apart else 1
    concept, voxels = find_concept(phrase), int((labels > 0).sum())
    finding = Finding(
        phrase, "found", presence=0.98, confidence=0.9, voxels=voxels, volume_ml=voxels * volume.voxel_ml,
        slice_range=(0, 1), review_slices=(1,), instances=len(values), colour=colour_of(phrase),
        codes=concept.codes if concept else Codes(), layer=layer, label=1,
    )  # fmt: skip
    if apart:
        sizes = [int((labels == label).sum()) for label in range(1, len(values) + 1)]
        parts = [ObjectPart(label, size, 0.1, (0, 1), 0.9) for label, size in enumerate(sizes, start=1)]
        finding = replace(finding, objects=tuple(parts))
    return finding, labels


class World:
    """A running server.

    Attributes:
        engines: With ``at_once`` they answer by themselves, else when ``finish`` is called.
        url: Its address.
        requests: "METHOD path" of each request so far.
    """

    def __init__(self, engines: KnownEngines, requests: list[str]) -> None:
        self.engines, self.requests, self.url = engines, requests, ""
        self.server: uvicorn.Server | None = None

    def soon(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Have something done in the server's thread."""
        self.engines.loop.call_soon_threadsafe(lambda: call(*arguments, **named))

    def order(self) -> Order:
        """The order that an engine holds, once it does."""
        until(lambda: self.engines.running)
        return next(iter(self.engines.running.values()))

    def finish(self) -> None:
        """Let the engine finish what it holds."""
        self.soon(self.engines.finish, self.order().job_id)

    def sent(self) -> int:
        """How many pieces of volumes were sent."""
        return sum(request.startswith("PUT /v1/uploads") for request in self.requests)


@contextmanager
def serving_world(root: Path, *, at_once: bool = True, **settings: Any) -> Iterator[World]:
    """Run a server for as long as the context lasts."""
    import asyncio

    engines = KnownEngines(at_once=at_once)
    requests: list[str] = []
    world = World(engines, requests)
    before = engines.start

    def start(on_answer: Any, on_change: Any) -> None:
        engines.loop = asyncio.get_running_loop()
        before(on_answer, on_change)

    engines.start = start  # type: ignore[method-assign]
    made = settings_of(root, port=0, **settings)
    opened = serving.listen(made)
    world.url = f"http://127.0.0.1:{opened.getsockname()[1]}"

    def attach(server: uvicorn.Server) -> None:
        world.server = server
        inner = server.config.app

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                requests.append(f"{scope['method']} {scope['path']}")
            await inner(scope, receive, send)  # type: ignore[operator]

        server.config.app = noted

    with mock.patch("MedicalSAM3Lib.children.run_child", work_here):
        run = {"sockets": [opened], "on_server": attach}
        thread = threading.Thread(target=serving.serve, args=(made, engines), kwargs=run)
        thread.start()
        try:
            until(lambda: world.server is not None and world.server.started)
            yield world
        finally:
            assert world.server is not None
            world.server.should_exit = True
            thread.join()


def until(holds: Callable[[], Any]) -> None:
    """Wait for something that comes; looks are counted, not seconds."""
    for _ in range(LOOKS):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")
