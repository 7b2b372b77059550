"""Walks through worlds of flat shapes, with a network that follows grey values: every answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import tracker
from MedicalSAM3Lib.decide import PATIENCE
from MedicalSAM3Lib.errors import Cancelled, MemoryFull
from MedicalSAM3Lib.instances import same_objects
from MedicalSAM3Lib.ladder import Batches
from MedicalSAM3Lib.memory import MemoryLimits
from MedicalSAM3Lib.objects import SliceObjects
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.structures import Progress
from MedicalSAM3Lib.tracker import Track, best_slices, track
from MedicalSAM3Lib.tracker_steps import GONE, Answer, Recalled, SliceImage
from MedicalSAM3Lib.walks import Walk

SIDE = 24


@dataclass
class FollowGrey:
    """Takes what has the object's grey, as last seen, and touches its mask there when that is grown by two pixels.

    The memory of a slice is its mask and grey; the pointer is the mean place. ``blind`` slices look empty.
    """

    volume: np.ndarray
    limits: MemoryLimits = field(default_factory=MemoryLimits)
    blind: frozenset[int] = frozenset()
    looked: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def look(self, slices: Sequence[int]) -> SliceImage:
        self.looked += slices
        pictures = [np.zeros((SIDE, SIDE)) if n in self.blind else self.volume[n] for n in slices]
        coarse = torch.from_numpy(np.stack(pictures).astype(np.float32)).reshape(-1, 1, SIDE, SIDE)
        return SliceImage(coarse, coarse, coarse, coarse)

    def take_mask(self, image: SliceImage, logits_bss: Tensor) -> Answer:
        return self._answer(logits_bss > 0)

    def follow(self, image: SliceImage, recalled: Recalled) -> Answer:
        self.rows.append(len(image.coarse))
        masks = []
        for row, picture in enumerate(image.coarse[:, 0]):
            shown = recalled.memories[row, :, :, 0].any(1)
            steps = torch.where(recalled.steps[row] == 0, 99, recalled.steps[row])
            latest = int(torch.where(shown, steps, 100).argmin())
            mask, grey = recalled.memories[row, latest].unbind(-1)
            near = torch.nn.functional.max_pool2d(mask.view(1, 1, SIDE, SIDE), 5, 1, 2)[0, 0] > 0
            masks.append(near & (picture == grey.max()) & (grey.max() > 0))
        return self._answer(torch.stack(masks))

    def memorise(self, image: SliceImage, answer: Answer) -> Tensor:
        mask = (answer.logits > 0).float()
        grey = (image.coarse[:, 0] * mask).flatten(1).amax(1)[:, None, None].expand_as(mask)
        return torch.stack([mask, grey], -1).flatten(1, 2)

    @staticmethod
    def _answer(masks: Tensor) -> Answer:
        here = masks.flatten(1).any(1)
        return Answer(
            logits=torch.where(masks, 5.0, torch.where(here[:, None, None], -5.0, GONE)),
            iou=torch.ones(len(masks)),
            here=torch.where(here, 4.0, -4.0),
            pointers=torch.zeros(len(masks), 2),
        )


def disc(row: float, column: float, radius: float = 4.0) -> np.ndarray:
    y, x = np.indices((SIDE, SIDE))
    return (y - row) ** 2 + (x - column) ** 2 <= radius**2


def seen(*masks: tuple[np.ndarray, float]) -> SliceObjects:
    """What a detector reports on one slice: masks with their scores."""
    logits = torch.from_numpy(np.stack([np.where(mask, 3.0, -3.0) for mask, _ in masks])).half()
    return SliceObjects(logits, torch.tensor([score for _, score in masks]))


def run(
    net: FollowGrey,
    objects: dict[tuple[int, int], SliceObjects],
    on_progress: Callable[[Progress], None] | None = None,
    at_once: int = tracker.ROWS_AT_ONCE,
) -> list[Track]:
    rows = Batches(Runtime(torch.device("cpu"), torch.float32), tracker.STAGE, at_once)
    return track(objects, len(net.volume), net, on_progress or (lambda progress: None), rows)


@pytest.fixture
def one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each concept starts from one slice at a time, so that one walk meets all there is to decide."""
    monkeypatch.setattr(tracker, "MOST_SEEDS", 1)


def mask_of(one: Track, n_slices: int) -> np.ndarray:
    volume = np.zeros((n_slices, SIDE, SIDE), bool)
    for n, mask in one.masks.items():
        volume[n] = (mask.logits > 0).numpy()
    return volume


def cylinder(first: int, last: int, n_slices: int = 20, grey: float = 7.0) -> np.ndarray:
    """A disc that moves a pixel to the right on every slice, on slices ``first`` to ``last``."""
    volume = np.zeros((n_slices, SIDE, SIDE), np.float32)
    for n in range(first, last + 1):
        volume[n][disc(11, 4 + n * 0.8)] = grey
    return volume


