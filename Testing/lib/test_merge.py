"""Detector and tracker merged, by hand, on four voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.fusion import SliceMap
from MedicalSAM3Lib.merge import ABSENT_LOGIT, agreement, merge, merge_slice
from MedicalSAM3Lib.walks import Track, TrackedMask, masks_by_slice


def detected(*logits: float, weight: float = 0.9) -> SliceMap:
    return SliceMap(torch.tensor(logits).view(1, -1).half(), weight)


def followed(*logits: float, confidence: float = 0.9) -> TrackedMask:
    return TrackedMask(torch.tensor(logits).view(1, -1).half(), confidence, is_seed=False)


def test_the_surer_side_wins_where_they_differ() -> None:
    merged = merge_slice(detected(4, -4, 4, -4), 0.9, [followed(4, -4, -4, 4, confidence=0.3)])
    assert (merged.logits > 0).tolist() == [[True, False, True, False]]
    assert merged.weight == pytest.approx(0.9)
    merged = merge_slice(detected(4, -4, 4, -4), 0.4, [followed(4, -4, -4, 4, confidence=0.8)])
    assert (merged.logits > 0).tolist() == [[True, False, False, True]]


def test_the_mean_is_weighted_by_both_confidences() -> None:
    """The tracker has what the detector's presence leaves: 0.5 of 0.5."""
    merged = merge_slice(detected(2.0), 0.5, [followed(-1.0, confidence=0.5)])
    assert float(merged.logits) == pytest.approx((0.5 * 2 - 0.25) / 0.75, abs=1e-3)
    sure = merge_slice(detected(2.0), 1.0, [followed(-8.0, confidence=1.0)])
    assert float(sure.logits) == 2.0


def test_one_excess_does_not_silence_the_other() -> None:
    merged = merge_slice(detected(1.0), 0.5, [followed(-1024.0, confidence=0.1)])
    assert float(merged.logits) == pytest.approx((0.5 - 0.05 * 8) / 0.55, abs=1e-3)


def test_a_detector_that_sees_nothing_is_counted() -> None:
    runs_on = merge_slice(None, 0.05, [followed(2.0, confidence=0.6)])
    assert float(runs_on.logits) == pytest.approx((0.95 * ABSENT_LOGIT + 0.6 * 2) / 1.55, abs=1e-2)
    gap = merge_slice(None, 0.45, [followed(5.0, confidence=0.95)])
    assert float(gap.logits) > 0
    assert gap.weight == pytest.approx(0.95)


def test_a_tracker_without_an_object_says_nothing() -> None:
    alone = detected(3, -3)
    assert merge_slice(alone, 0.9, []) is alone


def test_the_objects_of_a_concept_add_up() -> None:
    merged = merge_slice(None, 1.0, [followed(3, -3, confidence=0.5), followed(-3, 3, confidence=0.7)])
    assert (merged.logits > 0).tolist() == [[True, True]]
    assert merged.weight == pytest.approx(0.7)


def test_two_that_know_nothing_keep_the_track() -> None:
    merged = merge_slice(None, 1.0, [followed(3.0, confidence=0.0)])
    assert float(merged.logits) == 3.0
    assert merged.weight == 0.0


def test_nothing_at_all_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="got neither"):
        merge_slice(None, 0.5, [])


def world() -> tuple[dict[tuple[int, int], SliceMap], np.ndarray, list[Track]]:
    tracks = [
        Track(0, {1: followed(5.0), 2: followed(5.0)}),
        Track(0, {2: followed(-5.0)}),
        Track(1, {0: followed(5.0)}),
    ]
    return {(0, 0): detected(4.0), (0, 1): detected(-4.0)}, np.array([[0.9, 0.2, 0.4], [0.1, 0.1, 0.1]]), tracks


def test_masks_are_gathered_by_concept_and_slice() -> None:
    gathered = masks_by_slice(world()[2])
    assert {key: len(masks) for key, masks in gathered.items()} == {(0, 1): 1, (0, 2): 2, (1, 0): 1}


def test_each_mode_takes_what_it_says() -> None:
    maps, presence, tracks = world()
    assert merge(maps, presence, tracks, "detect") == maps
    assert set(merge(maps, presence, tracks, "track")) == {(0, 1), (0, 2), (1, 0)}
    fused = merge(maps, presence, tracks, "fuse")
    assert set(fused) == {(0, 0), (0, 1), (0, 2), (1, 0)}
    assert fused[0, 0] is maps[0, 0]
    assert float(fused[0, 1].logits) == pytest.approx((0.2 * -4 + 0.9 * 0.8 * 5) / 0.92, abs=1e-2)


def test_agreement_by_hand() -> None:
    assert agreement(detected(1, 1, -1), [followed(1, -1, -1), followed(-1, -1, 1)]) == pytest.approx(1 / 3)
    assert agreement(detected(1), []) == 0.0
    assert agreement(None, [followed(1)]) == 0.0
    assert math.isnan(agreement(None, []))
    assert math.isnan(agreement(detected(-1), [followed(-1)]))
