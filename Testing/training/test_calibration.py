"""Calibration that is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from MedicalSAM3Lib.errors import InputError
from Training.calibration import (
    THRESHOLD_RANGE,
    WANTED_SPECIFICITY,
    expected_calibration_error,
    fit_calibration,
    fit_presence,
)


def two_normals(
    mean_present: float, mean_absent: float, deviation: float, present: int = 3000, absent: int = 9000
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two kinds; which kind one is, at equal shares, is then exactly a logistic function of it."""
    rng = np.random.default_rng(4)
    logits = np.concatenate([rng.normal(mean_present, deviation, present), rng.normal(mean_absent, deviation, absent)])
    return logits, np.arange(len(logits)) < present


@pytest.mark.parametrize(("mean_present", "mean_absent", "deviation"), [(3.0, -1.0, 2.0), (1.0, 0.0, 0.7)])
def test_temperature_and_bias_are_recovered_whatever_the_share_of_present(
    mean_present: float, mean_absent: float, deviation: float
) -> None:
    fitted, _ = fit_calibration(*two_normals(mean_present, mean_absent, deviation))
    slope = (mean_present - mean_absent) / deviation**2
    bias = -(mean_present**2 - mean_absent**2) / (2 * deviation**2)
    assert fitted.temperature == pytest.approx(1 / slope, rel=0.06)
    assert fitted.bias == pytest.approx(bias, abs=0.1)


def test_what_was_fitted_is_calibrated() -> None:
    logits, truth = two_normals(3.0, -1.0, 2.0, present=5000, absent=5000)
    fitted, _ = fit_calibration(logits, truth)
    assert expected_calibration_error(fitted.probability(logits), truth) < 0.02
    raw = 1 / (1 + np.exp(-5 * logits))
    assert expected_calibration_error(raw, truth) > 0.05


def test_the_threshold_of_a_volume_turns_down_the_wanted_share_of_what_is_absent() -> None:
    logits, truth = two_normals(3.0, -1.0, 2.0)
    fitted, of_volume = fit_calibration(logits, truth)
    turned_down = (fitted.probability(logits[~truth]) < of_volume).mean()
    assert THRESHOLD_RANGE[0] < of_volume < THRESHOLD_RANGE[1]
    assert turned_down == pytest.approx(WANTED_SPECIFICITY, abs=0.002)


def test_the_threshold_of_a_slice_is_even_odds_unless_less_is_enough_for_a_volume() -> None:
    fitted, of_volume = fit_calibration(*two_normals(3.0, -1.0, 2.0))
    assert fitted.threshold == 0.5 < of_volume
    fitted, of_volume = fit_calibration(*two_normals(6.0, -6.0, 1.0))
    assert fitted.threshold == of_volume == THRESHOLD_RANGE[0]


def test_the_threshold_stays_where_a_threshold_makes_sense() -> None:
    _, hopeless = fit_calibration(*two_normals(0.02, 0.0, 1.0))
    assert THRESHOLD_RANGE[0] <= hopeless <= THRESHOLD_RANGE[1]
    logits, truth = two_normals(6.0, -6.0, 1.0, absent=100)
    logits[-8:] = 9.0  # eight of a hundred absent ones look as present as can be
    assert fit_calibration(logits, truth)[1] == pytest.approx(THRESHOLD_RANGE[1], abs=0.02)


@pytest.mark.parametrize("truth", [[True, True], [False, False], []])
def test_one_kind_alone_is_refused(truth: list[bool]) -> None:
    with pytest.raises(InputError, match="got only one kind; use more validation slices"):
        fit_calibration(np.zeros(len(truth)), np.array(truth, bool))


def test_the_calibration_error_by_hand() -> None:
    """Two of 0.1 to 0.2 (one true), three of 0.6 to 0.7 (two true), and one of exactly 1 that is true."""
    probability = np.array([0.12, 0.18, 0.61, 0.65, 0.69, 1.0])
    truth = np.array([True, False, True, True, False, True])
    expected = abs(0.15 - 0.5) * 2 / 6 + abs(0.65 - 2 / 3) * 3 / 6 + 0.0
    assert expected_calibration_error(probability, truth) == pytest.approx(expected)
    assert expected_calibration_error(truth.astype(float), truth) == 0.0


def test_fewer_bins_hide_what_more_bins_show() -> None:
    probability, truth = np.array([0.1, 0.9]), np.array([True, False])
    assert expected_calibration_error(probability, truth, bins=1) == 0.0
    assert expected_calibration_error(probability, truth) == pytest.approx(0.9)


def test_each_modality_is_calibrated_by_its_own_pairs() -> None:
    """CT promises too little, MR far too much; of OCT there is too little to say."""
    logits, truth = two_normals(3.0, -1.0, 2.0)
    every = np.concatenate([logits, 10.0 * logits + 4.0, np.full(20, 50.0)])
    present = np.concatenate([truth, truth, np.arange(20) < 10])
    modality = np.array(["CT"] * len(logits) + ["MR"] * len(logits) + ["OCT"] * 20)
    presence = fit_presence(every, present, modality, run_mm=6.0)
    assert sorted(presence.model_extra or {}) == ["CT", "MR"]
    ct, mr = (presence.slice_calibration(name) for name in ("CT", "MR"))
    assert ct.temperature == pytest.approx(1.0, rel=0.06)
    assert mr.temperature == pytest.approx(10.0, rel=0.06)
    assert presence.slice_calibration("OCT") == presence.default
    assert presence.volume.run_mm == 6.0
    assert max(one.threshold for one in (ct, mr, presence.default)) <= presence.volume.threshold
    written = presence.model_dump_json()
    assert type(presence).model_validate_json(written) == presence


def test_a_single_modality_needs_no_key_of_its_own() -> None:
    logits, truth = two_normals(3.0, -1.0, 2.0)
    presence = fit_presence(logits, truth, np.array(["CT"] * len(logits)), run_mm=0.0)
    assert not presence.model_extra
    assert (presence.default, presence.volume.threshold) == fit_calibration(logits, truth)


def test_a_volume_is_not_found_while_all_its_slices_are_shut() -> None:
    logits, truth = two_normals(6.0, -6.0, 1.0)
    hard, hard_truth = two_normals(0.5, 0.0, 1.0, present=40, absent=40)
    modality = np.array(["CT"] * len(logits) + ["MR"] * len(hard))
    presence = fit_presence(np.concatenate([logits, hard]), np.concatenate([truth, hard_truth]), modality, run_mm=0.0)
    assert presence.volume.threshold < 0.5
    assert presence.slice_calibration("MR").threshold <= presence.volume.threshold
