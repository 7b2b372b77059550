"""Which voxel belongs to which object: discs, rims, fragments and specks on grids of a few voxels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from MedicalSAM3Lib.findings import count_instances
from MedicalSAM3Lib.separate import Claims, separate

EVEN = (1.0, 1.0, 1.0)
Box = tuple[slice, slice, slice]


def mask_with(shape: tuple[int, int, int], *boxes: Box) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box] = True
    return mask


def no_claims(n: int) -> Iterator[tuple[int, np.ndarray]]:
    return iter(())


def claims_of(*objects: tuple[np.ndarray, float]) -> Claims:
    """Each object claims its mask with one confidence."""

    def claims(n: int) -> Iterator[tuple[int, np.ndarray]]:
        for owner, (mask, confidence) in enumerate(objects, start=1):
            yield owner, np.where(mask[n], np.float32(confidence), np.float32(0))

    return claims


def numbers(mask: np.ndarray, *objects: tuple[np.ndarray, float], axis: int = 1, most: int = 99) -> np.ndarray:
    return separate(mask, claims_of(*objects) if objects else no_claims, EVEN, axis, most)


def test_objects_that_touch_stay_apart_where_they_were_followed_apart() -> None:
    shape = (2, 3, 8)
    left, right = mask_with(shape, np.s_[:, :, :4]), mask_with(shape, np.s_[:, :, 4:])
    np.testing.assert_array_equal(numbers(left | right, (left, 0.9), (right, 0.8)), left + 2 * right)
    assert numbers(left | right).max() == 1


def test_where_two_claim_a_voxel_the_surer_has_it() -> None:
    shape = (1, 2, 8)
    left, right = mask_with(shape, np.s_[:, :, :5]), mask_with(shape, np.s_[:, :, 3:])
    assert numbers(left | right, (left, 0.5), (right, 0.8))[0, 0].tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
    assert numbers(left | right, (left, 0.5), (right, 0.5))[0, 0].tolist() == [1, 1, 1, 1, 1, 2, 2, 2]


def test_claims_add_nothing_to_the_mask() -> None:
    mask = mask_with((2, 4, 4), np.s_[:, :2, :2])
    np.testing.assert_array_equal(numbers(mask, (np.ones_like(mask), 1.0)), mask)


def test_a_rim_around_two_objects_goes_to_the_nearer_voxel_by_voxel() -> None:
    shape = (1, 5, 12)
    left, right = mask_with(shape, np.s_[:, 2, 1:5]), mask_with(shape, np.s_[:, 2, 7:11])
    owners = numbers(np.ones(shape, bool), (left, 0.9), (right, 0.9))
    np.testing.assert_array_equal(owners[..., :5], 1)
    np.testing.assert_array_equal(owners[..., 7:], 2)


def test_near_is_near_in_mm() -> None:
    shape = (4, 3, 5)
    slab, rod = mask_with(shape, np.s_[0]), mask_with(shape, np.s_[1:, :, 4])
    mask = slab | rod | mask_with(shape, np.s_[1, :, 1:4])  # the rest: a row on slice 1, beside both
    for slice_mm, with_slab in ((0.1, True), (10.0, False)):
        owners = separate(mask, claims_of((slab, 0.9), (rod, 0.9)), (slice_mm, 1.0, 1.0), 0, 99)
        assert (owners[1, 1, 2] == owners[0, 1, 2]) == with_slab
        assert (owners[1, 1, 2] == owners[1, 1, 4]) != with_slab


def test_a_part_that_nobody_claims_joins_what_it_touches_if_only_by_a_corner() -> None:
    shape = (3, 6, 6)
    core, tail = mask_with(shape, np.s_[0, :3, :3]), mask_with(shape, np.s_[1:, 3:, 3:])
    assert numbers(core | tail, (core, 0.9)).max() == 1


def test_a_part_that_touches_nothing_is_an_object_and_a_speck_joins_the_nearest() -> None:
    shape = (1, 9, 9)
    core, alone = mask_with(shape, np.s_[:, :3, :3]), mask_with(shape, np.s_[:, 6:, 6:])
    speck = mask_with(shape, np.s_[:, 4, 8])
    np.testing.assert_array_equal(numbers(core | alone | speck, (core, 0.9)), core + 2 * (alone | speck))


def test_what_one_claim_holds_side_by_side_is_several_objects() -> None:
    shape = (3, 4, 9)
    left, right = mask_with(shape, np.s_[:, :, :3]), mask_with(shape, np.s_[1:, :, 6:])
    np.testing.assert_array_equal(numbers(left | right, (left | right, 0.9), axis=0), left + 2 * right)
    bridge = mask_with(shape, np.s_[2, 2, :])  # nobody claims it, and it joins both
    assert numbers(left | right | bridge, (left | right, 0.9)).max() == 1


def test_what_one_claim_holds_one_slice_after_the_other_is_one_object_with_a_gap() -> None:
    shape = (6, 4, 9)
    gone = mask_with(shape, np.s_[:2, :, :3], np.s_[4:, :, 2:5])
    np.testing.assert_array_equal(numbers(gone, (gone, 0.9)), gone)
    with_speck = gone | mask_with(shape, np.s_[0, 0, 8])
    np.testing.assert_array_equal(numbers(with_speck, (with_speck, 0.9)), with_speck)


def test_a_claim_of_a_voxel_or_two_is_a_speck_too() -> None:
    shape = (1, 4, 6)
    core, bit = mask_with(shape, np.s_[:, :, :5]), mask_with(shape, np.s_[:, 0, 5])
    np.testing.assert_array_equal(numbers(core | bit, (core, 0.5), (bit, 0.9)), core | bit)


def test_specks_alone_are_one_object() -> None:
    mask = mask_with((1, 5, 5), np.s_[:, 0, 0], np.s_[:, 4, 4])
    np.testing.assert_array_equal(numbers(mask), mask)


def test_of_too_many_the_largest_keep_a_number() -> None:
    shape = (1, 3, 30)
    boxes = [np.s_[:, :, 0:4], np.s_[:, :, 6:8], np.s_[:, :, 10:15]]
    owners = numbers(mask_with(shape, *boxes), most=2)
    assert [int(owners[box].min()) for box in boxes] == [1, 1, 2]
    assert owners.max() == 2


@pytest.mark.parametrize(
    ("axis", "boxes"),
    [
        # Of each plane: the head's, then the front's, then the right's.
        (2, [np.s_[8:, 8:, 8:], np.s_[:2, :2, 8:], np.s_[:2, 8:, :2], np.s_[:2, 8:, 8:]]),
        (1, [np.s_[8:, :2, 8:], np.s_[:2, 8:, 8:], np.s_[8:, 8:, :2], np.s_[8:, 8:, 8:]]),
        (0, [np.s_[8:, :2, 8:], np.s_[8:, 8:, :2], np.s_[:2, 8:, 8:], np.s_[8:, 8:, 8:]]),
    ],
)
def test_numbers_go_from_head_to_foot_front_to_back_right_to_left(axis: int, boxes: list[Box]) -> None:
    owners = numbers(mask_with((10, 10, 10), *boxes), axis=axis)
    assert [int(owners[box].max()) for box in boxes] == [1, 2, 3, 4]


def test_what_is_known_of_the_objects_and_not_their_order_makes_the_numbers() -> None:
    shape = (2, 4, 8)
    left, right = mask_with(shape, np.s_[:, :, :4]), mask_with(shape, np.s_[:, :, 4:])
    one, other = (numbers(left | right, *order) for order in (((left, 1), (right, 1)), ((right, 1), (left, 1))))
    np.testing.assert_array_equal(one, other)


@given(mask=arrays(bool, (3, 5, 6)))
def test_without_claims_the_objects_are_those_that_a_finding_counts(mask: np.ndarray) -> None:
    if not mask.any():
        mask[1, 2, 3] = True
    owners = numbers(mask)
    np.testing.assert_array_equal(owners > 0, mask)
    assert owners.max() == count_instances(mask)
    assert set(np.unique(owners)) - {0} == set(range(1, owners.max() + 1))


@given(mask=arrays(bool, (3, 5, 6)), one=arrays(bool, (3, 5, 6)), other=arrays(bool, (3, 5, 6)))
def test_whatever_is_claimed_every_voxel_has_one_of_the_numbers(
    mask: np.ndarray, one: np.ndarray, other: np.ndarray
) -> None:
    mask[1, 2, 3] = True
    owners = numbers(mask, (one, 0.5), (other, 0.8))
    np.testing.assert_array_equal(owners > 0, mask)
    assert set(np.unique(owners)) - {0} == set(range(1, owners.max() + 1))
    sizes = np.bincount(owners.ravel())[1:]
    assert sizes.min() >= 3 or len(sizes) == 1
