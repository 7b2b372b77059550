"""Carry objects through the volume: from seeds, up and down, by the memory bank.

A volume is not a stream: all slices and all detections are there before the first step. So there is no hot start,
and no frame-by-frame guess whether an object is new:

    seed      of what no track explains yet, the slices with the most confident detections of each concept, a few and
              apart from each other; every object on them starts a track
    walk      each track goes up and down by one slice at a time, all walks together in batches
    decide    on each slice: follow the tracker, start again from the detector, or end (``decide``)
    meet      a walk ends where another track of its concept shows the same object already
    repeat    until every confident detection is explained

A lesion on two slices is a track of two slices. An object that vanishes and returns is two tracks of one concept, and
one that was started at two places is two that meet: who asks for objects gets one (``instances.same_objects``).

Shapes: B rows, S side of the model's input, s side of its masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from MedicalSAM3Lib.decide import AGREE_IOU, decide, explained
from MedicalSAM3Lib.ladder import Batches
from MedicalSAM3Lib.mask_file import MaskFile
from MedicalSAM3Lib.memory import Direction, MemoryLimits
from MedicalSAM3Lib.objects import SliceObjects, iou
from MedicalSAM3Lib.process_memory import Trimmer
from MedicalSAM3Lib.structures import OnProgress, Progress
from MedicalSAM3Lib.tracker_steps import Answer, Recalled, SliceImage
from MedicalSAM3Lib.walks import Remembered, Seen, Track, TrackedMask, Walk, gather, masks_by_slice

STAGE = "tracking"

NEW_SCORE = 0.5
"""Score from which a detection that no track explains starts one: SAM3's, where nothing is tracked yet."""

MOST_SEEDS = 4
SEEDS_APART = 8
"""Slices of a concept that start tracks together, and how far they lie apart: more walks go in a batch, and nothing is
followed over more slices than it has to. Each walk holds its memories, so that they are few."""

ROWS_AT_ONCE = 16
CPU_VALUES = 1_500_000
"""Values of memories that attention reads at once on a CPU: more gains nothing, and attention takes 70 bytes for
each. Of the tiny model, 16 rows with seven memories took 190 MB, 8 rows take 105 MB, and each row takes as long."""

MOST_FREED = 50_000_000
"""Bytes. What a step needs for a moment is much larger than the masks that it leaves, which lie between in the
allocator's pages: left alone, these grew by 180 MB over 90 slices."""

Shown = dict[tuple[int, int], list[tuple[Track, Tensor]]]
"""(concept, slice) to the tracks that are there, with their logits."""


class TrackerNet(Protocol):
    """The network, bound to the features of one volume; ``BoundTracker`` in the program, a fake in tests."""

    limits: MemoryLimits

    def look(self, slices: Sequence[int]) -> SliceImage:
        """A row for each slice."""

    def take_mask(self, image: SliceImage, logits_bss: Tensor) -> Answer:
        """Start from mask logits ``(B, s, s)``."""

    def follow(self, image: SliceImage, recalled: Recalled) -> Answer:
        """Find the objects by what is remembered."""

    def memorise(self, image: SliceImage, answer: Answer) -> Tensor:
        """Memories ``(B, L, M)``."""


def track(
    objects: Mapping[tuple[int, int], SliceObjects],
    n_slices: int,
    net: TrackerNet,
    on_progress: OnProgress,
    rows_at_once: Batches,
    masks: MaskFile | None = None,
) -> list[Track]:
    """Follow all detected objects.

    Args:
        objects: (concept, slice) to the objects that the detector found there.
        n_slices: Of the stack.
        net: The tracker.
        on_progress: Called before every step; ``done`` counts explained detections. May raise ``Cancelled``.
        rows_at_once: How many objects the network takes at once, ``ROWS_AT_ONCE`` to begin with.
        masks: Keeps those of the tracks, all in memory by default.

    Raises:
        MemoryFull: There is no memory for a single object.
    """
    left = _unexplained(objects, ())
    tracks: list[Track] = []
    shown: Shown = {}
    masks = masks or MaskFile()
    trim = Trimmer(MOST_FREED, masks.let_go)
    while left:
        walks: list[Walk] = []
        first = len(tracks)
        for concept, n in best_slices(left):
            for new, ways in _start(concept, n, left.pop((concept, n)), n_slices, net, rows_at_once):
                tracks.append(new)
                shown.setdefault((concept, n), []).append((new, new.masks[n].logits))
                walks += ways
        while walks:
            trim()
            on_progress(Progress(STAGE, len(objects) - len(left), len(objects)))
            walks = _step(walks, objects, shown, n_slices, net, rows_at_once, masks)
        left = _unexplained(left, tracks[first:])
    on_progress(Progress(STAGE, len(objects), len(objects)))
    return tracks


