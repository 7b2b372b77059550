"""Masks survive their way, and what is not a mask is found out."""

from __future__ import annotations

import dataclasses
import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from MedicalSAM3Lib.masks_wire import PackedMask, box_of, pack, unpack

masks = hnp.arrays(bool, st.tuples(*[st.integers(1, 7)] * 3))


@given(masks)
def test_a_mask_comes_back_as_it_went(mask: np.ndarray) -> None:
    packed = pack(mask)
    np.testing.assert_array_equal(unpack(packed, mask.shape), mask)
    assert packed.voxels == mask.sum()


@given(masks)
def test_the_box_is_the_smallest(mask: np.ndarray) -> None:
    box = box_of(mask)
    if box is None:
        assert not mask.any()
        return
    k0, k1, j0, j1, i0, i1 = box
    crop = mask[k0:k1, j0:j1, i0:i1]
    assert crop.sum() == mask.sum()
    assert all(face.any() for face in (crop[0], crop[-1], crop[:, 0], crop[:, -1], crop[:, :, 0], crop[:, :, -1]))


def test_the_bits_are_those_of_the_contract() -> None:
    mask = np.zeros((3, 3, 12), bool)
    mask[1, 1, 1:11] = [1, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    packed = pack(mask)
    assert packed.box_kji == (1, 2, 1, 2, 1, 11)
    assert gzip.decompress(packed.data) == bytes([0b00000001, 0b00000011])


def test_the_same_mask_is_the_same_bytes() -> None:
    mask = np.ones((2, 2, 2), bool)
    assert pack(mask) == pack(mask.copy())


def test_an_empty_mask_has_no_box_and_no_bytes() -> None:
    packed = pack(np.zeros((2, 3, 4), bool))
    assert packed == PackedMask(None, 0, b"")
    assert not unpack(packed, (2, 3, 4)).any()


@pytest.mark.parametrize(
    "change",
    [
        {"voxels": 7},
        {"data": b"no gzip"},
        {"data": gzip.compress(b"")},
        {"data": gzip.compress(bytes(1 << 20))},
        {"box_kji": (0, 1, 0, 2, 0, 2)},
        {"box_kji": (0, 2, 0, 2, 0, 9)},
        {"box_kji": (1, 0, 0, 2, 0, 2)},
        {"box_kji": (-1, 1, 0, 2, 0, 2)},
    ],
)
def test_a_damaged_mask_is_refused(change: dict[str, object]) -> None:
    packed = pack(np.ones((2, 2, 2), bool))
    with pytest.raises(ValueError, match="expected"):
        unpack(dataclasses.replace(packed, **change), (2, 2, 2))  # type: ignore[arg-type]


def test_a_mask_cut_short_is_refused() -> None:
    packed = pack(np.random.default_rng(1).random((9, 9, 9)) > 0.5)
    with pytest.raises(ValueError, match="expected"):
        unpack(dataclasses.replace(packed, data=packed.data[:-9]), (9, 9, 9))
