"""The names of jobs that did not end yet, so that a server that starts again can say what became of them.

A line of JSON each time a job is asked for, and one when it ends. No concept, no setting, no volume: only the job's
name, kind, owner and time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """A job that had not ended.

    Attributes:
        job_id, kind: Its own.
        owner: Name of the token that asked for it.
        created: ISO 8601.
    """

    job_id: str
    kind: str
    owner: str
    created: str


class Journal:
    """Appends to the journal of one session."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._open: set[str] = set()

    def begin(self, entry: Entry) -> None:
        """A job was asked for.

        Raises:
            OSError: The disk is full or refuses.
        """
        self._append(asdict(entry))
        self._open.add(entry.job_id)

    def end(self, job_id: str) -> None:
        """A job ended, well or not.

        Raises:
            OSError: The disk is full or refuses.
        """
        if job_id in self._open:
            self._open.discard(job_id)
            if self._open:
                self._append({"ended": job_id})
            else:
                self._file.unlink(missing_ok=True)

    @property
    def has_open(self) -> bool:
        """Whether a job has not ended."""
        return bool(self._open)

    def _append(self, line: dict[str, str]) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def unfinished(lines: Iterable[str]) -> list[Entry]:
    """The jobs that did not end, in the order in which they were asked for. A line that broke off is left out."""
    found: dict[str, Entry] = {}
    for line in lines:
        try:
            values = json.loads(line)
            if "ended" in values:
                found.pop(values["ended"], None)
            else:
                entry = Entry(**values)
                found[entry.job_id] = entry
        except (ValueError, TypeError):
            continue
    return list(found.values())
