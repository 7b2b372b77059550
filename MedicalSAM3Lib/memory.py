"""What a tracked object remembers on a slice: bookkeeping of SAM3's memory bank, without a tensor.

A *seed* (SAM3: conditioning frame) is a slice whose mask came from the detector; a *tracked* slice got its mask
from the tracker. A walk goes along a direction, +1 or -1 in slice numbers. Before each slice the bank is asked
what attention may look at:

    memories   the mask and image of up to four seeds, and of the six slices walked last
    pointers   one vector an object and slice: of those seeds that lie behind, and of the fifteen slices walked last

The numbers are SAM3's (``Sam3TrackerVideoConfig``), as is the choice (``Sam3TrackerVideoModel``); a seed that
lies ahead is remembered, its pointer is not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Direction = Literal[1, -1]


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """How much attention can reach.

    Attributes:
        memories: Memories of slices; one place is the seeds', so ``memories - 1`` slices walked last.
        seeds: Most seeds at a time.
        pointers: Object pointers reach back ``pointers - 1`` slices.
    """

    memories: int = 7
    seeds: int = 4
    pointers: int = 16

    @property
    def reach(self) -> int:
        """Slices back beyond which nothing of a tracked slice is ever read."""
        return max(self.memories, self.pointers) - 1

    @property
    def memory_reach(self) -> int:
        """Slices back beyond which no memory of a tracked slice is read; its pointer, a hundredth of it, may be."""
        return self.memories - 1


@dataclass(frozen=True, slots=True)
class Recall:
    """What attention looks at on one slice.

    Attributes:
        memories: (slice, steps back); 0 steps for a seed, whatever its distance, as SAM3 encodes it.
        pointers: (slice, steps back along the walk).
    """

    memories: tuple[tuple[int, int], ...]
    pointers: tuple[tuple[int, int], ...]

    @property
    def size(self) -> tuple[int, int]:
        """Objects of equal size can share a batch: attention has no mask for what is missing."""
        return len(self.memories), len(self.pointers)


def recall(
    n: int, direction: Direction, seeds: Collection[int], tracked: Collection[int], limits: MemoryLimits
) -> Recall:
    """Choose what slice ``n`` looks at.

    Args:
        n: The slice that is about to be tracked.
        direction: Of the walk.
        seeds: Slices with a mask from the detector, at least one.
        tracked: Slices that the tracker has answered. What is missing (a gap, the volume's end) is left out.
        limits: Of the model.

    Raises:
        ValueError: There is no seed: nothing to remember.
    """
    if not seeds:
        raise ValueError("expected at least one seed, got none")
    chosen = nearest_seeds(n, direction, seeds, limits.seeds)
    memories = [(seed, 0) for seed in chosen]
    pointers = [(seed, (n - seed) * direction) for seed in chosen if (n - seed) * direction >= 0]
    for back in range(1, limits.reach + 1):
        past = n - back * direction
        if past in chosen:
            continue
        if back < limits.memories and (past in tracked or past in seeds):
            memories.append((past, back))
        if back < limits.pointers and past in tracked and past not in seeds:
            pointers.append((past, back))
    return Recall(tuple(memories), tuple(pointers))


def nearest_seeds(n: int, direction: Direction, seeds: Collection[int], most: int) -> tuple[int, ...]:
    """Up to ``most`` seeds: the nearest behind, the nearest ahead, then whichever are nearest.

    Of two at equal distance the one behind comes first: what has been walked is known better.
    """
    by_distance = sorted(seeds, key=lambda seed: (abs(seed - n), (seed - n) * direction))
    behind = [seed for seed in by_distance if (seed - n) * direction < 0][:1]
    ahead = [seed for seed in by_distance if (seed - n) * direction >= 0][:1]
    first = [seed for seed in by_distance if seed in (*behind, *ahead)]
    rest = [seed for seed in by_distance if seed not in first]
    return tuple((first + rest)[:most])


def out_of_reach(n: int, direction: Direction, tracked: Collection[int], reach: int) -> tuple[int, ...]:
    """Tracked slices more than ``reach`` back, at which a walk at slice ``n`` will never look again: their tensors can
    be dropped."""
    return tuple(sorted(past for past in tracked if (n - past) * direction > reach))


def seeds_out_of_reach(seeds: Collection[int], limits: MemoryLimits) -> tuple[int, ...]:
    """Seeds at which neither walk of a track will ever look again: those far from both its ends.

    All seeds of a track lie behind both of its walks, and new ones come at the two ends.
    """
    most = max(limits.seeds, limits.memory_reach)
    return tuple(sorted(seeds)[most:-most])
