"""Jobs: what was asked for, how it stands, and the numbered events by which a client follows it.

All of it lives in the server's one event loop, so nothing here needs a lock. Durations are measured by the monotonic
clock; the clock on the wall is only written down.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from MedicalSAM3Lib import wire
from MedicalSAM3Lib.refusals import Refused, one_line, unknown

ENDED = ("done", "failed", "cancelled")
MOST_KEPT = 200
"""Ended jobs that are kept of an owner; the oldest go."""

_STEP = 0.01
"""Progress events of a stage are at least this part of it apart, so that a job's log is bounded."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job; ``number`` counts from 1."""

    number: int
    kind: str
    data: dict[str, Any]


@dataclass(slots=True)
class Job:
    """See ``wire.Job`` for the fields of the same names.

    Attributes:
        owner, lane: Whose it is, and whose turn it takes.
        out: Folder of its results.
        touched: Monotonic time (s) of the last look at it.
        unwanted: Forgotten as soon as it has ended.
        events: All that happened.
    """

    kind: wire.JobKind
    owner: str
    lane: str
    volume_id: str | None = None
    concepts: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = "auto"
    job_id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    state: wire.JobState = "queued"
    created: str = field(default_factory=lambda: now())
    started: str | None = None
    ended: str | None = None
    progress: dict[str, Any] = field(default_factory=lambda: progress_of({}))
    error: dict[str, str] | None = None
    notices: list[str] = field(default_factory=list)
    findings: dict[int, dict[str, Any]] = field(default_factory=dict)
    segments: list[dict[str, Any]] = field(default_factory=list)
    estimate: dict[str, Any] | None = None
    out: Path | None = None
    touched: float = field(default_factory=time.monotonic)
    unwanted: bool = False
    events: list[Event] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    def happened(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write an event down and wake those who wait for it."""
        self.events.append(Event(len(self.events) + 1, kind, dict(data)))
        self._news.set()
        self._news = asyncio.Event()

    def queue(self, position: int) -> None:
        """It waits; others come before it."""
        self.happened("queued", {"position": position})

    def start(self) -> None:
        """It runs."""
        self.state, self.started = "running", now()
        self.progress = progress_of({"stage": "starting"})
        self.happened("progress", self.progress)

    def advance(self, data: Mapping[str, Any]) -> None:
        """It came further; of steps too small to be seen no event is made."""
        self.progress = progress_of(data)
        told = self.events[-1].data if self.events and self.events[-1].kind == "progress" else {}
        done, total = self.progress["done"], self.progress["total"]
        is_small = done < total and abs(done - told.get("done", 0)) < _STEP * total
        if self.progress["stage"] != told.get("stage") or not is_small:
            self.happened("progress", self.progress)

    def find(self, index: int, finding: dict[str, Any]) -> None:
        """A concept has its answer."""
        self.findings[index] = finding
        self.happened("finding", {"index": index, "finding": finding})

    def finish(self, state: wire.JobState, error: dict[str, str] | None = None) -> None:
        """It is over; what comes later is not listened to."""
        self.state, self.ended, self.error = state, now(), error
        self.touched = time.monotonic()
        self.happened(state, error or {})

    async def follow(self, after: int, wait_s: float) -> AsyncIterator[Event | None]:
        """Events after a number, as they come, until the last; None whenever nothing came for ``wait_s``."""
        while True:
            news = self._news
            while after < len(self.events):
                yield self.events[after]
                after += 1
            if self.has_ended:
                return
            if news is not self._news:
                continue
            self.touched = time.monotonic()
            with suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(news.wait(), wait_s)
                continue
            yield None

    def to_wire(self, position: int | None) -> wire.Job:
        """As a client sees it."""
        return wire.Job(
            job_id=self.job_id,
            kind=self.kind,
            state=self.state,
            position=position if self.state == "queued" else None,
            volume_id=self.volume_id,
            concepts=list(self.concepts),
            settings=self.settings,
            model=self.model,
            progress=wire.JobProgress(**self.progress),
            created=self.created,
            started=self.started,
            ended=self.ended,
            error=None if self.error is None else wire.JobError(**self.error),
            notices=self.notices,
            findings=[wire.Finding(self.findings[index]) for index in sorted(self.findings)],
            segments=[wire.SegmentEntry.model_validate(entry) for entry in self.segments],
            estimate=self.estimate,
        )


class Jobs:
    """All jobs, of all owners."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job) -> list[Job]:
        """Take a job in; return older ones of its owner, ended, that it drove out."""
        self._jobs[job.job_id] = job
        ended = [one for one in self if one.owner == job.owner and one.has_ended]
        driven_out = ended[: max(0, len(ended) - MOST_KEPT)]
        for one in driven_out:
            self.forget(one)
        return driven_out

    def get(self, job_id: str) -> Job | None:
        """A job, whoever asks."""
        return self._jobs.get(job_id)

    def find(self, owner: str, job_id: str) -> Job:
        """A job of this owner.

        Raises:
            Refused: 404 "job".
        """
        job = self._jobs.get(job_id)
        if job is None or job.owner != owner:
            raise unknown("job")
        job.touched = time.monotonic()
        return job

    def of(self, owner: str) -> list[Job]:
        """All jobs of an owner, the newest first."""
        return [job for job in self if job.owner == owner][::-1]

    def forget(self, job: Job) -> None:
        """Take a job out."""
        self._jobs.pop(job.job_id, None)


def failure(code: str, message: str) -> dict[str, str]:
    """The error of a failed job."""
    return {"code": code, "message": one_line(message)}


def failure_of(refused: Refused) -> dict[str, str]:
    """The error of a job that was refused on its way."""
    return failure(refused.code, refused.message)


def progress_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Progress with every field; a fraction that is not told is that of the stage."""
    done, total = int(data.get("done", 0)), int(data.get("total", 0))
    fraction = data.get("fraction")
    part = (done / total if total else 0.0) if fraction is None else float(fraction)
    return {
        "stage": str(data.get("stage", "queued")),
        "done": done,
        "total": total,
        "fraction": min(1.0, max(0.0, part)),
        "seconds_left": data.get("seconds_left"),
    }


def now() -> str:
    """The time on the wall, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
