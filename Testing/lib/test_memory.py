"""What the memory bank offers on a slice, counted by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.memory import Direction, MemoryLimits, nearest_seeds, out_of_reach, recall, seeds_out_of_reach

LIMITS = MemoryLimits()
SMALL = MemoryLimits(memories=3, seeds=2, pointers=4)


def test_the_first_slice_after_a_seed_looks_at_the_seed_alone() -> None:
    chosen = recall(11, 1, [10], [], LIMITS)
    assert chosen.memories == ((10, 0),)
    assert chosen.pointers == ((10, 1),)
    assert chosen.size == (1, 1)


def test_a_long_walk_looks_at_the_seed_six_memories_and_fifteen_pointers() -> None:
    chosen = recall(40, 1, [10], range(11, 40), LIMITS)
    assert chosen.memories == ((10, 0), *((40 - back, back) for back in range(1, 7)))
    assert chosen.pointers == ((10, 30), *((40 - back, back) for back in range(1, 16)))


def test_a_walk_down_is_the_mirror_image_of_a_walk_up() -> None:
    up = recall(25, 1, [20, 30], range(21, 25), LIMITS)
    down = recall(-25, -1, [-20, -30], [-slice_ for slice_ in range(21, 25)], LIMITS)
    assert tuple((-n, back) for n, back in down.memories) == up.memories
    assert tuple((-n, back) for n, back in down.pointers) == up.pointers


def test_a_seed_ahead_is_remembered_but_its_pointer_is_not() -> None:
    chosen = recall(22, 1, [20, 30], [21], LIMITS)
    assert chosen.memories == ((20, 0), (30, 0), (21, 1))
    assert chosen.pointers == ((20, 2), (21, 1))


def test_a_gap_is_left_out() -> None:
    chosen = recall(20, 1, [10], [11, 12, 17, 19], SMALL)
    assert chosen.memories == ((10, 0), (19, 1))
    assert chosen.pointers == ((10, 10), (19, 1), (17, 3))


def test_at_the_ends_of_the_volume_there_is_just_less() -> None:
    assert recall(1, 1, [0], [], LIMITS).memories == ((0, 0),)
    assert recall(0, -1, [3], [1, 2], LIMITS).memories == ((3, 0), (1, 1), (2, 2))


def test_of_more_seeds_than_places_the_nearest_on_both_sides_stay() -> None:
    seeds = [1, 2, 3, 4, 50]
    assert nearest_seeds(6, 1, seeds, 4) == (4, 50, 3, 2)
    chosen = recall(6, 1, seeds, [5], LIMITS)
    assert {n for n, back in chosen.memories if back == 0} == {4, 50, 3, 2}
    # The one without a place among the seeds is still one of the slices walked last.
    assert (1, 5) in chosen.memories
    assert all(n != 50 for n, _ in chosen.pointers)


def test_with_one_place_the_nearest_seed_has_it() -> None:
    assert nearest_seeds(6, 1, [1, 8], 1) == (8,)
    assert nearest_seeds(6, -1, [1, 8], 1) == (8,)


def test_of_two_seeds_at_equal_distance_the_one_behind_comes_first() -> None:
    assert nearest_seeds(5, 1, [4, 6], 1) == (4,)
    assert nearest_seeds(5, -1, [4, 6], 1) == (6,)


def test_without_a_seed_there_is_nothing_to_remember() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        recall(3, 1, [], [1, 2], LIMITS)


def test_what_no_later_slice_reads_may_go() -> None:
    assert out_of_reach(20, 1, range(0, 20), LIMITS.reach) == (0, 1, 2, 3, 4)
    assert out_of_reach(20, -1, range(21, 40), LIMITS.reach) == (36, 37, 38, 39)
    assert out_of_reach(20, 1, [], LIMITS.reach) == ()


@given(
    start=st.integers(0, 60),
    direction=st.sampled_from((1, -1)),
    seeds=st.sets(st.integers(0, 120), max_size=8),
    limits=st.builds(MemoryLimits, st.integers(1, 9), st.integers(1, 5), st.integers(1, 18)),
)
def test_a_walk_that_forgets_recalls_the_same_as_one_that_keeps_all(
    start: int, direction: Direction, seeds: set[int], limits: MemoryLimits
) -> None:
    seeds = seeds | {start}
    kept: set[int] = set()
    everything: set[int] = set()
    for step in range(1, 41):
        n = start + direction * step
        assert recall(n, direction, seeds, kept, limits) == recall(n, direction, seeds, everything, limits)
        chosen = recall(n, direction, seeds, kept, limits)
        assert len({slice_ for slice_, _ in chosen.memories}) == len(chosen.memories)
        assert len(chosen.memories) <= limits.seeds + limits.memories - 1
        assert len(chosen.pointers) <= limits.seeds + limits.pointers - 1
        if n not in seeds:
            kept.add(n)
            everything.add(n)
        kept -= set(out_of_reach(n + direction, direction, kept, limits.reach))
    assert len(kept) <= limits.reach


def test_seeds_in_the_middle_of_a_track_may_go() -> None:
    assert seeds_out_of_reach(range(12), LIMITS) == ()
    assert seeds_out_of_reach(range(0, 45, 3), LIMITS) == (18, 21, 24)


@given(
    lengths=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    reseeded=st.sets(st.integers(10, 90), max_size=60),
    limits=st.builds(MemoryLimits, st.integers(1, 9), st.integers(1, 5), st.integers(1, 18)),
)
def test_both_walks_of_a_track_recall_the_same_without_the_seeds_between_them(
    lengths: tuple[int, int], reseeded: set[int], limits: MemoryLimits
) -> None:
    every, kept, tracked = {50}, {50}, set[int]()
    ways: tuple[tuple[Direction, int], ...] = ((1, lengths[0]), (-1, lengths[1]))
    for step in range(1, max(lengths) + 1):
        here = [50 + direction * step for direction, length in ways if step <= length]
        for direction, length in ways:
            if step <= length:
                n = 50 + direction * step
                assert recall(n, direction, kept, tracked, limits) == recall(n, direction, every, tracked, limits)
        every |= reseeded.intersection(here)
        kept |= reseeded.intersection(here)
        tracked |= set(here) - reseeded
        kept -= set(seeds_out_of_reach(kept, limits))
    assert len(kept) <= 2 * max(limits.seeds, limits.memory_reach)
