"""How far a mean can be believed: bootstrap intervals and a paired test, both by patient

Slices and concepts of one patient resemble each other; patients are drawn, not rows. Both are SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean of ``count`` values of ``patients`` patients, and its 95 % interval; NaN where there is none."""

    mean: float
    low: float
    high: float
    count: int
    patients: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Mean of the differences and the probability of one as large by chance (two-sided).

    ``least_p`` is the smallest that so few patients can show: 0.125 with four of them.
    """

    difference: Interval
    p: float
    least_p: float


def clustered_mean(values: Sequence[float], patients: Sequence[str], seed: int = 0) -> Interval:
    """Mean over all values that are not NaN, with the percentile interval of patients drawn with replacement.

    Args:
        values: One a row.
        patients: Whose row it is.
        seed: Of the drawing; equal seeds give equal intervals.

    Returns:
        Without values a NaN; of a single patient no interval.

    Raises:
        ValueError: The lengths differ.
    """
    from scipy import stats

    sums, counts = _by_patient(values, patients)
    total = int(counts.sum())
    mean = float(sums.sum() / total) if total else math.nan
    if len(sums) < 2:
        return Interval(mean, math.nan, math.nan, total, len(sums))
    if np.ptp(sums / counts) == 0.0:  # all alike: SciPy warns of what is no fault
        return Interval(mean, mean, mean, total, len(sums))

    def ratio(sums: np.ndarray, counts: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    drawn = stats.bootstrap(
        (sums, counts), ratio, paired=True, vectorized=True, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return Interval(mean, float(low), float(high), total, len(sums))


def paired_test(ours: Sequence[float], baseline: Sequence[float], patients: Sequence[str], seed: int = 0) -> PairedTest:
    """Compare two models on the same rows: would as large a difference come of swapping them, patient by patient?

    Rows where one of them has no value (NaN) are left out. Exact up to ten patients, drawn beyond.

    Raises:
        ValueError: The lengths differ.
    """
    from scipy import stats

    if len(ours) != len(baseline):
        raise ValueError(f"expected as many rows of both models, got {len(ours)} and {len(baseline)}")
    differences = np.asarray(ours, float) - np.asarray(baseline, float)
    interval = clustered_mean(differences.tolist(), patients, seed)
    sums, _ = _by_patient(differences.tolist(), patients)
    least = min(1.0, 2.0 / 2 ** len(sums)) if len(sums) < 11 else 1.0 / (RESAMPLES + 1)
    if len(sums) < 2:
        return PairedTest(interval, math.nan, least)
    swapped = stats.permutation_test(
        (sums, np.zeros_like(sums)), lambda one, other, axis: (one - other).sum(axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return PairedTest(interval, float(swapped.pvalue), least)


def _by_patient(values: Sequence[float], patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each patient who has any, in the order of their names."""
    if len(values) != len(patients):
        raise ValueError(f"expected a patient for each value, got {len(values)} and {len(patients)}")
    defined = [(who, value) for who, value in zip(patients, values, strict=True) if not math.isnan(value)]
    names, rows = np.unique([who for who, _ in defined], return_inverse=True)
    sums = np.bincount(rows, [value for _, value in defined], len(names)) if defined else np.zeros(0)
    return sums, np.bincount(rows, minlength=len(names)).astype(float) if defined else np.zeros(0)
