"""What the HTTP side of the server asks of its engines, and what they answer: plain values, no torch.

The HTTP side keeps the queue. It gives an order only to an engine that is free, so each engine has one order at a
time, and hears of it by answers. Large data do not pass here: a volume and the results of an order are folders
(``volume_files``, ``result_files``).

    answer          data
    progress        stage, done, total; fraction (0..1 of the whole order); seconds_left, or None where unknown
    finding         index (place among the concepts), finding (as in report.schema.json): a concept has ended
    done            segment: notices (sentences), results lie in ``Order.out``; estimate: the fields of ``Estimate``
    failed          code, message: of a ``MedicalSAM3Error`` its own; else "internal" and a sentence without a path
    cancelled       nothing

An order ends with exactly one of the last three, also when its process died (code "engine_died").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

OrderKind = Literal["segment", "estimate"]
AnswerKind = Literal["progress", "finding", "done", "failed", "cancelled"]
Readiness = Literal["starting", "idle", "busy", "dead"]

ENDINGS = ("done", "failed", "cancelled")
"""Answers after which nothing more comes of an order."""


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do.

    Attributes:
        job_id: By which answers name it; unguessable, letters, digits, "_" and "-".
        kind: "segment", or "estimate" for what that run would take.
        volume: Folder that ``volume_files.store`` wrote.
        volume_id: The name of the volume in the report.
        concepts: Checked by ``interpret.check_concepts``.
        settings: ``SegmentSettings`` as plain values.
        model: A name of ``registry``; "auto" is the server's own.
        out: Empty folder for the results of "segment"; see ``result_files``.
    """

    job_id: str
    kind: OrderKind
    volume: Path
    volume_id: str
    concepts: tuple[str, ...]
    settings: dict[str, Any]
    model: str
    out: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order so far; ``data`` holds plain JSON values, by kind as the module says."""

    job_id: str
    kind: AnswerKind
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineState:
    """One engine: its device ("cpu", "cuda:0", ...) and what it does."""

    device: str
    state: Readiness


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that the engines keep loaded, as far as a client needs to know it."""

    name: str
    weights_hash: str
    demonstration: bool
    has_tracker: bool
    licence: str = ""
    notice: str = ""
    mode: str = "detect"
    """What the mode "auto" means for it."""


OnAnswer = Callable[[Answer], None]
OnChange = Callable[[], None]


class Engines(Protocol):
    """One engine a device. All methods may be called from the server's thread and return at once, but for
    ``drop_features`` and ``stop``."""

    def start(self, on_answer: OnAnswer, on_change: OnChange) -> None:
        """Start the engines and their warm-up.

        Args:
            on_answer: Called from any thread, in the order of the answers of each order.
            on_change: Called from any thread after the state of an engine, or ``model``, has changed.
        """
        ...

    def states(self) -> tuple[EngineState, ...]:
        """All engines, always in the same order."""
        ...

    def model(self) -> ModelFacts | None:
        """The loaded model; None until an engine has loaded it."""
        ...

    def give(self, order: Order) -> bool:
        """Hand an order to a free engine, if one there is that had the same volume before. False: none is free."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask for the end of an order that was given. It answers "cancelled" (or has just ended otherwise); an
        unknown id is nothing."""
        ...

    def drop_features(self, volumes: Sequence[Path] | None) -> int:
        """Forget what is kept of these volume folders, None = of all; return how many bytes that freed. May wait
        for some seconds."""
        ...

    def stop(self) -> None:
        """End all engines, whatever they do; return once their processes are gone."""
        ...
