"""Masks laid over each other come apart again, however many there are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from Training.coverage import Coverage, stack


@given(arrays.arrays(bool, st.tuples(st.integers(0, 9), st.integers(1, 4), st.integers(1, 5))))
def test_every_mask_comes_back(masks: np.ndarray) -> None:
    cover = Coverage.of_masks(masks.shape[1:], enumerate(masks), len(masks))
    for concept, mask in enumerate(masks):
        np.testing.assert_array_equal(cover.mask(concept), mask)
    assert cover.areas().tolist() == masks.sum((1, 2)).tolist()
    assert cover.any() == masks.any()
    assert not cover.table[0].any()
    used = set(np.unique(cover.ids)) | {0}
    assert used == set(range(len(cover.table)))


def test_a_concept_may_come_in_several_masks() -> None:
    one, two = np.array([True, True, False]), np.array([False, True, False])
    cover = Coverage.of_masks((3,), [(1, one), (0, two), (1, two)], 2)
    assert cover.mask(1).tolist() == one.tolist()
    assert cover.mask(0).tolist() == two.tolist()


def test_parts_and_stacks_keep_what_numbers_stand_for() -> None:
    mask = np.zeros((2, 3, 3), bool)
    mask[1, 2] = True
    cover = Coverage.of_masks(mask.shape, [(0, mask)], 1)
    assert not cover[0].any()
    assert cover[1].mask(0).tolist() == mask[1].tolist()
    assert stack([cover[1], cover[0]]).mask(0).tolist() == mask[::-1].tolist()
