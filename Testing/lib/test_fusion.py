"""The two rules of a slice and the competition for voxels, as exact arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.fusion import SliceMap, agreement, fuse_slice, label_exclusively, label_with_overlap

SEMANTIC = torch.tensor([[4.0, -4.0, -4.0]])
INSTANCES = torch.tensor([[[-3.0, 3.0, -3.0]], [[-2.0, -2.0, 2.0]], [[5.0, 5.0, 5.0]]])
SCORES = torch.tensor([0.6, 0.8, 0.5])


def direct(maps: torch.Tensor) -> np.ndarray:
    return maps.float().numpy()


def keep_on(n: int) -> None:
    pass


def slice_map(logits: list[list[float]], weight: float = 1.0) -> SliceMap:
    return SliceMap(torch.tensor(logits).half(), weight)


def test_top1_is_the_mask_of_the_best_query_weighted_by_its_score():
    fused = fuse_slice(INSTANCES, SCORES, SEMANTIC, 0.9, "top1")
    assert fused.logits.tolist() == [[-2.0, -2.0, 2.0]]
    assert fused.weight == pytest.approx(0.8)


def test_union_is_the_highest_of_the_semantic_map_and_the_confident_instances():
    fused = fuse_slice(INSTANCES, SCORES, SEMANTIC, 0.9, "union")
    assert fused.logits.tolist() == [[4.0, 3.0, 2.0]]  # the third instance, at 0.5, is not above the threshold
    assert fused.weight == 0.9


def test_union_without_a_confident_instance_is_the_semantic_map():
    assert fuse_slice(INSTANCES, SCORES * 0.1, SEMANTIC, 0.9, "union").logits.tolist() == SEMANTIC.tolist()


def test_logits_too_large_for_float16_stay_finite():
    fused = fuse_slice(INSTANCES * 1e6, SCORES, SEMANTIC, 0.9, "union")
    assert torch.isfinite(fused.logits).all()


def test_agreement_is_an_iou_and_nan_when_there_is_nothing_to_compare():
    assert agreement(INSTANCES, SCORES, torch.tensor([[-1.0, 1.0, 1.0]])) == 1.0
    assert agreement(INSTANCES, SCORES, torch.tensor([[1.0, 1.0, -1.0]])) == pytest.approx(1 / 3)
    assert np.isnan(agreement(INSTANCES, SCORES * 0.1, SEMANTIC))
    assert agreement(-INSTANCES.abs(), SCORES, -SEMANTIC.abs()) == 1.0


def test_a_voxel_goes_to_its_most_confident_concept():
    maps = {
        (0, 0): slice_map([[2.0, 2.0, 2.0, -1.0]], 0.5),  # confidence 0.44
        (1, 0): slice_map([[-1.0, 0.5, -9.0, -1.0]], 0.9),  # confidence 0.56 on the second voxel
        (1, 1): slice_map([[1.0, -1.0, -1.0, -1.0]], 1.0),
    }
    labels = label_exclusively(maps, [0, 1], (2, 1, 4), direct, keep_on)
    np.testing.assert_array_equal(labels.layers[0], [[[1, 2, 1, 0]], [[2, 0, 0, 0]]])
    assert labels.layers[0].dtype == np.uint16
    assert (labels.voxels, labels.layer_of) == ({0: 2, 1: 2}, {0: 0, 1: 0})
    first, second = 0.5 / (1 + np.exp(-2.0)), (0.9 / (1 + np.exp(-0.5)) + 1 / (1 + np.exp(-1.0))) / 2
    assert labels.confidence == {0: pytest.approx(first), 1: pytest.approx(second)}


def test_a_concept_that_is_not_in_the_volume_takes_no_voxel():
    maps = {(0, 0): slice_map([[1.0]]), (1, 0): slice_map([[9.0]])}
    assert label_exclusively(maps, [0], (1, 1, 1), direct, keep_on).layers[0].item() == 1


def test_no_concept_at_all_leaves_an_empty_layer():
    for rule in (label_exclusively, label_with_overlap):
        labels = rule({}, [], (2, 3, 4), direct, keep_on)
        assert labels.layers[0].shape == (2, 3, 4)
        assert not labels.layers[0].any()


def test_overlapping_masks_lie_in_as_few_layers_as_come():
    maps = {
        (0, 0): slice_map([[1.0, 1.0, -1.0]]),
        (1, 0): slice_map([[-1.0, 1.0, 1.0]], 0.1),
        (2, 0): slice_map([[-1.0, -1.0, 1.0]]),
    }
    labels = label_with_overlap(maps, [0, 1, 2], (1, 1, 3), direct, keep_on)
    np.testing.assert_array_equal(labels.layers[0], [[[1, 1, 3]]])
    np.testing.assert_array_equal(labels.layers[1], [[[0, 2, 2]]])
    assert labels.layer_of == {0: 0, 1: 1, 2: 0}
    assert labels.confidence[1] == pytest.approx(0.1 / (1 + np.exp(-1.0)))


@pytest.mark.parametrize("rule", [label_exclusively, label_with_overlap])
def test_labelling_can_be_cancelled_at_every_slice(rule):
    def cancel(n: int) -> None:
        if n == 1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        rule({(0, 0): slice_map([[1.0]])}, [0], (3, 1, 1), direct, cancel)


def test_the_confidence_map_is_that_of_the_winner_and_of_the_surer_of_two_that_overlap():
    maps = {(0, 0): slice_map([[2.0, 2.0, -1.0]], 0.9), (1, 0): slice_map([[2.0, -1.0, 2.0]], 0.5)}
    sure = 1 / (1 + np.exp(-2.0))
    for rule in (label_exclusively, label_with_overlap):
        labels = rule(maps, [0, 1], (1, 1, 3), direct, keep_on, with_map=True)
        np.testing.assert_allclose(labels.confidence_map, [[[0.9 * sure, 0.9 * sure, 0.5 * sure]]], atol=1e-3)
        assert labels.confidence_map.dtype == np.float16
        assert rule(maps, [0, 1], (1, 1, 3), direct, keep_on).confidence_map is None
