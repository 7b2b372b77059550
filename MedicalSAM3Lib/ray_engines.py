"""Engines on the hosts of a Ray cluster, watched by the same supervisor as those of this machine. No torch, no Ray.

Ray Core's actors, not Ray Serve's replicas: an actor ends with the server that made it, however that ended, and with
it all that it knows of patients; Serve's applications stay in the cluster until somebody removes them. The supervisor
gives an order to the engine that has the volume's features, ends the one that hangs, and keeps the queue; Serve chooses
a replica by itself, and what it would add (an HTTP proxy, a second queue, autoscaling) would stand beside ours. It also
brings two dozen packages, one of them under the GPL.

A volume travels by content through Ray's object store, and results come back the same way; this side writes them.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from MedicalSAM3Lib import __version__, result_files, volume_files
from MedicalSAM3Lib.engine import order_from
from MedicalSAM3Lib.engine_port import ENDINGS, Order
from MedicalSAM3Lib.engine_process import EngineOptions, OnMessage
from MedicalSAM3Lib.engines import WatchedEngines
from MedicalSAM3Lib.errors import MedicalSAM3Error

logger = logging.getLogger("MedicalSAM3Lib.server")

_PATIENCE_S = 10.0

NOT_KEPT = {"code": "results", "message": "The results could not be kept; the disk may be full. Try again."}
NOT_SENT = {"code": "internal", "message": "The volume could not be sent to the engine. Upload it again and try again."}


class EngineGoneError(Exception):
    """A remote engine has ended."""


class Remote(Protocol):
    """A ``ray_worker.Worker`` somewhere else. Every method raises ``EngineGoneError`` once it has ended."""

    def hear(self, message: dict[str, Any], array: np.ndarray | None = None) -> None:
        """As ``Worker.hear``; may return before it was heard."""
        ...

    def take(self) -> list[dict[str, Any]]:
        """As ``Worker.take``."""
        ...

    def kill(self) -> None:
        """End it at once; never raises."""
        ...


class Cluster(Protocol):
    """Where remote engines run."""

    devices: tuple[str, ...]
    """One engine each."""

    def start(self, device: str) -> Remote:
        """Ask for a worker; it may begin later."""
        ...

    def close(self) -> None:
        """Leave the cluster, and end it if it was started for this server."""
        ...


class RayEngines(WatchedEngines):
    """Engines in a cluster."""

    def __init__(self, cluster: Cluster, options: EngineOptions) -> None:
        self._cluster = cluster
        super().__init__(cluster.devices, lambda device, *heard: RemoteEngine(cluster.start(device), *heard))

    def stop(self) -> None:
        """As ``Engines.stop``."""
        super().stop()
        self._cluster.close()


class RemoteEngine:
    """One remote engine as the supervisor sees it: an ``EngineLink``.

    Two threads, for a volume may take seconds to send, and answers are heard meanwhile.
    """

    pid = 0

    def __init__(self, remote: Remote, on_message: OnMessage, on_end: Callable[[int], None]) -> None:
        self._remote, self._on_message, self._on_end = remote, on_message, on_end
        self._out: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._orders: dict[str, Order] = {}
        self._is_ending = False
        self._reader = threading.Thread(target=self._read, name="engine", daemon=True)
        self._reader.start()
        threading.Thread(target=self._write, name="engine orders", daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """As ``EngineLink.send``."""
        self._out.put(message)

    def kill(self) -> None:
        """As ``EngineLink.kill``."""
        self._remote.kill()

    def end(self) -> None:
        """As ``EngineLink.end``."""
        self._is_ending = True
        self._remote.kill()
        self._reader.join(_PATIENCE_S)

    def _write(self) -> None:
        while (message := self._out.get()) is not None:
            try:
                if "order" in message:
                    self._send_order(message)
                else:
                    self._remote.hear(message)
            except EngineGoneError:  # what reads hears of it too, and tells
                return

    def _send_order(self, message: dict[str, Any]) -> None:
        order = order_from(message["order"])
        self._orders[order.job_id] = order
        try:
            facts = volume_files.facts_of(order.volume)
            array = np.load(order.volume / volume_files.ARRAY, mmap_mode="r", allow_pickle=False)
            self._remote.hear(message | {"volume": facts}, array)
        except (OSError, ValueError) as error:
            logger.error("a volume cannot be sent: %s", type(error).__name__)
            self._hear({"answer": {"job_id": order.job_id, "kind": "failed", "data": dict(NOT_SENT)}})

    def _read(self) -> None:
        try:
            while True:
                for message in self._remote.take() or [{"beat": 0}]:
                    self._hear(message)
        except EngineGoneError as gone:
            if not self._is_ending:
                logger.warning("an engine of the cluster has ended: %s", gone)
        self._out.put(None)
        self._on_end(1)

    def _hear(self, message: dict[str, Any]) -> None:
        if message.get("version", __version__) != __version__:
            logger.error(
                "Expected MedicalSAM3 %s on all hosts, got %s on one; install the same there.",
                __version__, message["version"],
            )  # fmt: skip
            self._remote.kill()
        results = message.pop("results", None)
        answer = message.get("answer", {})
        if "results" in message or answer.get("kind") in ENDINGS:
            order = self._orders.pop(answer["job_id"], None)
            if order is not None and results is not None and answer["kind"] == "done":
                try:
                    result_files.write_results(order.out, *results)
                except (OSError, MedicalSAM3Error) as error:
                    logger.error("results of a job cannot be written: %s", type(error).__name__)
                    message = {"answer": {"job_id": order.job_id, "kind": "failed", "data": dict(NOT_KEPT)}}
        self._on_message(message)