@pytest.mark.parametrize("seed", [3, 9, 16])
def test_a_moving_disc_is_followed_both_ways_to_its_ends(seed: int) -> None:
    volume = cylinder(3, 16)
    (one,) = run(FollowGrey(volume), {(0, seed): seen((volume[seed] > 0, 0.9))})
    assert sorted(one.masks) == list(range(3, 17))
    np.testing.assert_array_equal(mask_of(one, 20), volume > 0)
    assert [n for n, mask in one.masks.items() if mask.is_seed] == [seed]


def test_a_disc_through_the_whole_volume_ends_with_it() -> None:
    volume = cylinder(0, 19)
    (one,) = run(FollowGrey(volume), {(0, 10): seen((volume[10] > 0, 0.9))})
    np.testing.assert_array_equal(mask_of(one, 20), volume > 0)


def test_a_lesion_on_two_slices_survives() -> None:
    volume = cylinder(8, 9)
    objects = {(0, n): seen((volume[n] > 0, 0.6)) for n in (8, 9)}
    (one,) = run(FollowGrey(volume), objects)
    np.testing.assert_array_equal(mask_of(one, 20), volume > 0)


def test_two_objects_that_touch_stay_two(one_seed: None) -> None:
    """One is grey 5 and above, one is grey 9 and below; the detector sees both as one from slice 6 on."""
    volume = np.zeros((12, SIDE, SIDE), np.float32)
    volume[:, 4:11, 6:16], volume[:, 11:18, 6:16] = 5.0, 9.0
    upper, lower = volume[0] == 5, volume[0] == 9
    objects = {(0, n): seen((upper, 0.9), (lower, 0.85)) for n in range(6)}
    objects |= {(0, n): seen((upper | lower, 0.82)) for n in range(6, 12)}
    first, second = (mask_of(one, 12) for one in run(FollowGrey(volume), objects))
    np.testing.assert_array_equal(first, volume == 5)
    np.testing.assert_array_equal(second, volume == 9)


def test_an_object_that_vanishes_and_returns_is_two_tracks_of_one_concept() -> None:
    volume = cylinder(2, 6) + cylinder(12, 17)
    objects = {(0, n): seen((volume[n] > 0, 0.7 + n / 100)) for n in range(20) if (volume[n] > 0).any()}
    tracks = run(FollowGrey(volume), objects)
    assert [sorted(one.masks) for one in tracks] == [list(range(12, 18)), list(range(2, 7))]
    np.testing.assert_array_equal(mask_of(tracks[0], 20) | mask_of(tracks[1], 20), volume > 0)


def test_slices_that_the_detector_missed_are_filled(one_seed: None) -> None:
    volume = cylinder(2, 17)
    (one,) = run(FollowGrey(volume), {(0, 5): seen((volume[5] > 0, 0.9)), (0, 15): seen((volume[15] > 0, 0.9))})
    np.testing.assert_array_equal(mask_of(one, 20), volume > 0)


def test_seeds_that_are_apart_start_together_and_their_walks_end_where_they_meet() -> None:
    volume = cylinder(2, 17)
    net = FollowGrey(volume)
    objects = {(0, n): seen((volume[n] > 0, 0.9)) for n in range(2, 18)}
    first, second = run(net, objects)
    assert [n for one in (first, second) for n, mask in one.masks.items() if mask.is_seed] == [2, 10]
    assert (sorted(first.masks), sorted(second.masks)) == (list(range(2, 7)), list(range(6, 18)))
    np.testing.assert_array_equal(mask_of(first, 20) | mask_of(second, 20), volume > 0)
    assert same_objects([first, second]).tolist() == [0, 0]


def test_a_seed_a_concept_is_the_most_confident_and_the_next_are_not_near_it() -> None:
    left = {(0, n): seen((disc(11, 11), score)) for n, score in ((3, 0.7), (4, 0.9), (11, 0.8), (12, 0.6), (30, 0.7))}
    left |= {(1, n): seen((disc(11, 11), 0.7)) for n in range(0, 80)}
    assert best_slices(left) == [(0, 4), (0, 30), (0, 12), (1, 0), (1, 8), (1, 16), (1, 24)]


def test_two_walks_of_different_objects_do_not_end_each_other() -> None:
    volume = np.zeros((20, SIDE, SIDE), np.float32)
    volume[:, 4:11, 6:16], volume[:, 11:18, 6:16] = 5.0, 9.0
    upper, lower = volume[0] == 5, volume[0] == 9
    objects = {(0, 4): seen((upper, 0.9)), (0, 15): seen((lower, 0.9))}
    first, second = (mask_of(one, 20) for one in run(FollowGrey(volume), objects))
    np.testing.assert_array_equal(first, volume == 5)
    np.testing.assert_array_equal(second, volume == 9)


