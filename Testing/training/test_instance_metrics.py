"""Objects that are found, invented, missed and split, by hand"""

from __future__ import annotations

import math

import numpy as np
import pytest

from Training.instance_metrics import match_objects, objects_of


def row(*numbers: int) -> np.ndarray:
    return np.array(numbers)[None, None]


def test_found_invented_and_missed_objects() -> None:
    counts = match_objects(row(7, 7, 7, 0, 3, 0, 0), row(1, 1, 1, 1, 0, 2, 2))
    assert (counts.found, counts.invented, counts.missed) == (1, 1, 1)
    assert counts.f1 == 0.5
    assert counts.panoptic_quality == 0.5 * 0.75


def test_half_of_an_object_is_not_enough() -> None:
    counts = match_objects(row(1, 1, 2, 2), row(5, 5, 5, 5))
    assert (counts.found, counts.invented, counts.missed) == (0, 2, 1)
    assert counts.f1 == counts.panoptic_quality == 0.0


def test_nothing_on_both_sides_has_no_value() -> None:
    counts = match_objects(row(0, 0), row(0, 0))
    assert math.isnan(counts.f1)
    assert math.isnan(counts.panoptic_quality)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="one shape"):
        match_objects(row(1), row(1, 2))


def test_objects_are_numbers_or_parts_or_none() -> None:
    numbered = objects_of(row(1, 1, 2, 2))
    assert numbered is not None
    assert numbered[1] == "numbers"
    parts = objects_of(row(1, 1, 1, 0, 1, 1, 1))
    assert parts is not None
    assert parts[1] == "parts"
    assert len(np.unique(parts[0])) == 3
    assert objects_of(row(1, 1, 1, 0, 1)) is None  # a speck is no object
    assert objects_of(row(0, 0)) is None
