"""What a batch teaches, and by how much of it over all ranks the loss is divided.

B pairs, T objects of the batch, S side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from Training.collate import Batch, LabelState

# Keeps the mean over no pair at all finite; the package's constant, so that the numbers agree.
NO_PAIR = 1e-6


@dataclass(frozen=True, slots=True)
class Counts:
    """Denominators: totals over all ranks divided by the number of ranks.

    DDP averages gradients over ranks, so a rank's sum over these gives the mean over everything.

    Attributes:
        objects: Objects, at least 1 in all.
        pairs: Pairs that are known, at least 1 in all.
        positives: Pairs that are present.
        absents: Pairs that are absent.
    """

    objects: Tensor
    pairs: Tensor
    positives: Tensor
    absents: Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """What is known: ``known`` and ``present`` (B,), and the objects of known pairs."""

    known: Tensor
    present: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor
    object_pair: Tensor


def read_targets(batch: Batch) -> Targets:
    """Leave out the objects of unknown pairs; present is what has an object with an area."""
    known, mine, present = _states(batch)
    return Targets(known, present, batch.boxes_cxcywh[mine], batch.masks[mine], batch.object_pair[mine])


def global_counts(batch: Batch, group: dist.ProcessGroup | None = None) -> Counts:
    """Count a batch over all ranks of ``group``; every rank must call it. One rank needs no group."""
    known, mine, present = _states(batch)
    # Apple's GPUs have no fp64; fp32 counts exactly to sixteen million.
    dtype = torch.float32 if known.device.type == "mps" else torch.float64
    total = torch.stack([mine.sum(), known.sum(), present.sum()]).to(dtype)
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total, group=group)
        ranks = dist.get_world_size(group)
    objects, pairs, positives = total.unbind()
    return Counts(
        objects=objects.clamp(min=1) / ranks,
        pairs=pairs.clamp(min=1) / ranks,
        positives=(positives + NO_PAIR) / ranks,
        absents=(pairs - positives + NO_PAIR) / ranks,
    )


def _states(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Which pairs are known (B,), which objects belong to one (T,), which pairs are present (B,)."""
    known = batch.states != LabelState.UNKNOWN
    mine = known[batch.object_pair]
    present = torch.zeros_like(known)
    present[batch.object_pair[mine & (batch.boxes_cxcywh[:, 2:] > 0).all(1)]] = True
    return known, mine, present
