"""Dice on masks whose overlap is known by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from MedicalSAM3Lib.overlap import dice, iou


def test_equal_masks_give_one_and_disjoint_masks_zero() -> None:
    a = np.array([1, 1, 0, 0], dtype=bool)
    assert dice(a, a) == 1.0
    assert dice(a, ~a) == 0.0


def test_half_overlap_is_counted() -> None:
    assert dice(np.array([1, 1, 0]), np.array([0, 1, 1])) == 0.5


def test_labels_count_as_masks() -> None:
    assert dice(np.array([7, 0]), np.array([1, 0])) == 1.0


def test_two_empty_masks_have_no_dice() -> None:
    assert math.isnan(dice(np.zeros((2, 3)), np.zeros((2, 3))))


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        dice(np.zeros(2), np.zeros(3))


def test_iou_is_counted_and_empty_masks_have_none() -> None:
    assert iou(np.array([1, 1, 0]), np.array([0, 1, 1])) == pytest.approx(1 / 3)
    assert iou(np.array([1, 0]), np.array([1, 0])) == 1.0
    assert iou(np.array([1, 0]), np.array([0, 1])) == 0.0
    assert math.isnan(iou(np.zeros(3), np.zeros(3)))
