"""Means that say what they stand on, and presence counted both ways."""

from __future__ import annotations

import math

from Training.metrics import dice, mean_of, presence_counts


def test_a_mean_leaves_out_what_is_undefined_and_says_so() -> None:
    mean = mean_of([1.0, math.nan, 0.0, math.nan])
    assert (mean.value, mean.count, mean.undefined) == (0.5, 2, 2)
    assert str(mean) == "0.500 (n=2, undefined 2)"


def test_a_missed_mask_counts_as_zero() -> None:
    full, empty = [[1, 1]], [[0, 0]]
    assert mean_of([dice(full, full), dice(empty, full)]).value == 0.5


def test_a_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(mean_of([]).value)
    assert math.isnan(mean_of([math.nan]).value)
    assert mean_of([]).count == 0


def test_presence_is_counted_apart_for_present_and_absent() -> None:
    counts = presence_counts([True, False, True, False, False], [True, True, False, False, False])
    assert (counts.found, counts.present, counts.rejected, counts.absent) == (1, 2, 2, 3)
    assert counts.sensitivity == 1 / 2
    assert counts.specificity == 2 / 3


def test_presence_without_cases_is_not_a_number() -> None:
    counts = presence_counts([], [])
    assert math.isnan(counts.sensitivity)
    assert math.isnan(counts.specificity)
