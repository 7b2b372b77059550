"""Made-up batches, and matches as many as there can be, for the plan of a run and for its rehearsal"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from Training import transfer
from Training.collate import Batch, Clip, LabelState, Sample, collate
from Training.config import TrainConfig


def made_up(config: TrainConfig, side: int, step: int, rank: int) -> Batch:
    """Noise with bright blocks: one for each concept that is present on a slice, one for each object of a clip.

    Args:
        config: How many slices, pairs, clips and objects there are; of objects in a clip as many as there may be.
        side: Of the pictures.
        step, rank: For which the batch is.
    """
    rng = torch.Generator().manual_seed(1000 * step + rank)
    data = config.data
    present = max(1, round(data.phrases_per_slice * (1 - data.negatives)))
    samples = []
    for _ in range(data.batch_slices):
        blocks = [_block(side, rng) for _ in range(present)]
        samples.append(_sample(blocks, data.phrases_per_slice, side, rng))
    clips = []
    for _ in range(data.clips.per_step):
        # Told of its first slice alone, the tracker has most to do.
        objects = torch.stack([_block(side, rng) for _ in range(data.clips.objects)])
        followed = torch.stack([objects.roll(t, dims=2) for t in range(data.clips.length)], 1)
        samples += [_sample(list(shown), len(shown), side, rng) for shown in followed.unbind(1)]
        clips.append(Clip(followed, followed[:, :1], (0,)))
    return collate(samples, clips)


@contextmanager
def made_up_values(*, read: bool) -> Iterator[None]:
    """Within the block the host is told made-up values where it asks for those of the device.

    They are spread evenly over 0..1, so that each object is matched by as many queries as the settings allow. That is
    how it will be when the network has learned something, and memory that is enough then is enough at any time.

    Args:
        read: Wait for the device all the same, as a real step does; fake tensors cannot be read.
    """
    rng, reading = np.random.default_rng(0), transfer.to_host

    def told(*tensors: Tensor) -> list[np.ndarray]:
        if read:
            reading(*tensors)
        return [rng.random(tensor.shape, np.float32) for tensor in tensors]

    transfer.to_host = told
    try:
        yield
    finally:
        transfer.to_host = reading


def _block(side: int, rng: torch.Generator) -> Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    top, left = torch.randint(0, side - side // 4, (2,), generator=rng).tolist()
    mask[top : top + side // 4, left : left + side // 4] = True
    return mask


def _sample(blocks: list[Tensor], phrases: int, side: int, rng: torch.Generator) -> Sample:
    """A picture that shows the blocks, asked for each of them and for what is not there."""
    shown = torch.stack(blocks)
    masks = [block[None] for block in blocks] + [shown[:0]] * (phrases - len(blocks))
    states = tuple(LabelState.PRESENT if len(mask) else LabelState.ABSENT for mask in masks)
    image = torch.randn(3, side, side, generator=rng) * 0.2 + shown.sum(0)
    return Sample(image, tuple(f"made up {n}" for n in range(phrases)), states, tuple(masks))
