"""What a batch teaches, and by how much of it over all ranks the loss is divided.

B pairs, T objects of the batch, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from Training.collate import Batch, LabelState
from Training.transfer import in_memory, to_device

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
    """What is known of the pairs, and the objects of known pairs, where the loss is computed.

    Attributes:
        known, present: bool ``(B,)``.
        present_rows, absent_rows: Numbers of those pairs.
        boxes_cxcywh, masks: Of the objects.
        object_pair: Pair of each object, on the device.
        pairs: The same in main memory.
    """

    known: Tensor
    present: Tensor
    present_rows: Tensor
    absent_rows: Tensor
    boxes_cxcywh: Tensor
    masks: Tensor
    object_pair: Tensor
    pairs: np.ndarray


def read_targets(batch: Batch) -> Targets:
    """Leave out the objects of unknown pairs; present is what has an object with an area."""
    known, mine, present = _states(batch)
    device, pairs = batch.images.device, in_memory(batch.object_pair)[mine]
    masks = batch.masks if mine.all() else batch.masks[to_device(np.flatnonzero(mine), device)]
    return Targets(
        known=to_device(known, device),
        present=to_device(present, device),
        present_rows=to_device(np.flatnonzero(present), device),
        absent_rows=to_device(np.flatnonzero(known & ~present), device),
        boxes_cxcywh=to_device(in_memory(batch.boxes_cxcywh)[mine], device),
        masks=masks,
        object_pair=to_device(pairs, device),
        pairs=pairs,
    )


def global_counts(batch: Batch, group: dist.ProcessGroup | None = None) -> Counts:
    """Count a batch over all ranks of ``group``; every rank must call it. One rank needs no group."""
    known, mine, present = _states(batch)
    (objects, pairs, positives), ranks = totals([mine.sum(), known.sum(), present.sum()], batch.images.device, group)
    return Counts(
        objects=objects.clamp(min=1) / ranks,
        pairs=pairs.clamp(min=1) / ranks,
        positives=(positives + NO_PAIR) / ranks,
        absents=(pairs - positives + NO_PAIR) / ranks,
    )


def totals(
    counts: Sequence[int], device: torch.device, group: dist.ProcessGroup | None = None
) -> tuple[tuple[Tensor, ...], int]:
    """Counts of this rank added up over all ranks, which all call it, and how many ranks these are."""
    # Apple's GPUs have no fp64; fp32 counts exactly to sixteen million.
    total = to_device(np.array(counts, np.float32 if device.type == "mps" else np.float64), device)
    if not (dist.is_available() and dist.is_initialized()):
        return total.unbind(), 1
    dist.all_reduce(total, group=group)
    return total.unbind(), dist.get_world_size(group)


def _states(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pairs are known (B,), which objects belong to one (T,), which pairs are present (B,)."""
    object_pair, boxes = in_memory(batch.object_pair), in_memory(batch.boxes_cxcywh)
    known = in_memory(batch.states) != LabelState.UNKNOWN
    mine = known[object_pair]
    present = np.zeros_like(known)
    present[object_pair[mine & (boxes[:, 2:] > 0).all(1)]] = True
    return known, mine, present
