"""Several volumes, one after the other, with a state for each and a table in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .outcome import Outcome
from .task import Task


@dataclass
class BatchEntry:
    """A volume of a batch.

    Attributes:
        name: Of the volume, for the table of the panel.
        state: "waiting", "running", "done", "failed" or "cancelled".
        outcomes: One for each concept once it is done.
        segmentationNode: Where the segments are.
        error: A sentence where it failed.
    """

    name: str
    state: str = "waiting"
    outcomes: tuple[Outcome, ...] = ()
    segmentationNode: Any = None
    error: str = ""


class Batch(Task):
    """Runs one after the other. ``result`` is the summary, a vtkMRMLTableNode. ``cancel()`` keeps what is done.

    Attributes:
        entries: One for each volume, in the order given.
    """

    entries: tuple[BatchEntry, ...] = ()
