"""Intervals, tests and calibration in worlds whose answers are known"""

from __future__ import annotations

import math

import numpy as np
import pytest

from Training.bootstrap import clustered_mean, paired_test
from Training.calibration import expected_calibration_error


def test_interval_of_independent_patients_is_that_of_theory() -> None:
    values = np.random.default_rng(3).normal(50.0, 10.0, 400)
    found = clustered_mean(values.tolist(), [str(n) for n in range(400)])
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.2)
    assert found.high == pytest.approx(values.mean() + half, abs=0.2)


def test_repeated_rows_of_a_patient_tell_nothing_new() -> None:
    values = np.random.default_rng(4).normal(50.0, 10.0, 30)
    once = clustered_mean(values.tolist(), [str(n) for n in range(30)])
    often = clustered_mean(np.repeat(values, 50).tolist(), [str(n) for n in np.repeat(np.arange(30), 50)])
    assert often.count == 1500
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_one_patient_has_no_interval_and_none_no_mean() -> None:
    one = clustered_mean([1.0, 3.0, math.nan], ["a", "a", "b"])
    assert (one.mean, one.count, one.patients) == (2.0, 2, 1)
    assert math.isnan(one.low)
    none = clustered_mean([], [])
    assert none.count == 0
    assert math.isnan(none.mean)
    same = clustered_mean([2.0, 2.0], ["a", "b"])
    assert (same.low, same.high) == (2.0, 2.0)


def test_paired_test_is_exact_for_few_patients() -> None:
    four = paired_test([2.0] * 4, [1.0] * 4, list("abcd"))
    assert four.difference.mean == 1.0
    assert (four.p, four.least_p) == (0.125, 0.125)
    mixed = paired_test([1.0, 0.0], [0.0, 1.0], ["a", "b"])
    assert mixed.p == 1.0
    many = paired_test(np.arange(40.0).tolist(), (np.arange(40.0) - 1).tolist(), [str(n) for n in range(40)])
    assert many.p < 0.001
    assert math.isnan(paired_test([1.0], [0.0], ["a"]).p)


def test_lengths_must_fit() -> None:
    with pytest.raises(ValueError, match="as many rows"):
        paired_test([1.0], [1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="a patient for each"):
        clustered_mean([1.0, 2.0], ["a"])


def test_calibration_error_of_known_worlds() -> None:
    half = np.array([True, False] * 50)
    assert expected_calibration_error(np.full(100, 0.5), half) == 0.0
    assert expected_calibration_error(np.ones(100), half) == 0.5
    assert expected_calibration_error(half.astype(float), half) == 0.0
