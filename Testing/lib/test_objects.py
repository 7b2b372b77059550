"""Objects of a slice, and the verdict on a walk, from a few rectangles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib.decide import PATIENCE, REFRESH_SLICES, Verdict, decide, explained
from MedicalSAM3Lib.objects import MOST_OBJECTS, SliceObjects, iou, objects_of

SIDE = 16


def box(top: int, bottom: int, left: int = 2, right: int = 12) -> Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def logits(*masks: Tensor) -> Tensor:
    return torch.stack([torch.where(mask, 4.0, -4.0) for mask in masks])


def found(score: float, *masks: Tensor) -> SliceObjects:
    return SliceObjects(logits(*masks).half(), torch.full((len(masks),), score))


def test_confident_queries_are_objects_the_most_confident_first_and_none_twice() -> None:
    one, other, again, unsure = box(0, 4), box(8, 12), box(0, 5), box(13, 15)
    instances = logits(one, other, again, unsure)
    scores = torch.tensor([0.6, 0.9, 0.7, 0.3])
    objects = objects_of(instances, scores, torch.full((SIDE, SIDE), -3.0), 0.8, 0.5)
    assert objects.scores.tolist() == pytest.approx([0.9, 0.7])
    assert torch.equal(objects.logits > 0, torch.stack([other, again]))


def test_a_part_of_the_map_that_no_query_covers_is_an_object() -> None:
    shown, missed, speck = box(0, 5), box(8, 12), box(15, 16, 2, 5)
    fused = logits(shown | missed | speck)[0]
    objects = objects_of(logits(shown), torch.tensor([0.9]), fused, 0.6, 0.5)
    assert objects.scores.tolist() == pytest.approx([0.9, 0.6])
    assert torch.equal(objects.logits > 0, torch.stack([shown, missed]))


def test_without_a_confident_query_the_map_is_one_object_in_however_many_parts() -> None:
    shown = box(0, 5) | box(8, 12)
    objects = objects_of(logits(box(0, 5)), torch.tensor([0.2]), logits(shown)[0], 0.7, 0.5)
    assert objects.scores.tolist() == pytest.approx([0.7])
    assert torch.equal(objects.logits > 0, shown[None])


def test_nothing_is_no_object() -> None:
    empty = objects_of(logits(box(0, 0)), torch.tensor([0.9]), torch.full((SIDE, SIDE), -3.0), 0.7, 0.5)
    assert empty.logits.shape == (0, SIDE, SIDE)
    none = objects_of(torch.zeros(0, SIDE, SIDE), torch.zeros(0), torch.full((SIDE, SIDE), -3.0), 0.7, 0.5)
    assert len(none.scores) == 0


def test_an_object_that_is_the_whole_map_lies_where_the_map_does_and_any_other_is_kept() -> None:
    whole = logits(box(0, 5))[0].half()
    alone = found(0.7, box(0, 5)).kept(whole, torch.clone)
    assert alone.logits.data_ptr() == whole.data_ptr()
    assert torch.equal(alone.logits, logits(box(0, 5)).half())
    assert alone.scores.tolist() == pytest.approx([0.7])
    none = SliceObjects(logits(box(0, 5))[:0], torch.zeros(0))
    for objects in (found(0.7, box(0, 4)), found(0.7, box(0, 5), box(8, 12)), none):
        stored: list[Tensor] = []
        kept = objects.kept(whole, lambda one, stored=stored: stored.append(one.clone()) or stored[0])
        assert kept.logits is stored[0]
        assert torch.equal(kept.logits, objects.logits)


def test_there_is_an_end_to_objects() -> None:
    single = torch.eye(MOST_OBJECTS + 3).view(-1, 1, MOST_OBJECTS + 3) > 0
    instances, scores = torch.where(single, 4.0, -4.0), torch.linspace(0.9, 0.6, len(single))
    objects = objects_of(instances, scores, instances.amax(0), 0.7, 0.5)
    assert objects.scores.tolist() == pytest.approx(scores[:MOST_OBJECTS].tolist())


def test_overlap_by_hand() -> None:
    assert iou(box(0, 4), torch.stack([box(2, 6), box(0, 4), box(8, 9)])).tolist() == pytest.approx([1 / 3, 1.0, 0.0])
    assert iou(box(0, 0), box(0, 0)[None]).tolist() == [0.0]


MASK = box(2, 10)
SIMILAR = box(3, 10)
ELSEWHERE = box(12, 15)
OTHER_OUTLINE = box(6, 14)
LARGER = box(0, 16, 0, 16)


@pytest.mark.parametrize(
    ("mask", "is_here", "seen", "since_seed", "wanted"),
    [
        (MASK, True, None, 3, Verdict("follow", is_recognised=False)),
        (MASK, True, found(0.95, ELSEWHERE), 3, Verdict("follow", is_recognised=False)),
        (MASK, True, found(0.95, SIMILAR), 3, Verdict("follow")),
        (MASK, True, found(0.95, ELSEWHERE, SIMILAR), REFRESH_SLICES, Verdict("reseed", 1)),
        (MASK, True, found(0.6, SIMILAR), REFRESH_SLICES, Verdict("follow")),
        (MASK, True, found(0.95, OTHER_OUTLINE), 3, Verdict("reseed", 0)),
        (MASK, True, found(0.6, OTHER_OUTLINE), 3, Verdict("follow")),
        (MASK, True, found(0.95, LARGER), 3, Verdict("follow")),
        (MASK, False, found(0.95, SIMILAR), 3, Verdict("reseed", 0)),
        (box(0, 0), True, found(0.95, SIMILAR), 3, Verdict("reseed", 0)),
        (MASK, False, found(0.6, SIMILAR), 3, Verdict("wait")),
        (MASK, False, found(0.95, ELSEWHERE), 3, Verdict("end", is_recognised=False)),
        (MASK, False, None, 3, Verdict("end", is_recognised=False)),
        (box(0, 0), True, None, 3, Verdict("end", is_recognised=False)),
    ],
)
def test_the_verdict(mask: Tensor, is_here: bool, seen: SliceObjects | None, since_seed: int, wanted: Verdict) -> None:
    assert decide(mask, MASK, is_here, seen, since_seed) == wanted


@pytest.mark.parametrize(("credit", "action"), [(5, "follow"), (1 - PATIENCE, "follow"), (-PATIENCE, "end")])
def test_a_tracker_that_nobody_confirms_is_not_followed_for_ever(credit: int, action: str) -> None:
    assert decide(MASK, MASK, True, None, 3, credit) == Verdict(action, is_recognised=False)
    assert decide(MASK, MASK, True, found(0.6, SIMILAR), 3, credit) == Verdict("follow")


def test_a_detection_is_explained_by_the_same_outline_or_by_lying_inside() -> None:
    detections = logits(SIMILAR, box(4, 6), ELSEWHERE, box(9, 13))
    assert explained(detections, [logits(MASK)[0]]).tolist() == [True, True, False, False]
    assert explained(detections, []).tolist() == [False] * 4
    assert explained(detections[:0], [logits(MASK)[0]]).tolist() == []