def best_slices(left: Mapping[tuple[int, int], SliceObjects]) -> list[tuple[int, int]]:
    """Of each concept the slices with the most confident objects, of equal ones the first: ``MOST_SEEDS`` at most, and
    ``SEEDS_APART`` from each other."""
    chosen: dict[int, list[int]] = {}
    for concept, n in sorted(left, key=lambda key: (key[0], -float(left[key].scores.max()), key[1])):
        seeds = chosen.setdefault(concept, [])
        if len(seeds) < MOST_SEEDS and all(abs(n - seed) >= SEEDS_APART for seed in seeds):
            seeds.append(n)
    return [(concept, n) for concept, seeds in chosen.items() for n in seeds]


def _unexplained(
    found: Mapping[tuple[int, int], SliceObjects], tracks: Sequence[Track]
) -> dict[tuple[int, int], SliceObjects]:
    """The objects that may start a track and that none of some tracks explains; slices without such are left out."""
    left, tracked = {}, masks_by_slice(tracks)
    for key, objects in found.items():
        masks = [mask.logits for mask in tracked.get(key, ())]
        wanted = (objects.scores >= NEW_SCORE) & ~explained(objects.logits, masks)
        if bool(wanted.any()):
            left[key] = objects if bool(wanted.all()) else objects.take(wanted)  # a copy of some only
    return left


def _start(
    concept: int, n: int, chosen: SliceObjects, n_slices: int, net: TrackerNet, rows_at_once: Batches
) -> Iterator[tuple[Track, list[Walk]]]:
    """A track for each object, with its walks away from the seed, as far as there are slices."""
    ways: tuple[Direction, ...] = (1, -1)
    kept: list[Remembered] = []

    def take_part(part: slice) -> None:
        image = net.look([n] * (part.stop - part.start))
        kept.extend(_remember(net, image, net.take_mask(image, chosen.logits[part])))

    rows_at_once.each(0, len(chosen.scores), take_part)
    for logits, score, remembered in zip(chosen.logits, chosen.scores.tolist(), kept, strict=True):
        new = Track(concept, {n: TrackedMask(logits, score, is_seed=True)})
        seeds = {n: remembered}
        yield new, [Walk(new, way, n + way, logits > 0, seeds) for way in ways if 0 <= n + way < n_slices]


def _alike(walks: Iterable[Walk], limits: MemoryLimits) -> Iterator[list[Walk]]:
    """Walks that remember equally much go together, as far as they fit: attention has no mask for what is missing."""

    def size(walk: Walk) -> tuple[int, int]:
        return walk.recall(limits).size

    for (memories, _), group in groupby(sorted(walks, key=size), key=size):
        alike = list(group)
        most = rows_that_fit(alike[0].memory_of(next(iter(alike[0].seeds))), memories)
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


