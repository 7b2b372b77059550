"""A run: a volume goes to the engine, its masks come back as segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .outcome import Outcome
from .task import Task


@dataclass(frozen=True)
class RunResult:
    """What a run brought.

    Attributes:
        outcomes: One for each concept, in the order asked; of a sequence, those of all frames.
        segmentationNode: Where the segments are; None where nothing was found and there was none before.
        notices: Sentences that a user should know.
    """

    outcomes: tuple[Outcome, ...]
    segmentationNode: Any
    notices: tuple[str, ...] = ()


class Run(Task):
    """A segmentation that goes on. ``result`` is a ``RunResult`` once it is "done".

    Attributes:
        outcomes: Those that are known so far, in the order asked.
    """

    outcomes: tuple[Outcome, ...] = ()
