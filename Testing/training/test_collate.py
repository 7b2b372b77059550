"""Samples of different sizes packed into one batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from Training.collate import LabelState, Sample, boxes_of_masks, collate

SIDE = 8
PRESENT, ABSENT, UNKNOWN = LabelState.PRESENT, LabelState.ABSENT, LabelState.UNKNOWN


def mask(top: int, bottom: int, left: int, right: int) -> Tensor:
    """One object, rows and columns half-open."""
    made = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    made[:, top:bottom, left:right] = True
    return made


NOTHING = torch.zeros(0, SIDE, SIDE, dtype=torch.bool)


def test_boxes_run_from_pixel_edge_to_pixel_edge() -> None:
    masks = torch.cat([mask(2, 6, 1, 3), mask(0, 8, 0, 8), mask(7, 8, 0, 1)])
    expected = [[2 / 8, 4 / 8, 2 / 8, 4 / 8], [0.5, 0.5, 1, 1], [0.5 / 8, 7.5 / 8, 1 / 8, 1 / 8]]
    assert boxes_of_masks(masks).tolist() == expected


def test_a_box_holds_all_parts_of_an_object() -> None:
    assert boxes_of_masks(mask(0, 1, 0, 1) | mask(7, 8, 7, 8)).tolist() == [[0.5, 0.5, 1, 1]]


def test_no_objects_have_no_boxes_and_an_empty_one_is_refused() -> None:
    assert boxes_of_masks(NOTHING).shape == (0, 4)
    with pytest.raises(ValueError, match="non-empty object masks"):
        boxes_of_masks(torch.cat([mask(0, 2, 0, 2), NOTHING.new_zeros(1, SIDE, SIDE)]))


def test_pairs_and_objects_keep_their_places() -> None:
    two = torch.cat([mask(0, 4, 0, 4), mask(5, 7, 5, 7)])
    samples = [
        Sample(torch.zeros(3, SIDE, SIDE), ("lung", "liver"), (PRESENT, ABSENT), (two, NOTHING)),
        Sample(torch.ones(3, SIDE, SIDE), ("spleen",), (UNKNOWN,), (NOTHING,)),
        Sample(torch.ones(3, SIDE, SIDE) * 2, ("liver",), (PRESENT,), (mask(1, 2, 3, 4),)),
    ]
    batch = collate(samples)
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.phrases == ("lung", "liver", "spleen", "liver")
    assert batch.pair_slice.tolist() == [0, 0, 1, 2]
    assert batch.states.tolist() == [1, 0, -1, 1]
    assert batch.object_pair.tolist() == [0, 0, 3]
    assert torch.equal(batch.masks, torch.cat([two, mask(1, 2, 3, 4)]))
    assert torch.equal(batch.boxes_cxcywh, boxes_of_masks(batch.masks))
    assert (batch.pair_slice.dtype, batch.states.dtype) == (torch.int64, torch.int8)


def test_a_batch_without_phrases_or_objects_is_a_batch() -> None:
    batch = collate([Sample(torch.zeros(3, SIDE, SIDE), (), (), ())])
    assert batch.masks.shape == (0, SIDE, SIDE)
    assert batch.boxes_cxcywh.shape == (0, 4)
    assert batch.object_pair.dtype == torch.int64
    assert batch.phrases == ()


def test_a_sample_with_a_mask_too_few_is_refused() -> None:
    sample = Sample(torch.zeros(3, SIDE, SIDE), ("liver", "lung"), (PRESENT, ABSENT), (mask(0, 1, 0, 1),))
    with pytest.raises(ValueError, match="shorter"):
        collate([sample])


def test_a_batch_moves_but_for_what_is_known_of_its_pairs() -> None:
    batch = collate([Sample(torch.zeros(3, SIDE, SIDE), ("liver",), (PRESENT,), (mask(0, 2, 0, 2),))])
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in (moved.images, moved.pair_slice, moved.masks)} == {"meta"}
    # What decides which of them the loss reads is known on the host.
    stays = (moved.states, moved.boxes_cxcywh, moved.object_pair)
    assert {tensor.device.type for tensor in stays} == {"cpu"}
    assert moved.phrases == batch.phrases
