"""Whose job is next: clients take turns, so that nobody waits for all jobs of another."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from MedicalSAM3Lib.refusals import Refused


class Turns:
    """A bounded queue of job ids in lanes, one lane a client; the lanes are served in rotation.

    Within a lane the order is that of asking. A lane that was just served, or is new, stands last.
    """

    def __init__(self, most: int, most_per_lane: int) -> None:
        self._most, self._most_per_lane = most, most_per_lane
        self._lanes: OrderedDict[str, deque[str]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, lane: str, job_id: str) -> None:
        """Queue a job.

        Raises:
            Refused: 429 "queue_full"; nothing was queued.
        """
        waiting = self._lanes.get(lane, ())
        if self._size >= self._most or len(waiting) >= self._most_per_lane:
            raise Refused(
                429,
                "queue_full",
                f"Expected at most {self._most} waiting jobs and {self._most_per_lane} of one client, got one more; "
                "wait for one of them to end.",
            )
        self._lanes.setdefault(lane, deque()).append(job_id)
        self._size += 1

    def first(self) -> str | None:
        """The job that is next, left where it is."""
        return next(iter(self._lanes.values()))[0] if self._lanes else None

    def take(self) -> str:
        """Take the job that is next; its lane goes to the end.

        Raises:
            LookupError: There is none.
        """
        lane, waiting = self._lanes.popitem(last=False)
        job_id = waiting.popleft()
        if waiting:
            self._lanes[lane] = waiting
        self._size -= 1
        return job_id

    def remove(self, job_id: str) -> bool:
        """Take a job out; whether it was there."""
        for lane, waiting in self._lanes.items():
            if job_id in waiting:
                waiting.remove(job_id)
                if not waiting:
                    del self._lanes[lane]
                self._size -= 1
                return True
        return False

    def order(self) -> Iterator[str]:
        """All jobs in the order in which they will be taken if nobody comes or goes."""
        lanes = [deque(waiting) for waiting in self._lanes.values()]
        while lanes:
            for waiting in lanes:
                yield waiting.popleft()
            lanes = [waiting for waiting in lanes if waiting]

    def positions(self) -> dict[str, int]:
        """Place of each job, 0 for the next."""
        return {job_id: place for place, job_id in enumerate(self.order())}
