"""The parts of a running server, how they start, what is cleared away, and how they end."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path

from MedicalSAM3Lib.dispatch import Dispatcher
from MedicalSAM3Lib.engine_port import Engines
from MedicalSAM3Lib.idempotency import Keys
from MedicalSAM3Lib.jobs import Job, Jobs, failure
from MedicalSAM3Lib.journal import unfinished
from MedicalSAM3Lib.model_keeper import ModelKeeper
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.server_metrics import Metrics
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.shelf import Shelf
from MedicalSAM3Lib.spool import Spool
from MedicalSAM3Lib.uploads import Uploads

logger = logging.getLogger("MedicalSAM3Lib.server")

MODEL_KINDS = ("download", "verify", "remove")
_TIDY_EVERY_S = 30.0


class Front:
    """All that the routes work on. Lives in one event loop."""

    def __init__(self, settings: ServerSettings, engines: Engines, spool: Spool | None = None) -> None:
        """Put the parts together; nothing runs yet.

        Raises:
            OutputError: The spool cannot be used.
        """
        self.settings, self.engines = settings, engines
        self.spool = spool or Spool(settings.spool or default_spool(), settings.spool_bytes)
        self.uploads = Uploads(self.spool, settings)
        self.shelf = Shelf(self.spool, settings)
        self.jobs = Jobs()
        self.keys = Keys()
        self.models = ModelKeeper(self.jobs)
        self.dispatcher = Dispatcher(engines, self.jobs, self.shelf, self.spool, settings)
        self.metrics = Metrics(self.dispatcher.turns, engines, self.spool)
        self.dispatcher.on_end = self.metrics.count_job
        self._dropping = asyncio.Lock()
        self._tidying: asyncio.Task[None] | None = None
        self._bury_left_behind()

    async def start(self) -> None:
        """Start the engines and the clearing away."""
        self.dispatcher.start()
        self._tidying = asyncio.create_task(self._keep_tidy())

    async def stop(self) -> None:
        """End everything; nothing of a client stays on the disk."""
        if self._tidying is not None:
            self._tidying.cancel()
            with suppress(asyncio.CancelledError):
                await self._tidying
        await self.models.close()
        had_open = self.dispatcher.close()
        await asyncio.to_thread(self.engines.stop)
        self.spool.close(keep_journal=had_open)

    def cancel(self, job: Job) -> None:
        """End a job, of whatever kind."""
        (self.models if job.kind in MODEL_KINDS else self.dispatcher).cancel(job)

    def forget(self, job: Job) -> None:
        """End a job and remove it."""
        if job.kind in MODEL_KINDS:
            self.models.cancel(job)
            self.jobs.forget(job)
        else:
            self.dispatcher.forget(job)

    async def drop_features(self, volumes: list[Path] | None) -> int:
        """See ``Engines``. One at a time: it may wait for an engine, and must not keep all threads waiting."""
        async with self._dropping:
            return await asyncio.to_thread(self.engines.drop_features, volumes)

    def tidy(self, now: float) -> None:
        """Remove what nobody has used for ``idle_s``.

        Args:
            now: Monotonic time, in seconds.
        """
        oldest = now - self.settings.idle_s
        for upload in self.uploads:
            if upload.touched < oldest:
                self.uploads.discard(upload)
        for job in self.jobs:
            if job.has_ended and job.touched < oldest:
                self.forget(job)
        for volume in self.shelf:
            if volume.touched < oldest:
                with suppress(Refused):  # a job needs it: some other time
                    self.shelf.remove(volume)
        self.keys.forget_before(oldest)

    async def _keep_tidy(self) -> None:
        while True:
            await asyncio.sleep(min(_TIDY_EVERY_S, self.settings.idle_s))
            try:
                self.tidy(time.monotonic())
            except Exception as error:  # must go on: what it clears away is patients' data
                logger.error("clearing away failed: %s", type(error).__name__)

    def _bury_left_behind(self) -> None:
        """Jobs that an earlier server did not end are failed ones, with a reason, for whoever still asks."""
        for entry in unfinished(self.spool.left_behind):
            job = Job(kind="segment", owner=entry.owner, lane="", job_id=entry.job_id, created=entry.created)
            message = "The server was restarted before the job had ended; ask for it again."
            job.finish("failed", failure("server_restarted", message))
            self.jobs.add(job)


def default_spool() -> Path:
    """The system's place for such data, of this user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("medical-sam3", appauthor=False)) / "server"
