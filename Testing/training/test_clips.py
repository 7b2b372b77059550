"""Clips of a world whose every slice is known: an object is followed where the labels say it goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.errors import InputError
from Testing.training.data_world import in_memory, source_of
from Training.clips import (
    ClipConfig,
    draw_given,
    draw_window,
    follow_concepts,
    follow_object,
    make_clip,
    rough_outline,
)
from Training.collate import LabelState
from Training.coverage import Coverage
from Training.volumes import TrainingVolume

SIDE = 48


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blocks(*rows: tuple[int, int] | None, column: int = 10) -> np.ndarray:
    """A block of the rows on each slice, none where there is None."""
    masks = np.zeros((len(rows), SIDE, SIDE), bool)
    for n, ends in enumerate(rows):
        if ends:
            masks[n, ends[0] : ends[1], column : column + 12] = True
    return masks


def volume(**changes: object) -> TrainingVolume:
    """Twelve slices: a liver that drifts down and ends, and a spleen beside it that stays."""
    liver = blocks(*[(5 + n, 17 + n) for n in range(8)], *[None] * 4)
    spleen = blocks(*[(5, 20)] * 12, column=30)
    pictures = np.where(liver, 300.0, np.where(spleen, -300.0, 40.0))
    return in_memory(pictures, {"liver": liver, "spleen": spleen}, **changes)


def test_an_object_is_what_overlaps_from_slice_to_slice() -> None:
    left, right = blocks((5, 15), (8, 18), (11, 21), None, (11, 21)), blocks(*[(30, 45)] * 5)
    seen = set()
    for seed in range(20):
        followed = follow_object(left | right, 5, rng(seed))
        assert followed is not None
        one = left.copy()
        one[4] = False  # what ends and returns has ended
        assert np.array_equal(followed, one) or np.array_equal(followed, right)
        seen.add(bool(followed[4].any()))
    assert seen == {True, False}


def test_pieces_that_part_are_one_object_and_specks_are_none() -> None:
    parted = blocks((5, 30), (5, 30)) & ~blocks(None, (15, 20))
    followed = follow_object(parted, 5, rng())
    np.testing.assert_array_equal(followed, parted)
    assert follow_object(blocks((5, 6), (5, 20)), 13, rng()) is None
    assert follow_object(blocks(None, (5, 20)), 1, rng()) is None


def test_a_rough_outline_is_larger_or_smaller_and_never_nothing() -> None:
    mask = blocks((10, 30))[0]
    always = ClipConfig(rough_seed=1.0)
    sizes = {int(rough_outline(mask, always, rng(seed)).sum()) for seed in range(30)}
    assert len(sizes) == 6
    assert min(sizes) < mask.sum() < max(sizes)
    np.testing.assert_array_equal(rough_outline(mask, ClipConfig(rough_seed=0.0), rng()), mask)
    thin = blocks((10, 11))[0]
    assert all(rough_outline(thin, always, rng(seed)).any() for seed in range(10))


def test_a_clip_has_its_truth_and_what_the_tracker_is_told() -> None:
    objects = np.stack([blocks((5, 15), (6, 16), (7, 17)), blocks((25, 35), (26, 36), None)])
    clip = make_clip(objects, (0, 1), ClipConfig(rough_seed=0.0), rng())
    assert torch.equal(clip.masks, torch.from_numpy(objects))
    assert torch.equal(clip.given, clip.masks[:, :2])
    assert clip.given_at == (0, 1)
    rough = make_clip(objects, (0,), ClipConfig(rough_seed=1.0), rng())
    assert not torch.equal(rough.given[:, 0], clip.masks[:, 0])


def test_the_first_slice_is_given_and_now_and_then_another() -> None:
    drawn = {draw_given(ClipConfig(length=4, second_seed=0.5), rng(seed)) for seed in range(60)}
    assert drawn == {(0,), (0, 1), (0, 2), (0, 3)}
    assert draw_given(ClipConfig(second_seed=0.0), rng()) == (0,)
    assert draw_given(ClipConfig(length=2, second_seed=1.0), rng()) == (0,)  # something must be left to ask


def test_objects_are_followed_that_are_on_every_given_slice() -> None:
    masks = [(0, blocks((5, 15), (6, 16), None)), (2, blocks((25, 35), (26, 36), (27, 37)))]
    cover = Coverage.of_masks(masks[0][1].shape, masks, 3)
    assert list(follow_concepts(cover, [0, 1, 2], (0, 1), ClipConfig(), rng())) == [0, 2]
    assert list(follow_concepts(cover, [0, 1, 2], (0, 2), ClipConfig(), rng())) == [2]
    assert list(follow_concepts(cover, [2, 0], (0,), ClipConfig(objects=1), rng())) == [2]
    assert follow_concepts(cover, [1], (0,), ClipConfig(), rng()) == {}


def test_windows_lie_in_one_run_of_the_split_and_go_both_ways() -> None:
    splits = ("train",) * 5 + ("val",) + ("train",) * 6
    world = volume(splits=splits)
    windows = [draw_window(world, "train", ClipConfig(length=3, most_stride=2), rng(seed)) for seed in range(200)]
    steps = {window[1] - window[0] for window in windows}
    assert steps == {-2, -1, 1, 2}
    assert all(5 not in range(min(window), max(window) + 1) for window in windows)
    assert all(len(window) == 3 for window in windows)
    assert {min(window) for window in windows} == {0, 1, 2, 6, 7, 8, 9}


def test_a_run_that_admits_neighbours_only_gives_neighbours() -> None:
    world = volume(splits=("train",) * 5 + ("",) * 7)
    windows = [draw_window(world, "train", ClipConfig(length=5, most_stride=3), rng(seed)) for seed in range(20)]
    assert {tuple(sorted(window)) for window in windows} == {(0, 1, 2, 3, 4)}


def test_a_split_without_a_run_is_refused() -> None:
    world = volume(splits=("train", "val") * 6)
    with pytest.raises(InputError, match="runs of 5 slices of the split 'train' in 'pictures', found none"):
        draw_window(world, "train", ClipConfig(length=5), rng())


CLIPS = {"per_step": 2, "length": 4, "rough_seed": 0.0, "second_seed": 0.0}


def test_a_step_has_single_slices_first_and_then_its_clips() -> None:
    batch = source_of(volume(), ("liver", "spleen"), batch_slices=3, phrases_per_slice=2, clips=CLIPS).batch(0)
    assert batch.images.shape[0] == 3 + 2 * 4
    clips = batch.clips
    assert clips is not None
    assert (clips.count, clips.given_at) == (2, (0,))
    assert clips.masks.shape == (len(clips.clip_of), 4, SIDE, SIDE)
    assert clips.given.shape == (len(clips.clip_of), 1, SIDE, SIDE)
    for clip in range(2):
        followed = clips.masks[clips.clip_of == clip]
        for t in range(4):
            pairs = (batch.pair_slice == 3 + clip * 4 + t).nonzero().flatten().tolist()
            assert len(pairs) == len(followed)
            for one, pair in zip(followed[:, t], pairs, strict=True):
                truth = batch.masks[batch.object_pair == pair].any(0)
                assert torch.equal(one, truth)
                state = LabelState.PRESENT if bool(truth.any()) else LabelState.ABSENT
                assert int(batch.states[pair]) == state


def test_clips_start_with_an_object_and_some_lose_it() -> None:
    source = source_of(volume(), ("liver", "spleen"), clips={**CLIPS, "per_step": 8})
    clips = source.batch(0).clips
    assert clips is not None
    assert bool(clips.masks[:, 0].flatten(1).any(1).all())
    assert not bool(clips.masks.flatten(2).any(2).all())
    assert torch.equal(clips.given[:, 0], clips.masks[:, 0])


def test_all_clips_of_a_step_are_told_about_the_same_slices() -> None:
    source = source_of(volume(), ("liver", "spleen"), clips={**CLIPS, "second_seed": 1.0})
    for step in range(4):
        clips = source.batch(step).clips
        assert clips is not None
        assert len(clips.given_at) == 2
        assert torch.equal(clips.given, clips.masks[:, list(clips.given_at)])
        assert bool(clips.given.flatten(2).any(2).all())


def test_clips_leave_the_single_slices_as_they_were() -> None:
    without = source_of(volume(), ("liver", "spleen"), batch_slices=3).batch(4)
    beside = source_of(volume(), ("liver", "spleen"), batch_slices=3, clips=CLIPS).batch(4)
    assert without.clips is None
    assert torch.equal(beside.images[:3], without.images)


def test_a_concept_that_is_unknown_on_a_slice_is_not_followed() -> None:
    states = volume().states.copy()
    states[:, 1] = LabelState.UNKNOWN
    source = source_of(volume(states=states), ("liver", "spleen"), clips=CLIPS)
    asked = {phrase for step in range(5) for phrase in source.batch(step).phrases}
    assert "spleen" not in asked


def test_nothing_to_follow_is_said() -> None:
    empty = in_memory(np.zeros((6, SIDE, SIDE)), {"liver": np.zeros((6, SIDE, SIDE), bool)})
    with pytest.raises(InputError, match="Expected an object to follow in one of 50 clips"):
        source_of(empty, ("liver",), clips=CLIPS).batch(0)
