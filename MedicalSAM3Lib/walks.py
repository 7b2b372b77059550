"""What is followed through a volume: tracks, the walks that make them, and what a walk remembers.

Shapes: B rows, s side of the masks, L and M length and width of a memory, C width of a pointer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from MedicalSAM3Lib.decide import Action
from MedicalSAM3Lib.memory import Direction, MemoryLimits, Recall, out_of_reach, recall, seeds_out_of_reach
from MedicalSAM3Lib.tracker_steps import Recalled


@dataclass(frozen=True, slots=True)
class TrackedMask:
    """An object on a slice: ``logits`` float16 ``(s, s)`` in main memory, ``confidence`` 0..1, and whether the
    detector gave it."""

    logits: Tensor
    confidence: float
    is_seed: bool


@dataclass(slots=True)
class Track:
    """One object of a concept, slice by slice."""

    concept: int
    masks: dict[int, TrackedMask] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is kept of an object on a slice: memory ``(L, M)``, None once it is out of reach, and pointer ``(C,)``."""

    memory: Tensor | None
    pointer: Tensor


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk finds on a slice: what to do, whether the detector shows the object too, the mask of the tracker or,
    to start again, of the detector, and what to remember."""

    action: Action
    is_recognised: bool
    mask: TrackedMask
    kept: Remembered


@dataclass(slots=True)
class Walk:
    """A track on its way: what it has seen in one direction. Seeds are shared by both walks of a track; ``credit`` is
    ``decide``'s."""

    track: Track
    direction: Direction
    n: int
    last: Tensor
    seeds: dict[int, Remembered]
    seen: dict[int, Remembered] = field(default_factory=dict)
    credit: int = 0

    def recall(self, limits: MemoryLimits) -> Recall:
        """What to look at on slice ``n``."""
        return recall(self.n, self.direction, self.seeds, self.seen, limits)

    def of(self, n: int) -> Remembered:
        """What is remembered of a slice."""
        return self.seeds[n] if n in self.seeds else self.seen[n]

    def memory_of(self, n: int) -> Tensor:
        """Memory ``(L, M)`` of a slice within reach."""
        memory = self.of(n).memory
        assert memory is not None, "only what no recall reads is forgotten"
        return memory

    def forget(self, limits: MemoryLimits) -> None:
        """Drop what this walk will never look at again: memories first, which are large, then pointers."""
        for past in out_of_reach(self.n, self.direction, self.seen, limits.reach):
            del self.seen[past]
        for past in out_of_reach(self.n, self.direction, self.seen, limits.memory_reach):
            self.seen[past] = replace(self.seen[past], memory=None)
        for seed in seeds_out_of_reach(self.seeds, limits):
            del self.seeds[seed]

    @property
    def since_seed(self) -> int:
        """Slices from ``n`` to the nearest seed."""
        return min(abs(self.n - seed) for seed in self.seeds)


def masks_by_slice(tracks: Iterable[Track]) -> dict[tuple[int, int], list[TrackedMask]]:
    """(concept, slice) to the masks of all of the concept's tracks there."""
    masks: dict[tuple[int, int], list[TrackedMask]] = {}
    for track in tracks:
        for n, mask in track.masks.items():
            masks.setdefault((track.concept, n), []).append(mask)
    return masks


def gather(walks: list[Walk], n_slices: int, limits: MemoryLimits) -> Recalled:
    """Stack what each walk recalls; all recall equally much."""
    chosen = [walk.recall(limits) for walk in walks]
    pairs = list(zip(walks, chosen, strict=True))
    memories = [torch.stack([walk.memory_of(n) for n, _ in one.memories]) for walk, one in pairs]
    device = memories[0].device
    pointers = [[walk.of(n).pointer for n, _ in one.pointers] for walk, one in pairs]
    return Recalled(
        memories=torch.stack(memories),
        steps=torch.tensor([[back for _, back in one.memories] for one in chosen], device=device),
        pointers=torch.stack([torch.stack(row) for row in pointers]),
        pointer_steps=torch.tensor([[back for _, back in one.pointers] for one in chosen], device=device),
        reach=min(n_slices, limits.pointers),
    )