def test_a_walk_that_the_detector_never_confirms_ends_and_one_that_it_did_goes_on(one_seed: None) -> None:
    volume = np.tile(disc(11, 11)[None] * np.float32(7), (70, 1, 1))
    shown = (volume[0] > 0, 0.9)
    (alone,) = run(FollowGrey(volume), {(0, 0): seen(shown)})
    assert max(alone.masks) == PATIENCE
    (known,) = run(FollowGrey(volume), {(0, n): seen(shown) for n in range(21)})
    assert max(known.masks) == 20 + 20 + PATIENCE


def test_where_the_tracker_loses_a_surely_seen_object_the_detector_starts_it_again(one_seed: None) -> None:
    volume = cylinder(2, 17)
    objects = {(0, n): seen((volume[n] > 0, 0.9)) for n in range(2, 18)}
    (one,) = run(FollowGrey(volume, blind=frozenset({9})), {**objects, (0, 4): seen((volume[4] > 0, 0.99))})
    np.testing.assert_array_equal(mask_of(one, 20), volume > 0)
    assert one.masks[9].is_seed


def test_where_nobody_is_sure_there_is_no_mask_but_the_walk_goes_on() -> None:
    volume = cylinder(2, 17)
    unsure = {(0, n): seen((volume[n] > 0, 0.4)) for n in range(2, 18)}
    (one,) = run(FollowGrey(volume, blind=frozenset({9})), {**unsure, (0, 4): seen((volume[4] > 0, 0.9))})
    assert sorted(one.masks) == [n for n in range(2, 18) if n != 9]


def test_a_sure_detection_that_disagrees_takes_over(one_seed: None) -> None:
    """The tracker would follow the grey; the detector draws a smaller disc, surely, from slice 10 on."""
    volume = np.zeros((14, SIDE, SIDE), np.float32)
    volume[:, 4:20, 6:16] = 5.0
    half = np.zeros((SIDE, SIDE), bool)
    half[4:12, 6:16] = True
    whole = volume[0] > 0
    objects = {(0, 2): seen((whole, 0.95))} | {(0, n): seen((half, 0.9)) for n in range(10, 14)}
    (one,) = run(FollowGrey(volume), objects)
    assert not one.masks[9].is_seed
    agreed = [n for n in range(10, 14) if one.masks[n].is_seed]
    assert agreed == []  # half of it still agrees by half
    quarter = half.copy()
    quarter[4:12, 6:10] = False
    objects |= {(0, n): seen((quarter, 0.9)) for n in range(10, 14)}
    (one, *_) = run(FollowGrey(volume), objects)
    assert not one.masks[10].is_seed, "a fourth is another thing, not another outline"


def test_a_far_seed_is_renewed_by_a_sure_detection_that_agrees(one_seed: None) -> None:
    volume = np.zeros((40, SIDE, SIDE), np.float32)
    volume[:, 4:20, 6:16] = 5.0
    objects = {(0, n): seen((volume[n] > 0, 0.9)) for n in range(40)} | {(0, 0): seen((volume[0] > 0, 0.95))}
    (one,) = run(FollowGrey(volume), objects)
    assert [n for n, mask in sorted(one.masks.items()) if mask.is_seed] == [0, 16, 32]


def test_what_is_not_confident_starts_nothing() -> None:
    volume = cylinder(2, 17)
    assert run(FollowGrey(volume), {(0, 5): seen((volume[5] > 0, 0.4))}) == []
    assert run(FollowGrey(volume), {}) == []


def test_one_slice_is_its_own_answer() -> None:
    volume = cylinder(0, 0, n_slices=1)
    net = FollowGrey(volume)
    (one,) = run(net, {(0, 0): seen((volume[0] > 0, 0.8))})
    assert sorted(one.masks) == [0]
    assert one.masks[0].confidence == pytest.approx(0.8)
    assert net.rows == []


def test_concepts_and_objects_share_batches_and_change_nothing_for_each_other() -> None:
    volume = cylinder(3, 16) + np.roll(cylinder(1, 12, grey=4.0), 8, axis=1)
    first, second = volume == 7.0, volume == 4.0
    objects = {(0, 8): seen((first[8], 0.9)), (3, 6): seen((second[6], 0.9))}
    net = FollowGrey(volume)
    together = run(net, objects)
    assert max(net.rows) == 4
    for one, truth in zip(together, (first, second), strict=True):
        np.testing.assert_array_equal(mask_of(one, 20), truth)
    net = FollowGrey(volume)
    apart = run(net, objects, at_once=1)
    assert max(net.rows) == 1
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(mask_of(one, 20), mask_of(other, 20))


