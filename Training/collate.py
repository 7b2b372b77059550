"""Samples and batches: what the loader yields and what the loss reads.

N slices, B (slice, phrase) pairs, T ground-truth objects of the whole batch, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from Training.transfer import to_device


class LabelState(IntEnum):
    """What is known about a concept on a slice. Unknown contributes no loss at all."""

    UNKNOWN = -1
    ABSENT = 0
    PRESENT = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice and the phrases asked of it.

    Attributes:
        image: ``(3, S, S)``, normalised as the model wants it.
        phrases: As a person would type them.
        states: One per phrase.
        masks: One per phrase: bool ``(objects, S, S)``, no object empty; no objects unless present.
    """

    image: Tensor
    phrases: tuple[str, ...]
    states: tuple[LabelState, ...]
    masks: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """K objects through the same T consecutive slices.

    Attributes:
        masks: bool ``(K, T, S, S)``, empty where an object is not on the slice.
        given: bool ``(K, G, S, S)``, what the tracker is told of the G slices ``given_at``.
        given_at: Numbers of those slices within the clip, ascending, 0 first.
    """

    masks: Tensor
    given: Tensor
    given_at: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clips:
    """The clips of a batch, the last slices of it, clip by clip; B objects of all clips together.

    Attributes:
        masks: bool ``(B, T, S, S)``.
        given: bool ``(B, G, S, S)``, what the tracker is told.
        given_at: On which G slices of each clip.
        clip_of: int64 ``(B,)``, the clip that each object is in.
        count: Number of clips.
        shown: bool ``(B, T)``, where ``masks`` are not empty; found when a batch is made.
    """

    masks: Tensor
    given: Tensor
    given_at: tuple[int, ...]
    clip_of: Tensor
    count: int
    shown: np.ndarray

    def to(self, device: torch.device | str) -> Clips:
        """The same on ``device``."""
        return replace(
            self,
            masks=self.masks.to(device, non_blocking=True),
            given=self.given.to(device, non_blocking=True),
            clip_of=to_device(self.clip_of, device),
        )

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Clips | None:
        """Pack clips of one length, told about the same slices; None of none."""
        if not clips:
            return None
        sizes = torch.tensor([len(clip.masks) for clip in clips])
        masks = torch.cat([clip.masks for clip in clips])
        return cls(
            masks=masks,
            given=torch.cat([clip.given for clip in clips]),
            given_at=clips[0].given_at,
            clip_of=torch.arange(len(clips)).repeat_interleave(sizes),
            count=len(clips),
            shown=masks.flatten(2).any(2).numpy(),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed samples. What is known of their pairs stays in main memory: it decides what the loss reads.

    Attributes:
        images: ``(N, 3, S, S)``.
        phrases: B phrases.
        pair_slice: int64 ``(B,)``, the slice that each phrase is asked of.
        states: int8 ``(B,)`` of ``LabelState``.
        boxes_cxcywh: ``(T, 4)``, 0..1 of the square input, ordered by pair.
        masks: bool ``(T, S, S)``, ordered alike.
        object_pair: int64 ``(T,)``, the pair that each object belongs to, ascending.
        clips: What the tracker follows through the last slices, or None.
    """

    images: Tensor
    phrases: tuple[str, ...]
    pair_slice: Tensor
    states: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor
    object_pair: Tensor
    clips: Clips | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its pictures on ``device``, and the pair_slice by which they are read."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            pair_slice=to_device(self.pair_slice, device),
            masks=self.masks.to(device, non_blocking=True),
            clips=None if self.clips is None else self.clips.to(device),
        )

    def split(self, count: int) -> list[Batch]:
        """The same in ``count`` batches of equally many slices, with all of their pairs; there may be no clips."""
        size, parts = len(self.images) // count, []
        for first in range(0, size * count, size):
            mine = (self.pair_slice >= first) & (self.pair_slice < first + size)
            numbers = mine.nonzero()[:, 0].tolist()
            objects = mine[self.object_pair]
            parts.append(
                Batch(
                    self.images[first : first + size],
                    tuple(self.phrases[number] for number in numbers),
                    self.pair_slice[mine] - first,
                    self.states[mine],
                    self.boxes_cxcywh[objects],
                    self.masks[objects],
                    self.object_pair[objects] - (numbers[0] if numbers else 0),
                )
            )
        return parts


def boxes_of_masks(masks_tss: Tensor) -> Tensor:
    """Tight boxes ``(T, 4)`` as cx, cy, w, h in 0..1, from pixel edge to pixel edge.

    Raises:
        ValueError: If a mask is empty: it has no box, so it must not become an object.
    """
    count, height, width = masks_tss.shape
    if count == 0:
        return torch.zeros(0, 4)
    rows, columns = masks_tss.any(2), masks_tss.any(1)
    if not bool(rows.any(1).all()):
        raise ValueError("Expected non-empty object masks, got an empty one; leave it out of the sample.")
    top, left = rows.float().argmax(1), columns.float().argmax(1)
    bottom = height - rows.flip(1).float().argmax(1)
    right = width - columns.flip(1).float().argmax(1)
    x0, x1, y0, y1 = left / width, right / width, top / height, bottom / height
    return torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], 1).float()


def collate(samples: Sequence[Sample], clips: Sequence[Clip] = ()) -> Batch:
    """Pack samples; the number of phrases and of objects may differ from slice to slice.

    Args:
        samples: Single slices first, then those of the clips, clip by clip.
        clips: All of one length, told about the same slices.
    """
    phrases: list[str] = []
    masks: list[Tensor] = []
    pair_slice: list[int] = []
    states: list[int] = []
    object_pair: list[int] = []
    for n, sample in enumerate(samples):
        for phrase, state, objects in zip(sample.phrases, sample.states, sample.masks, strict=True):
            object_pair += [len(phrases)] * len(objects)
            masks.append(objects)
            phrases.append(phrase)
            pair_slice.append(n)
            states.append(int(state))
    images = torch.stack([sample.image for sample in samples])
    side = images.shape[-1]
    packed = torch.cat(masks) if masks else torch.zeros(0, side, side, dtype=torch.bool)
    return Batch(
        images=images,
        phrases=tuple(phrases),
        pair_slice=torch.tensor(pair_slice, dtype=torch.int64),
        states=torch.tensor(states, dtype=torch.int8),
        boxes_cxcywh=boxes_of_masks(packed),
        masks=packed,
        object_pair=torch.tensor(object_pair, dtype=torch.int64),
        clips=Clips.of(clips),
    )
