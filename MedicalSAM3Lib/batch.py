"""A batch: many cases, each read, segmented and written, all at the same time, each exactly once.

cases      -> read       a thread each: hash; what is done is skipped; else the image becomes a volume folder
read       -> segment    an engine each (``engine_port.Engines``: a child process a device, or whatever implements it)
segment    -> write      a thread each: files, pictures, and the rename that makes the case done

A case has a place from when it is read until it is written, and there are few places: that bounds memory and disk,
however many cases there are. What fails fails alone. No torch.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from MedicalSAM3Lib.batch_cases import Case
from MedicalSAM3Lib.batch_files import mark, read_case, write_case
from MedicalSAM3Lib.batch_job import Job, Outcome, Plan, State, explain, now, record_of
from MedicalSAM3Lib.batch_state import SEGMENTED, BatchFolder, fingerprint, input_hash
from MedicalSAM3Lib.engine_port import Answer, Engines, Order
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, RunError

PLACES_PER_ENGINE = 3
"""One is read, one is with the engine, one is written."""
MOST_STARTS = 3
"""Engines that end as often before any was ready will not come."""
MOST_TRIES = 2
"""A case whose engine died is tried once more: perhaps it was not the case."""
OTHER_WEIGHTS = (
    "Expected the weights that the run began with, got others: the model was exchanged meanwhile, or another host has "
    "one of the same name. Copy the same model to all hosts and run it again."
)
ENDS_ALL = ("weights", "disk_full")
"""What would fail every other case, too."""


class Batch:
    """One run over many cases.

    Args:
        folder: Opened.
        engines: Not yet started.
        plan: What is asked.
        on_outcome: Called from any thread, one call at a time, once a case.
    """

    def __init__(
        self, folder: BatchFolder, engines: Engines, plan: Plan, on_outcome: Callable[[Outcome], None]
    ) -> None:
        self._folder, self._engines, self._plan, self._on_outcome = folder, engines, plan, on_outcome
        self._state = threading.Condition(threading.RLock())
        self._ready: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._alive = self._workers = self._starts = 0
        self._fatal: MedicalSAM3Error | None = None
        self._is_started = self._stopping = False
        self._writers: Executor

    def run(self, cases: Sequence[Case]) -> None:
        """Work through all cases; return when each has its outcome.

        Raises:
            RunError: Something that concerns all cases: the model cannot be loaded, the disk is full.
        """
        n = self._workers = len(self._engines.states())
        with ThreadPoolExecutor(n, "read") as readers, ThreadPoolExecutor(n, "write") as self._writers:
            try:
                for case in cases:
                    self._wait_until(lambda: self._alive < PLACES_PER_ENGINE * n)
                    with self._state:
                        self._alive += 1
                    readers.submit(self._guarded, self._read, Job(case, now()))
                self._wait_until(lambda: self._alive == 0)
            finally:
                self._stopping = True
                self._engines.stop()

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        with self._state:
            while not is_so() and self._fatal is None:
                self._state.wait(0.5)  # not for ever, so that Ctrl-C is heard on every system
            if self._fatal is not None:
                raise self._fatal

    def _guarded(self, stage: Callable[[Job], None], job: Job) -> None:
        """Do a stage; whatever happens in it concerns this case alone."""
        if self._stopping:
            return
        try:
            stage(job)
        except Exception as error:
            self._failed(job, *explain(error))

    def _read(self, job: Job) -> None:
        """Skip what is done; else get the case ready for an engine, or for writing where that is all that is left."""
        case, plan, start = job.case, self._plan, time.perf_counter()
        if case.problem:
            raise InputError(case.problem)
        job.input_sha256 = input_hash(case)
        job.key = fingerprint(job.input_sha256, case, plan.settings, plan.weights_hash)
        before = self._folder.failure(case.case_id, job.key)
        if before is not None and not plan.retry_failed:
            return self._end(job, Outcome(case.case_id, "failed_before", before["reason"]))
        if before is None and self._folder.is_done(case.case_id, job.key):
            return self._end(job, Outcome(case.case_id, "skipped"))
        job.folder, is_segmented = self._folder.work_folder(job.key, case.case_id)
        if is_segmented:
            kept = json.loads((job.folder / SEGMENTED).read_text(encoding="utf-8"))
            job.notices, job.seconds = kept["notices"], kept["seconds"]
            return self._write(job)
        self._start_engines()
        job.notices = read_case(case, job.folder / "volume")
        job.seconds["read"] = round(time.perf_counter() - start, 3)
        with self._state:
            self._ready.append(job)
        self._feed()
        return None

    def _start_engines(self) -> None:
        """For the first case that needs one, so that a run which finds all done loads no model."""
        with self._state:
            if not self._is_started and not self._stopping:
                self._is_started = True
                self._engines.start(self._heard, self._changed)

    def _changed(self) -> None:
        """An engine is ready, free or gone; where none ever gets ready, the batch ends."""
        states = {engine.state for engine in self._engines.states()}
        with self._state:
            if states == {"dead"} and not self._stopping:
                self._starts += 1
                if self._starts >= MOST_STARTS:
                    self._end_all(
                        RunError("Expected an engine to start, but each ended; see what medsam3 doctor says.")
                    )
            elif states & {"idle", "busy"}:
                self._starts = 0
        self._feed()

    def _feed(self) -> None:
        """Give what is ready to engines that are free. No more is given than there are engines, also for the moment
        in which one is free and its last answer is not yet on disk: a kill costs a case an engine."""
        with self._state:
            while self._ready and not self._stopping and len(self._running) < self._workers:
                job, job_id = self._ready[0], uuid.uuid4().hex
                self._running[job_id] = job
                job.given_s = time.perf_counter()
                if not self._engines.give(self._order(job, job_id)):
                    del self._running[job_id]
                    return
                self._ready.popleft()

    def _order(self, job: Job, job_id: str) -> Order:
        settings = self._plan.settings.model_dump(mode="json")
        volume, out = job.folder / "volume", job.folder / "results"
        return Order(job_id, "segment", volume, job.case.case_id, job.case.concepts, settings, self._plan.model, out)

    def _heard(self, answer: Answer) -> None:
        """An engine has something to say."""
        with self._state:
            if self._stopping or answer.kind not in ("done", "failed"):
                return
            job = self._running.pop(answer.job_id)
            if answer.kind == "done":
                job.seconds["segment"] = round(time.perf_counter() - job.given_s, 3)
                try:
                    mark(job.folder / SEGMENTED, {"notices": job.notices, "seconds": job.seconds})
                except MedicalSAM3Error as error:
                    return self._failed(job, *explain(error))
                self._writers.submit(self._guarded, self._write, job)
                return None
        job.tries += 1
        code, message = answer.data["code"], answer.data["message"]
        if code != "engine_died" or job.tries >= MOST_TRIES:
            return self._failed(job, code, message)
        self._guarded(self._read, job)
        return None

    def _write(self, job: Job) -> None:
        start = time.perf_counter()
        new, report = write_case(job.folder, job.case.case_id, job.notices)
        if self._plan.report_hash not in ("", report["model"]["weights_hash"]):
            return self._end_all(RunError(OTHER_WEIGHTS))
        failed = [finding for finding in report["findings"] if finding["state"] == "failed"]
        job.seconds["write"] = round(time.perf_counter() - start, 3)
        state: State = "incomplete" if failed else "done"
        reason = f"{failed[0]['phrase']}: {failed[0]['reason']}" if failed else ""
        self._folder.keep(new, record_of(job, self._plan, state, "concept" if failed else "", reason, report))
        self._engines.drop_features([job.folder / "volume"])
        self._end(job, Outcome(job.case.case_id, state, reason))
        return None

    def _failed(self, job: Job, code: str, message: str) -> None:
        for file in job.case.files[:1]:  # a message may name the file, and that its patient
            message = message.replace(str(file), job.case.case_id).replace(file.name, job.case.case_id)
        if code in ENDS_ALL:
            return self._end_all(RunError(message))
        try:
            self._folder.keep_failure(record_of(job, self._plan, "failed", code, message))
        except MedicalSAM3Error as error:  # a folder that takes no line takes no result either
            return self._end_all(error)
        self._end(job, Outcome(job.case.case_id, "failed", message))
        return None

    def _end_all(self, error: MedicalSAM3Error) -> None:
        """What happened concerns all cases."""
        with self._state:
            self._fatal = error
            self._state.notify_all()

    def _end(self, job: Job, outcome: Outcome) -> None:
        """The case gives its place back."""
        self._folder.remove_work(job.folder)
        with self._state:
            self._on_outcome(outcome)
            self._alive -= 1
            self._state.notify_all()
