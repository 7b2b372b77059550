"""From the queue to the engines and back: whose turn it is, what was answered, and what is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from MedicalSAM3Lib import result_files
from MedicalSAM3Lib.engine_port import ENDINGS, Answer, Engines, Order
from MedicalSAM3Lib.jobs import Job, Jobs, failure
from MedicalSAM3Lib.journal import Entry, Journal
from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.shelf import Shelf
from MedicalSAM3Lib.spool import Spool
from MedicalSAM3Lib.turns import Turns

logger = logging.getLogger("MedicalSAM3Lib.server")

OnEnd = Callable[[Job], None]


class Dispatcher:
    """Keeps the queue, and the engines busy."""

    def __init__(self, engines: Engines, jobs: Jobs, shelf: Shelf, spool: Spool, settings: ServerSettings) -> None:
        self._engines, self._jobs, self._shelf, self._spool = engines, jobs, shelf, spool
        self._journal = Journal(spool.journal)
        self.turns = Turns(settings.queue, settings.queue_per_client)
        self.on_end: OnEnd = lambda job: None

    def start(self) -> None:
        """Start the engines; their answers are heard in this event loop."""
        loop = asyncio.get_running_loop()

        def hear(answer: Answer) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(self.hear, answer)

        def change() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.pump)

        self._engines.start(hear, change)

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            Refused: 429 "queue_full", 507 "disk_full"; the job does not exist then.
        """
        self.turns.add(job.lane, job.job_id)
        try:
            self._journal.begin(Entry(job.job_id, job.kind, job.owner, job.created))
        except OSError as error:
            self.turns.remove(job.job_id)
            raise Refused(507, "disk_full", "Expected room on the server's disk, there is none; try later.") from error
        for old in self._jobs.add(job):
            self._spool.remove(old.out)
        if job.volume_id is not None:
            self._shelf.find(job.owner, job.volume_id).users += 1
        job.queue(self.positions()[job.job_id])
        self.pump()

    def positions(self) -> dict[str, int]:
        """Place of each waiting job, 0 for the next."""
        return self.turns.positions()

    def pump(self) -> None:
        """Give jobs to engines as long as there are both."""
        while (job_id := self.turns.first()) is not None:
            job = self._jobs.get(job_id)
            if job is None:  # cannot be, but must not stop the queue if it is
                self.turns.take()
                continue
            if not any(engine.state == "idle" for engine in self._engines.states()):
                return
            try:
                given = self._engines.give(self._order(job))
            except Refused as refused:
                self.turns.take()
                self._end(job, "failed", failure(refused.code, refused.message))
                continue
            if not given:
                return
            self.turns.take()
            job.start()
            self._tell_positions()

    def cancel(self, job: Job) -> None:
        """End a job: at once while it waits, else when its engine has let go of it."""
        if job.state == "queued" and self.turns.remove(job.job_id):
            self._end(job, "cancelled")
            self._tell_positions()
        elif job.state == "running":
            self._engines.cancel(job.job_id)

    def forget(self, job: Job) -> None:
        """Remove a job and its results, once it has ended; end it if it has not."""
        job.unwanted = True
        self.cancel(job)
        if job.has_ended:
            self._jobs.forget(job)
            self._spool.remove(job.out)

    def hear(self, answer: Answer) -> None:
        """Take in what an engine says; nothing is heard of a job that is over."""
        job = self._jobs.get(answer.job_id)
        if job is None or job.has_ended:
            return
        if answer.kind == "progress":
            job.advance(answer.data)
        elif answer.kind == "finding":
            job.find(int(answer.data["index"]), answer.data["finding"])
        elif answer.kind == "done":
            self._take_results(job, answer)
        elif answer.kind == "failed":
            self._end(job, "failed", failure(answer.data["code"], answer.data["message"]))
        else:
            self._end(job, "cancelled")
        if answer.kind in ENDINGS:
            self.pump()

    def close(self) -> bool:
        """End what has not ended; whether there was anything."""
        had_open = self._journal.has_open
        for job in self._jobs:
            if not job.has_ended:
                job.finish("failed", failure("server_stopped", "The server was stopped before the job had ended."))
        return had_open

    def _order(self, job: Job) -> Order:
        assert job.volume_id is not None
        volume = self._shelf.find(job.owner, job.volume_id)
        if job.out is None:
            job.out = self._spool.new_folder("job")
        return Order(
            job_id=job.job_id,
            kind="estimate" if job.kind == "estimate" else "segment",
            volume=volume.folder,
            volume_id=volume.volume_id,
            concepts=job.concepts,
            settings=job.settings,
            model=job.model,
            out=job.out,
        )

    def _take_results(self, job: Job, answer: Answer) -> None:
        if job.kind == "estimate":
            job.estimate = answer.data["estimate"]
            self._end(job, "done")
            return
        assert job.out is not None
        try:
            report = result_files.read_report(job.out)
            job.segments = result_files.read_segments(job.out)
            self._spool.settle(job.out)
        except Refused as refused:
            self._end(job, "failed", failure(refused.code, refused.message))
            return
        except (OSError, ValueError) as error:
            logger.error("results of a job cannot be read: %s", type(error).__name__)
            self._end(
                job, "failed", failure("results", "The results could not be kept; the disk may be full. Try again.")
            )
            return
        for index, finding in enumerate(report["findings"]):
            if index not in job.findings:
                job.find(index, finding)
            job.findings[index] = finding
        job.notices = list(answer.data.get("notices", report["run"]["notices"]))
        self._end(job, "done")

    def _end(self, job: Job, state: str, error: dict[str, str] | None = None) -> None:
        if state == "done":
            stage = job.progress["stage"]
            job.progress |= {"stage": stage, "done": job.progress["total"], "fraction": 1.0, "seconds_left": 0.0}
        else:
            self._spool.remove(job.out)
            job.out = None
        if job.volume_id is not None and (volume := self._shelf.peek(job.volume_id)) is not None:
            volume.users -= 1
        job.finish(state, error)  # type: ignore[arg-type]
        with contextlib.suppress(OSError):  # the disk is full: the next start will call the job unfinished, no worse
            self._journal.end(job.job_id)
        self.on_end(job)
        if job.unwanted:
            self.forget(job)

    def _tell_positions(self) -> None:
        for job_id, place in self.positions().items():
            job = self._jobs.get(job_id)
            if job is not None and job.events[-1].data.get("position") != place:
                job.queue(place)