@dataclass
class FollowFew(FollowGrey):
    """Has memory for so many rows, and is full after it has looked, followed and memorised more."""

    room: int = 2
    failures: int = 0

    def memorise(self, image: SliceImage, answer: Answer) -> Tensor:
        if len(image.coarse) > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("out of memory")
        return super().memorise(image, answer)


def test_a_full_memory_takes_fewer_objects_at_once_and_changes_nothing() -> None:
    volume = cylinder(3, 16) + np.roll(cylinder(1, 12, grey=4.0), 8, axis=1)
    first, second = volume == 7.0, volume == 4.0
    objects = {(0, 8): seen((first[8], 0.9)), (3, 6): seen((second[6], 0.9))}
    net = FollowFew(volume)
    for one, truth in zip(run(net, objects), (first, second), strict=True):
        np.testing.assert_array_equal(mask_of(one, 20), truth)
    assert net.failures == 1  # four walks at first; two at a time are remembered
    with pytest.raises(MemoryFull):
        run(FollowFew(volume, room=0), objects)


@pytest.mark.parametrize("at_once", [1, 2, 3, 16])
def test_walks_that_share_a_seed_do_not_depend_on_how_they_are_batched(at_once: int) -> None:
    """Both walks of a track meet a sure detection of another outline on the same step, and start again there.

    Of three objects: in batches of three the walks of one track are torn apart, and what one of them has seen must
    not make the other look at more than those beside it.
    """
    volume = cylinder(0, 19)
    objects = {(concept, 10): seen((volume[10] > 0, 0.95)) for concept in range(3)}
    for concept in range(3):
        for n in (8, 12):
            objects[concept, n] = seen((disc(8, 7 + n * 0.8), 0.9))
    tracks = run(FollowGrey(volume), objects, at_once=at_once)
    assert len(tracks) == 3
    for one in tracks:
        assert [n for n, mask in sorted(one.masks.items()) if mask.is_seed] == [8, 10, 12]
        assert sorted(one.masks) == list(range(20))


def test_cancel_is_taken_up_before_the_next_step() -> None:
    volume = cylinder(0, 19)
    net = FollowGrey(volume)

    def stop(progress: Progress) -> None:
        assert progress.stage == tracker.STAGE
        if len(net.rows) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(net, {(0, 10): seen((volume[10] > 0, 0.9))}, stop)
    assert len(net.rows) == 3


def test_memory_is_dropped_once_attention_cannot_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = np.zeros((60, SIDE, SIDE), np.float32)
    volume[:, 4:20, 6:16] = 5.0
    pointers, memories, shares = [], [], []
    original = Walk.forget

    def counting(walk: Walk, limits: MemoryLimits) -> None:
        original(walk, limits)
        kept = [one.memory for one in walk.seen.values() if one.memory is not None]
        pointers.append(len(walk.seen))
        memories.append(len(kept))
        shares.extend(memory.untyped_storage().nbytes() - memory.nbytes for memory in kept)

    monkeypatch.setattr(Walk, "forget", counting)
    run(FollowGrey(volume), {(concept, 0): seen((volume[0] > 0, 0.9)) for concept in range(2)})
    assert (max(pointers), max(memories)) == (MemoryLimits().reach, MemoryLimits().memory_reach)
    assert shares
    assert set(shares) == {0}, "a memory keeps the batch that it came with"


def test_attention_on_a_cpu_reads_no_more_memories_at_once_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = cylinder(0, 19)
    objects = {(concept, 0): seen((volume[0] > 0, 0.9)) for concept in range(4)}
    net = FollowGrey(volume)
    expected = run(net, objects)
    assert set(net.rows) == {4}
    one_memory = SIDE * SIDE * 2
    monkeypatch.setattr(tracker, "CPU_VALUES", 6 * one_memory)
    few = FollowGrey(volume)
    for got, other in zip(run(few, objects), expected, strict=True):
        np.testing.assert_array_equal(mask_of(got, 20), mask_of(other, 20))
    # One memory a walk, then two and three of six that fit; at last more than fit: one walk at a time all the same.
    assert few.rows[:5] == [4, 3, 1, 2, 2]
    assert set(few.rows[5:]) == {1}


def test_what_is_left_to_explain_is_no_copy_where_nothing_of_a_slice_is_explained() -> None:
    sure, unsure = seen((disc(8, 8), 0.9)), seen((disc(8, 8), 0.9), (disc(16, 16), 0.3))
    left = tracker._unexplained({(0, 0): sure, (0, 1): unsure}, ())
    assert left[0, 0] is sure
    assert left[0, 1].scores.tolist() == [pytest.approx(0.9)]
