"""Many clients at once, who upload, ask, cancel, lose connections and try what is not theirs; and what they saw."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.errors import Busy, Cancelled, JobFailed, NotThere, ServerError

CONCEPTS = ("liver", "spleen", "left kidney", "right kidney", "stomach", "aorta")
SETTINGS = {"mode": "detect"}
SHAPE_KJI = (2, 64, 64)
CANCEL_SHARE, AGAIN_SHARE, KEEP_SHARE = 0.2, 0.2, 0.05
"""Of the jobs: cancelled; asked for twice under one key; not removed by their client."""


@dataclass
class Seen:
    """What all clients saw together; every one of ``faults`` is a fault of the server.

    Attributes:
        ends: State to number of jobs.
        faults: What must not be, by name.
        job_ids: All jobs, of which none may come twice.
        seconds: Of each job, from asking to its end.
    """

    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    job_ids: set[str] = field(default_factory=set)
    seconds: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, job_id: str) -> None:
        """A new job was asked for."""
        with self.lock:
            if job_id in self.job_ids:
                self.faults["one job for two questions"] += 1
            self.job_ids.add(job_id)

    def ended(self, state: str, seconds: float) -> None:
        """A job has ended."""
        with self.lock:
            self.ends[state] += 1
            self.seconds.append(seconds)

    def fault(self, what: str) -> None:
        """Something that must not be."""
        with self.lock:
            self.faults[what] += 1


class LoadClient(threading.Thread):
    """One client, until it is time to end.

    Args:
        number: Its own; its volumes differ from those of all others.
        client: With a token of its own.
        seen: Told of everything.
        until: Monotonic time (s).
    """

    def __init__(self, number: int, client: Client, seen: Seen, until: float) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self._client, self._seen, self._until = client, seen, until
        self._random = random.Random(number)
        self._array = np.random.default_rng(number).normal(40.0, 300.0, SHAPE_KJI).astype(np.float32)

    def run(self) -> None:
        """Ask until the time is over."""
        round_number = 0
        while time.monotonic() < self._until:
            try:
                volume = self._client.upload(self._array + np.float32(round_number // 5), np.eye(4), modality="CT")
                self._ask(volume["volume_id"])
                self._try_what_is_not_mine()
            except Busy:
                self._seen.ends["refused: full"] += 1
            except ServerError as error:
                self._seen.fault(f"{type(error).__name__} {error.code}")
            except Exception as error:
                self._seen.fault(type(error).__name__)
            round_number += 1

    def _ask(self, volume_id: str) -> None:
        client, chance = self._client, self._random.random
        concepts, key = self._random.sample(CONCEPTS, 2), f"{self.name} {self._random.getrandbits(64)}"
        start = time.monotonic()
        job_id = client.submit(volume_id, concepts, SETTINGS, key=key)["job_id"]
        self._seen.asked(job_id)
        if chance() < AGAIN_SHARE and client.submit(volume_id, concepts, SETTINGS, key=key)["job_id"] != job_id:
            self._seen.fault("a second job under the key of the first")
        if chance() < CANCEL_SHARE:
            time.sleep(0.2 * chance())
            client.cancel(job_id)
        state = self._wait(job_id)
        self._seen.ended(state, time.monotonic() - start)
        if state == "done":
            self._check_results(job_id, concepts)
        if chance() > KEEP_SHARE:
            client.forget(job_id)

    def _wait(self, job_id: str) -> str:
        numbers: list[int] = []
        try:
            self._client.wait(job_id, lambda event: numbers.append(event.number))
        except Cancelled:
            return "cancelled"
        except JobFailed as error:
            self._seen.fault(f"job failed: {error.code}")
            return "failed"
        finally:
            if numbers != list(range(1, len(numbers) + 1)):
                self._seen.fault("events lost or twice")
        return "done"

    def _check_results(self, job_id: str, concepts: Sequence[str]) -> None:
        report = self._client.report(job_id)
        if [finding["phrase"] for finding in report["findings"]] != list(concepts):
            self._seen.fault("answers to another question")
        for segment, mask in self._client.masks(job_id):
            if int(mask.sum()) != segment["voxels"]:
                self._seen.fault("a mask of another size")

    def _try_what_is_not_mine(self) -> None:
        with self._seen.lock:
            others = list(self._seen.job_ids)
        job_id = self._random.choice(others)
        try:
            concerned = self._client.job(job_id)
        except NotThere:
            return
        own = {job["job_id"] for job in self._client.jobs()}
        if concerned["job_id"] not in own:
            self._seen.fault("a job served to another token")
