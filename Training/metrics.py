"""How good a segmentation is. Every mean says over how many cases; undefined cases are counted apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from MedicalSAM3Lib.overlap import dice

__all__ = ["Mean", "PresenceCounts", "dice", "mean_of", "presence_counts"]


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of ``count`` defined values (NaN without any); ``undefined`` more had no value."""

    value: float
    count: int
    undefined: int

    def __str__(self) -> str:
        return f"{self.value:.3f} (n={self.count}, undefined {self.undefined})"


@dataclass(frozen=True, slots=True)
class PresenceCounts:
    """Presence decisions: how many of the present and of the absent concepts were called rightly."""

    found: int
    present: int
    rejected: int
    absent: int

    @property
    def sensitivity(self) -> float:
        """Fraction of present concepts that were found; NaN without any."""
        return self.found / self.present if self.present else math.nan

    @property
    def specificity(self) -> float:
        """Fraction of absent concepts that were not found; NaN without any."""
        return self.rejected / self.absent if self.absent else math.nan


def mean_of(values: Iterable[float]) -> Mean:
    """Mean of the values that are not NaN. A missing mask is 0, not NaN, so it is never skipped."""
    values = list(values)
    defined = [value for value in values if not math.isnan(value)]
    mean = math.fsum(defined) / len(defined) if defined else math.nan
    return Mean(mean, len(defined), len(values) - len(defined))


def presence_counts(predicted: Sequence[bool], actual: Sequence[bool]) -> PresenceCounts:
    """Count decisions, one per (slice, concept) pair whose truth is known."""
    pairs = list(zip(predicted, actual, strict=True))
    return PresenceCounts(
        found=sum(p and a for p, a in pairs),
        present=sum(a for _, a in pairs),
        rejected=sum(not p and not a for p, a in pairs),
        absent=sum(not a for _, a in pairs),
    )
