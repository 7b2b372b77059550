"""Calibration of a slice and the rule of a volume, with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from MedicalSAM3Lib.presence import PresenceSpec, SliceCalibration, VolumeRule, presence_of_volume


def test_temperature_and_bias():
    calibration = SliceCalibration(temperature=2.0, bias=-1.0)
    np.testing.assert_allclose(calibration.probability(np.array([2.0, 6.0])), [0.5, 1 / (1 + np.exp(-2.0))])


def test_extreme_logits_saturate_without_a_warning_and_nan_stays_nan():
    probability = SliceCalibration().probability(np.array([-1e4, 1e4, np.nan]))
    np.testing.assert_array_equal(probability, [0.0, 1.0, np.nan])


@pytest.mark.parametrize(
    ("run_mm", "slice_mm", "expected"),
    [
        (0.0, 3.0, 0.9),  # the best slice
        (6.0, 3.0, 0.6),  # the weaker of the best two neighbours
        (9.0, 3.0, 0.2),
        (6.0, 6.0, 0.9),  # thick slices: one is enough
        (300.0, 3.0, 0.1),  # longer than the stack: all slices
    ],
)
def test_the_weakest_slice_of_the_best_run_decides(run_mm, slice_mm, expected):
    presence = np.array([0.9, 0.1, 0.6, 0.7, 0.2, 0.3])
    assert presence_of_volume(presence, slice_mm, VolumeRule(run_mm=run_mm)) == expected


def test_a_single_slice_is_a_volume():
    assert presence_of_volume(np.array([0.4]), 1.0, VolumeRule(run_mm=20.0)) == 0.4


def test_a_modality_without_its_own_fit_takes_the_default():
    spec = PresenceSpec.model_validate({"default": {"bias": 1.0}, "CT": {"bias": 2.0}, "volume": {"run_mm": 6.0}})
    assert spec.slice_calibration("CT").bias == 2.0
    assert spec.slice_calibration("MR").bias == 1.0
    assert PresenceSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    "content",
    [{"CT": {"temperature": 0.0}}, {"CT": {"slope": 1.0}}, {"volume": {"runs": 1}}, {"default": {"threshold": 2}}],
)
def test_wrong_parameters_are_refused(content):
    with pytest.raises(ValidationError):
        PresenceSpec.model_validate(content)


def test_a_slice_without_a_number_leaves_the_volume_without_one():
    assert np.isnan(presence_of_volume(np.array([0.9, np.nan]), 1.0, VolumeRule()))
