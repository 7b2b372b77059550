"""How much of a run is done, and how long the rest will take, from what its stages report. No torch.

A run reports slices of a stage, and its stages differ in cost: of each stage it is known, or learnt from the runs
before, what a slice takes. The stage that runs tells how fast this run is beside that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.structures import Progress

FIRST_GUESS_S = {"features": 1.0, "detection": 0.1, "tracking": 0.2, "vote": 0.01, "fusion": 0.01, "objects": 0.01}
"""Seconds a slice (and, after the features, a concept) relative to those of the trunk, before any run was seen."""

_NEWEST = 0.5
"""Weight of the newest run in what is remembered."""


@dataclass(slots=True)
class StageRates:
    """Seconds a unit of each stage, as the runs of one model on one device had them."""

    seconds: dict[str, float] = field(default_factory=lambda: dict(FIRST_GUESS_S))
    learnt: set[str] = field(default_factory=set)

    def learn(self, stage: str, rate: float) -> None:
        """Take note of a stage that has run."""
        before = self.seconds.get(stage, rate) if stage in self.learnt else rate
        self.seconds[stage] = _NEWEST * rate + (1.0 - _NEWEST) * before
        self.learnt.add(stage)


@dataclass(slots=True)
class _Stage:
    """A stage of this run: how far it is, and seconds spent in it."""

    done: int = 0
    total: int = 0
    spent_s: float = 0.0
    begun_at: int | None = None
    """``done`` at its first report."""


class TimeLeft:
    """The whole of one run.

    Args:
        settings: With the mode settled.
        concepts: How many are asked.
        slices: How many there are about; stages that have not reported are thought to have as many.
        rates: Of earlier runs; ``finish`` adds this one.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        settings: SegmentSettings,
        concepts: int,
        slices: int,
        rates: StageRates,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._concepts, self._slices, self._rates, self._clock = concepts, slices, rates, clock
        self._stages = {name: _Stage() for name in _plan(settings)}
        self._last = clock()
        self._fraction = 0.0
        self._free: set[str] = set()

    def is_free(self, stage: str) -> None:
        """What this stage makes is there already: it will report, and take no time."""
        self._free.add(stage)

    def see(self, progress: Progress) -> tuple[float, float | None]:
        """Take a report; return the share that is done (0..1, never less than before) and the seconds left.

        Seconds are None as long as nothing is known of the speed.
        """
        now = self._clock()
        stage = self._stages.setdefault(progress.stage, _Stage())
        stage.spent_s += now - self._last
        self._last = now
        if stage.begun_at is None:
            stage.begun_at = progress.done
            self._slices = progress.total if progress.stage == "features" else self._slices
        stage.done, stage.total = progress.done, progress.total
        done, left = self._work()
        if done + left > 0:
            self._fraction = max(self._fraction, done / (done + left))
        return self._fraction, self._seconds(left)

    def finish(self) -> None:
        """The run went through: remember what its stages took."""
        for name, stage in self._stages.items():
            units = self._units(name, stage.done - (stage.begun_at or 0))
            if name not in self._free and units > 0 and stage.spent_s > 0:
                self._rates.learn(name, stage.spent_s / units)

    def _work(self) -> tuple[float, float]:
        """Done and left, in seconds as the rates say."""
        reported = [place for place, stage in enumerate(self._stages.values()) if stage.begun_at is not None]
        done = left = 0.0
        for place, (name, stage) in enumerate(self._stages.items()):
            cost = self._rate(name)
            if stage.begun_at is not None:
                done += cost * self._units(name, stage.done)
                left += cost * self._units(name, max(0, stage.total - stage.done))
            elif place > max(reported, default=-1):
                left += cost * self._slices * (1 if name == "features" else self._concepts)
            # Else it was passed over: it had nothing to do.
        return done, left

    def _seconds(self, left: float) -> float | None:
        """What is left as this run has it: the rates, times how much slower it is than they say."""
        spent = expected = 0.0
        for name, stage in self._stages.items():
            units = self._units(name, stage.done - (stage.begun_at or 0))
            if units > 0 and name not in self._free:
                spent += stage.spent_s
                expected += self._rate(name) * units
        if expected > 0 and spent > 0:
            return left * spent / expected
        return left if self._rates.learnt or left == 0 else None

    def _rate(self, stage: str) -> float:
        return 0.0 if stage in self._free else self._rates.seconds.get(stage, 0.0)

    def _units(self, stage: str, steps: int) -> int:
        """What a stage's steps cost: the trunk sees no concepts, and the tracker counts each by itself."""
        return steps if stage in ("features", "tracking") else steps * self._concepts


def _plan(settings: SegmentSettings) -> list[str]:
    """The stages that will report, in order."""
    stages = ["features", "detection"]
    if settings.mode != "detect":
        stages.append("tracking")
    if settings.axis == "all":
        stages.append("vote")
    stages.append("fusion")
    if settings.instances:
        stages.append("objects")
    return stages
