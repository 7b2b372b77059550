"""Which findings of a cohort a person should look at first, and why, in a few words."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

ENOUGH = 5
"""Cases from which on a cohort says what is usual."""
UNUSUAL = 3.5
"""Robust standard deviations of the logarithm of a volume."""
LEAST_SPREAD = 0.1
"""Cohorts do not get so alike that 10 % more is unusual."""
MOST_RANGES = 6


@dataclass(slots=True)
class Usual:
    """What is usual in a cohort, by concept: the volumes, in ml, of cases that have it, and how many cases asked."""

    volumes_ml: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Usual:
        """Count, one record at a time."""
        usual = cls()
        for finding in (finding for record in records for finding in record["findings"]):
            usual.asked[finding["phrase"]] += 1
            if finding["state"] == "found":
                usual.volumes_ml[finding["phrase"]].append(finding["volume_ml"])
        return usual


def attention(finding: Mapping[str, Any], usual: Usual) -> tuple[float, list[str]]:
    """How much a finding asks to be looked at (0: not at all), and why."""
    if finding["state"] == "failed":
        return 100.0, [finding["reason"]]
    reasons: list[tuple[float, str]] = []
    volumes, asked = usual.volumes_ml[finding["phrase"]], usual.asked[finding["phrase"]]
    if finding["state"] == "not_found" and asked >= ENOUGH and len(volumes) >= 0.8 * asked:
        reasons.append((30.0, f"not found, but in {len(volumes)} of {asked} cases"))
    if finding["state"] == "found" and len(volumes) >= ENOUGH:
        middle, distance = _distance(finding["volume_ml"], volumes)
        if distance > UNUSUAL:
            reasons.append((30.0, f"unusual volume: {finding['volume_ml'] / middle:.2g} times the cohort's median"))
    presence = finding["presence"]
    if presence is not None and 0.25 <= presence <= 0.75:
        reasons.append((20.0 - 40.0 * abs(presence - 0.5), "unsure whether it is there"))
    slices = finding["review_slices"]
    if slices:
        reasons.append((min(10.0, len(slices)), f"look at slice{'s' * (len(slices) > 1)} {_ranges(slices)}"))
    if finding["confidence"] is not None and finding["confidence"] < 0.6:
        reasons.append((8.0, "low confidence"))
    return sum(score for score, _ in reasons), [reason for _, reason in reasons]


def _ranges(slices: list[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"; the first few where there are many."""
    runs: list[list[int]] = []
    for number in slices:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:MOST_RANGES]]
    return ", ".join(told) + (" ..." if len(runs) > MOST_RANGES else "")


def _distance(volume_ml: float, volumes: list[float]) -> tuple[float, float]:
    """Median in ml, and robust distance from it on a logarithmic scale."""
    logs = [math.log(max(volume, 1e-3)) for volume in volumes]
    middle = median(logs)
    spread = max(1.4826 * median(abs(log - middle) for log in logs), LEAST_SPREAD)
    return math.exp(middle), abs(math.log(max(volume_ml, 1e-3)) - middle) / spread
