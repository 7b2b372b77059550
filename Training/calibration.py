"""Fit what presence means: temperature, bias and thresholds, on validation slices only.

A presence logit orders slices well long before its sigmoid is a probability. Two numbers repair that (Platt,
1999). Two thresholds follow, for two questions:

- is the concept in the volume at all? The lowest presence at which the asked share of absent concepts is
  turned down: saying "found" of what is not there is the worse error;
- is it on this slice, given that it is in the volume? Even odds: to miss a slice is as wrong as to add one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.presence import PresenceSpec, SliceCalibration, VolumeRule

WANTED_SPECIFICITY = 0.97
"""Of validation pairs, so that other slices stay above 0.95."""

THRESHOLD_RANGE = (0.3, 0.9)
"""A threshold outside would say that presence was not learned; calibration must not hide that."""

BINS = 10
"""Of presence, for its calibration error and its diagram."""

EVEN_ODDS = 0.5
"""Calibrated probability at which a slice is as likely to show the concept as not."""

LEAST_PAIRS = 30
"""Present ones, and absent ones: a modality with fewer is calibrated as all of them together are."""


def fit_presence(logits: np.ndarray, is_present: np.ndarray, modality: np.ndarray, run_mm: float) -> PresenceSpec:
    """Fit what ``presence.json`` says: each modality for itself where it has enough pairs, and all of them together.

    Args:
        logits, is_present: As ``fit_calibration``.
        modality: Name ``(n,)`` of each pair's, as inference names it: "CT" for instance.
        run_mm: See ``VolumeRule``.

    Raises:
        InputError: As ``fit_calibration``.
    """
    default, of_volume = fit_calibration(logits, is_present)
    probability, fitted = default.probability(logits), {}
    names = sorted(set(modality.tolist()))
    for name in names if len(names) > 1 else ():
        own = modality == name
        if min(is_present[own].sum(), (~is_present[own]).sum()) >= LEAST_PAIRS:
            fitted[name], _ = fit_calibration(logits[own], is_present[own])
            probability[own] = fitted[name].probability(logits[own])
    if fitted:
        of_volume = _volume_threshold(probability[~is_present])
    # A volume is never found while the gates of all its slices are shut.
    every = {
        name: one.model_copy(update={"threshold": min(one.threshold, of_volume)})
        for name, one in {"default": default, **fitted}.items()
    }
    return PresenceSpec(volume=VolumeRule(run_mm=run_mm, threshold=of_volume), **every)


def fit_calibration(logits: np.ndarray, is_present: np.ndarray) -> tuple[SliceCalibration, float]:
    """Fit ``p = sigmoid(logit / temperature + bias)`` and both thresholds.

    Args:
        logits: Presence logits ``(n,)`` of (slice, phrase) pairs.
        is_present: bool ``(n,)``.

    Returns:
        The calibration with the threshold of a slice, and the threshold of a volume, never below the former.

    Raises:
        InputError: Without both present and absent pairs there is nothing to fit.
    """
    present = np.asarray(is_present, bool)
    if present.all() or not present.any():
        raise InputError("Expected present and absent pairs, got only one kind; use more validation slices.")
    # Both kinds weigh the same: how often a phrase is right says nothing about the next one.
    weights = np.where(present, 0.5 / present.sum(), 0.5 / (~present).sum())

    def cross_entropy(parameters: np.ndarray) -> float:
        scaled = logits * np.exp(parameters[0]) + parameters[1]
        return float(np.sum(weights * np.logaddexp(0.0, np.where(present, -scaled, scaled))))

    slope, bias = minimize(cross_entropy, np.zeros(2), method="Nelder-Mead").x
    probability = expit(logits * np.exp(slope) + bias)
    of_volume = _volume_threshold(probability[~present])
    of_slice = min(EVEN_ODDS, of_volume)
    return SliceCalibration(temperature=float(np.exp(-slope)), bias=float(bias), threshold=of_slice), of_volume


def _volume_threshold(absent: np.ndarray) -> float:
    """The lowest presence at which the wanted share of absent pairs is turned down."""
    return float(np.clip(np.quantile(absent, WANTED_SPECIFICITY), *THRESHOLD_RANGE))


class Bin(NamedTuple):
    """Questions of about the same presence: its mean, the share of them that is there, and how many they are."""

    promised: float
    true: float
    questions: int


def reliability(probability: np.ndarray, is_present: np.ndarray, bins: int = BINS) -> list[Bin]:
    """What presence promises beside what is true, over equally wide bins; empty ones are left out."""
    rows = np.clip((probability * bins).astype(int), 0, bins - 1)
    return [
        Bin(float(probability[own].mean()), float(np.asarray(is_present)[own].mean()), int(own.sum()))
        for own in (rows == row for row in range(bins))
        if own.any()
    ]


def expected_calibration_error(probability: np.ndarray, is_present: np.ndarray, bins: int = BINS) -> float:
    """Mean gap between what presence promises and what is true (Guo et al., 2017)."""
    filled = reliability(probability, is_present, bins)
    return sum(abs(one.promised - one.true) * one.questions for one in filled) / max(len(probability), 1)