def rows_that_fit(memory: Tensor, count: int) -> int:
    """How many objects attention takes at once when each recalls ``count`` memories like this one ``(L, M)``."""
    if memory.device.type != "cpu":
        return ROWS_AT_ONCE
    return max(1, min(ROWS_AT_ONCE, CPU_VALUES // (count * memory.numel())))


def _step(
    walks: list[Walk],
    objects: Mapping[tuple[int, int], SliceObjects],
    shown: Shown,
    n_slices: int,
    net: TrackerNet,
    rows_at_once: Batches,
    masks: MaskFile,
) -> list[Walk]:
    """Take all walks by one slice; returns those that go on.

    Nothing is written before all have looked: the walks of a track share its seeds, and what one of them sees must
    not depend on whether the other was in an earlier batch.
    """
    seen: list[tuple[Walk, Seen]] = []
    for alike in _alike(walks, net.limits):

        def look_on(part: slice, alike: list[Walk] = alike) -> None:
            batch = alike[part]
            seen.extend(zip(batch, _see(batch, objects, n_slices, net), strict=True))

        rows_at_once.each(0, len(alike), look_on)
    going = []
    seen = [(walk, replace(new, action="end") if _has_met(walk, new, shown) else new) for walk, new in seen]
    for walk, new in seen:
        _write(walk, new, shown, masks)
        walk.n += walk.direction
        if new.action != "end" and 0 <= walk.n < n_slices:
            walk.forget(net.limits)
            going.append(walk)
    return going


def _see(
    walks: list[Walk], objects: Mapping[tuple[int, int], SliceObjects], n_slices: int, net: TrackerNet
) -> list[Seen]:
    """What each walk of a batch finds on its slice, and what follows from it; changes nothing."""
    image = net.look([walk.n for walk in walks])
    answer = net.follow(image, gather(walks, n_slices, net.limits))
    logits, here, sure = answer.logits.half().cpu(), answer.here.cpu(), answer.iou.float().cpu()
    found = [objects.get((walk.track.concept, walk.n)) for walk in walks]
    verdicts = [
        decide(logits[row] > 0, walk.last, bool(here[row] > 0), found[row], walk.since_seed, walk.credit)
        for row, walk in enumerate(walks)
    ]
    kept = _remember(net, image, answer)
    reseeded = [row for row, verdict in enumerate(verdicts) if verdict.action == "reseed"]
    if reseeded:
        rows = image.take(torch.tensor(reseeded, device=image.coarse.device))
        given = torch.stack([found[row].logits[verdicts[row].object] for row in reseeded])  # type: ignore[union-attr]
        for row, remembered in zip(reseeded, _remember(net, rows, net.take_mask(rows, given)), strict=True):
            kept[row] = remembered
    seen = []
    for row, (verdict, one) in enumerate(zip(verdicts, found, strict=True)):
        mask = TrackedMask(logits[row], float(here[row].sigmoid() * sure[row]), is_seed=False)
        if verdict.action == "reseed" and one is not None:
            mask = TrackedMask(one.logits[verdict.object], float(one.scores[verdict.object]), is_seed=True)
        seen.append(Seen(verdict.action, verdict.is_recognised, mask, kept[row]))
    return seen


def _has_met(walk: Walk, new: Seen, shown: Shown) -> bool:
    """Whether another track of the concept shows the same object on the slice."""
    there = shown.get((walk.track.concept, walk.n), ())
    others = [logits > 0 for track, logits in there if track is not walk.track]
    if not others or new.action in ("end", "wait"):
        return False
    return bool((iou(new.mask.logits > 0, torch.stack(others)) >= AGREE_IOU).any())


def _write(walk: Walk, new: Seen, shown: Shown, masks: MaskFile) -> None:
    """Put what was seen into the track and into its memory."""
    if new.action == "end":
        return
    walk.credit += 1 if new.is_recognised else -1
    memory = walk.seeds if new.action == "reseed" else walk.seen
    memory[walk.n] = new.kept
    if new.action != "wait":
        logits = new.mask.logits if new.mask.is_seed else masks.keep(new.mask.logits.clone())  # of one row alone
        walk.track.masks[walk.n] = replace(new.mask, logits=logits)
        shown.setdefault((walk.track.concept, walk.n), []).append((walk.track, logits))
        walk.last = logits > 0


def _remember(net: TrackerNet, image: SliceImage, answer: Answer) -> list[Remembered]:
    memories = net.memorise(image, answer)
    # Copies: a row of a batch would keep all of the batch, and its walks do not forget together.
    return [Remembered(memory.clone(), pointer) for memory, pointer in zip(memories, answer.pointers, strict=True)]
