"""The two rules of a slice and the competition for voxels, as exact arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.evidence import Patch, StackEvidence
from MedicalSAM3Lib.fusion import Labels, SliceMap, agreement, fuse_slice, label

SEMANTIC = torch.tensor([[4.0, -4.0, -4.0]])
INSTANCES = torch.tensor([[[-3.0, 3.0, -3.0]], [[-2.0, -2.0, 2.0]], [[5.0, 5.0, 5.0]]])
SCORES = torch.tensor([0.6, 0.8, 0.5])


def direct(logits: torch.Tensor) -> Patch:
    return Patch(tuple(slice(0, side) for side in logits.shape), logits.float().numpy())


def keep_on(n: int) -> None:
    pass


def never(one: int, other: int) -> bool:
    return False


def always(one: int, other: int) -> bool:
    return True


def labels_of(maps, concepts, shape, may_share, on_slice=keep_on, with_map=False) -> Labels:
    return label(StackEvidence(maps, shape, direct), concepts, may_share, on_slice, with_map=with_map)


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
    assert np.isnan(agreement(-INSTANCES.abs(), SCORES, -SEMANTIC.abs()))


def test_a_voxel_goes_to_its_most_confident_concept():
    maps = {
        (0, 0): slice_map([[2.0, 2.0, 2.0, -1.0]], 0.5),  # confidence 0.44
        (1, 0): slice_map([[-1.0, 0.5, -9.0, -1.0]], 0.9),  # confidence 0.56 on the second voxel
        (1, 1): slice_map([[1.0, -1.0, -1.0, -1.0]], 1.0),
    }
    labels = labels_of(maps, [0, 1], (2, 1, 4), never)
    np.testing.assert_array_equal(labels.layers[0], [[[1, 2, 1, 0]], [[2, 0, 0, 0]]])
    assert labels.layers[0].dtype == np.uint16
    assert (labels.voxels, labels.layer_of) == ({0: 2, 1: 2}, {0: 0, 1: 0})
    first, second = 0.5 / (1 + np.exp(-2.0)), (0.9 / (1 + np.exp(-0.5)) + 1 / (1 + np.exp(-1.0))) / 2
    assert labels.confidence == {0: pytest.approx(first), 1: pytest.approx(second)}


def test_a_concept_that_is_not_in_the_volume_takes_no_voxel():
    maps = {(0, 0): slice_map([[1.0]]), (1, 0): slice_map([[9.0]])}
    assert labels_of(maps, [0], (1, 1, 1), never).layers[0].item() == 1


def test_no_concept_at_all_leaves_an_empty_layer():
    for may_share in (never, always):
        labels = labels_of({}, [], (2, 3, 4), may_share)
        assert labels.layers[0].shape == (2, 3, 4)
        assert not labels.layers[0].any()


def test_overlapping_masks_lie_in_as_few_layers_as_come():
    maps = {
        (0, 0): slice_map([[1.0, 1.0, -1.0]]),
        (1, 0): slice_map([[-1.0, 1.0, 1.0]], 0.1),
        (2, 0): slice_map([[-1.0, -1.0, 1.0]]),
    }
    labels = labels_of(maps, [0, 1, 2], (1, 1, 3), always)
    np.testing.assert_array_equal(labels.layers[0], [[[1, 1, 3]]])
    np.testing.assert_array_equal(labels.layers[1], [[[0, 2, 2]]])
    assert labels.layer_of == {0: 0, 1: 1, 2: 0}
    assert labels.confidence[1] == pytest.approx(0.1 / (1 + np.exp(-1.0)))


@pytest.mark.parametrize("may_share", [never, always])
def test_labelling_can_be_cancelled_at_every_slice(may_share):
    def cancel(n: int) -> None:
        if n == 1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        labels_of({(0, 0): slice_map([[1.0]])}, [0], (3, 1, 1), may_share, cancel)


def test_the_confidence_map_is_that_of_the_winner_and_of_the_surer_of_two_that_overlap():
    maps = {(0, 0): slice_map([[2.0, 2.0, -1.0]], 0.9), (1, 0): slice_map([[2.0, -1.0, 2.0]], 0.5)}
    sure = 1 / (1 + np.exp(-2.0))
    for may_share in (never, always):
        labels = labels_of(maps, [0, 1], (1, 1, 3), may_share, with_map=True)
        np.testing.assert_allclose(labels.confidence_map, [[[0.9 * sure, 0.9 * sure, 0.5 * sure]]], atol=1e-3)
        assert labels.confidence_map.dtype == np.float16
        assert labels_of(maps, [0, 1], (1, 1, 3), may_share).confidence_map is None


def test_relatives_share_a_voxel_and_each_competes_with_the_others():
    whole, part, third = 0, 1, 2
    maps = {
        (whole, 0): slice_map([[2.0, 2.0, 2.0, -1.0, 2.0]], 0.6),
        (part, 0): slice_map([[-1.0, 2.0, 2.0, -1.0, 0.1]], 0.9),  # 0.47 on the last: less than both others
        (third, 0): slice_map([[-1.0, -1.0, 2.0, 2.0, 2.0]], 0.7),
    }

    def related(one: int, other: int) -> bool:
        return {one, other} == {whole, part}

    labels = labels_of(maps, [whole, part, third], (1, 1, 5), related)
    masks = {concept: labels.layers[labels.layer_of[concept]][0, 0] == concept + 1 for concept in (0, 1, 2)}
    np.testing.assert_array_equal(masks[whole], [True, True, False, False, False])
    np.testing.assert_array_equal(masks[part], [False, True, True, False, False])
    np.testing.assert_array_equal(masks[third], [False, False, False, True, True])
    assert labels.voxels == {whole: 2, part: 2, third: 2}
    assert labels.layer_of == {whole: 0, part: 1, third: 0}


def test_of_equal_rivals_the_first_in_the_order_of_concepts_wins():
    maps = {(concept, 0): slice_map([[1.0]]) for concept in (0, 1)}
    assert labels_of(maps, [0, 1], (1, 1, 1), never).layers[0].item() == 1
    assert labels_of(maps, [1, 0], (1, 1, 1), never).layers[0].item() == 2


def test_a_concept_lies_in_one_layer_also_where_it_meets_others_on_some_slices_only():
    maps = {
        (0, 0): slice_map([[1.0, -1.0]]),
        (1, 0): slice_map([[1.0, -1.0]]),
        (1, 1): slice_map([[1.0, 1.0]]),
        (2, 2): slice_map([[1.0, 1.0]]),
    }
    labels = labels_of(maps, [0, 1, 2], (3, 1, 2), always)
    np.testing.assert_array_equal(labels.layers[0], [[[1, 0]], [[0, 0]], [[3, 3]]])
    np.testing.assert_array_equal(labels.layers[1], [[[2, 0]], [[2, 2]], [[0, 0]]])
    assert labels.layer_of == {0: 0, 1: 1, 2: 0}


def many_maps(shape: tuple[int, int, int], n_concepts: int) -> dict[tuple[int, int], SliceMap]:
    """Masks that overlap a lot, with few different values, so that many of them tie."""
    draw = np.random.default_rng(3)
    maps = {}
    for concept in range(n_concepts):
        for n in range(shape[0]):
            if draw.random() < 0.7:
                logits = draw.choice([-8.0, -1.0, 0.5, 2.0], shape[1:])
                maps[concept, n] = SliceMap(torch.from_numpy(logits).half(), float(draw.choice([0.31, 0.8, 1.0])))
    return maps


def dense(maps: dict[tuple[int, int], SliceMap], concepts: list[int], shape: tuple[int, int, int]) -> np.ndarray:
    """All confidences ``(P, n, h, w)`` at once, written down a second time."""
    confidence = np.zeros((len(concepts), *shape), np.float32)
    for row, concept in enumerate(concepts):
        for n in range(shape[0]):
            if (concept, n) in maps:
                one = maps[concept, n]
                logits = one.logits.float().numpy()
                confidence[row, n] = np.where(logits > 0, np.float32(one.weight) / (1.0 + np.exp(-logits)), 0.0)
    return confidence


def test_exclusive_labels_are_bit_for_bit_the_most_confident_concept():
    shape, concepts = (5, 9, 11), [2, 0, 3, 1]
    maps = many_maps(shape, 4)
    confidence = dense(maps, concepts, shape)
    best = confidence.max(0)
    expected = np.where(best > 0, np.array(concepts)[confidence.argmax(0)] + 1, 0)
    labels = labels_of(maps, concepts, shape, never, with_map=True)
    assert len(labels.layers) == 1
    np.testing.assert_array_equal(labels.layers[0], expected)
    np.testing.assert_array_equal(labels.confidence_map, best.astype(np.float16))
    for concept in concepts:
        won = best[expected == concept + 1].astype(np.float64)
        assert (labels.voxels[concept], labels.confidence[concept]) == (won.size, won.sum() / won.size)


def test_kept_masks_are_bit_for_bit_whole_and_in_the_first_free_layer():
    shape, concepts = (5, 9, 11), [2, 0, 3, 1]
    maps = many_maps(shape, 4)
    maps[3, 0] = SliceMap(torch.full(shape[1:], -1.0).half(), 1.0)
    confidence = dense(maps, concepts, shape)
    expected: list[np.ndarray] = [np.zeros(shape, np.uint16)]
    layer_of = {}
    for row, concept in enumerate(concepts):
        mask = confidence[row] > 0
        number = next((k for k, layer in enumerate(expected) if not layer[mask].any()), len(expected))
        if number == len(expected):
            expected.append(np.zeros(shape, np.uint16))
        expected[number][mask] = concept + 1
        layer_of[concept] = number
    labels = labels_of(maps, concepts, shape, always, with_map=True)
    assert labels.layer_of == layer_of
    np.testing.assert_array_equal(labels.layers, expected)
    np.testing.assert_array_equal(labels.confidence_map, confidence.max(0).astype(np.float16))
    for row, concept in enumerate(concepts):
        total = confidence[row].astype(np.float64).sum()
        assert labels.confidence[concept] == total / labels.voxels[concept]


def test_nested_labels_are_what_the_rule_says_of_every_voxel():
    shape, concepts = (4, 9, 11), [1, 0, 3, 2]
    maps = many_maps(shape, 4)
    confidence = dense(maps, concepts, shape)
    labels = labels_of(maps, concepts, shape, lambda one, other: {one, other} in ({0, 1}, {1, 2}))
    for row, concept in enumerate(concepts):
        expected = confidence[row] > 0
        for place, other in enumerate(concepts):
            if other != concept and {concept, other} not in ({0, 1}, {1, 2}):
                worse = confidence[place] >= confidence[row] if place < row else confidence[place] > confidence[row]
                expected &= ~worse
        np.testing.assert_array_equal(labels.layers[labels.layer_of[concept]] == concept + 1, expected)
