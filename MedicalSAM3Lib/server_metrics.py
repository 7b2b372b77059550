"""The numbers at ``/metrics``, for Prometheus. Labels are routes and kinds, never a name of anything."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from MedicalSAM3Lib.engine_port import Engines
from MedicalSAM3Lib.guard import App, Message, Receive, Scope, Send
from MedicalSAM3Lib.spool import Spool
from MedicalSAM3Lib.turns import Turns

if TYPE_CHECKING:
    from MedicalSAM3Lib.jobs import Job

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_STATES = ("starting", "idle", "busy", "dead")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)


class Metrics:
    """Counters of one server; each has a registry of its own, so that several may live in a process."""

    def __init__(self, turns: Turns, engines: Engines, spool: Spool) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "medsam3_requests", "Requests answered.", ("route", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "medsam3_request_seconds", "Time until the reply began.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.jobs = Counter("medsam3_jobs", "Jobs that ended.", ("kind", "state"), registry=registry)
        self.received = Counter("medsam3_received_bytes", "Bytes of files received.", registry=registry)
        registry.register(_Now(turns, engines, spool))

    def count_job(self, job: Job) -> None:
        """A job has ended."""
        self.jobs.labels(job.kind, job.state).inc()

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is looked at when it is asked for."""

    def __init__(self, turns: Turns, engines: Engines, spool: Spool) -> None:
        self._turns, self._engines, self._spool = turns, engines, spool

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("medsam3_waiting_jobs", "Jobs in the queue.", value=len(self._turns))
        yield GaugeMetricFamily("medsam3_spool_bytes", "Set aside on the disk.", value=self._spool.promised_bytes)
        engines = GaugeMetricFamily("medsam3_engines", "Engines by state.", labels=["state"])
        states = [str(engine.state) for engine in self._engines.states()]
        for state in _STATES:
            engines.add_metric([state], states.count(state))
        yield engines


class Meter:
    """Wraps the application: counts and times what it answers, also what the guard refuses."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(route, method, message["status"]).inc()
                self._metrics.seconds.labels(route).observe(time.perf_counter() - begin)
            await send(message)

        await self._app(scope, receive, measured)
