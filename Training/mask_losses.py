"""Losses on pixels: focal and dice, on the masks of matched queries and on the concept's map.

B pairs, T objects, M matches, S side of the masks given, h w side of the logits, P pixels or points.
Every function returns sums; the caller divides by global counts.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

MaskSize = Literal["target", "logits"]

MOST_VALUES = 4_000_000
"""So many pixels of masks are numbers at once, 16 MB in fp32: four masks at 1008 px. As bool a mask is a quarter of
that, and as many as a batch has."""


def focal(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss element by element; ``alpha`` weighs the positives, ``target`` may be soft in 0..1."""
    probability = logits.sigmoid()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    missed = probability + target - 2 * probability * target
    return (alpha * target + (1 - alpha) * (1 - target)) * missed**gamma * cross_entropy


def dice(logits_mp: Tensor, target_mp: Tensor) -> Tensor:
    """Dice loss ``(M,)`` of each row, smoothed by one pixel so that two empty masks agree."""
    probability = logits_mp.sigmoid()
    return 1 - (2 * (probability * target_mp).sum(1) + 1) / (probability.sum(1) + target_mp.sum(1) + 1)


def focal_and_dice(logits_mp: Tensor, target_mp: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal (mean over pixels) and dice, each summed over the rows; 0 without rows."""
    return focal(logits_mp, target_mp, alpha, gamma).mean(1).sum(), dice(logits_mp, target_mp).sum()


def focal_and_dice_of_masks(
    logits_mhw: Tensor, masks_mss: Tensor, size: MaskSize, alpha: float, gamma: float
) -> tuple[Tensor, Tensor]:
    """``focal_and_dice`` of ``at_one_size``, a few masks at a time where they are many at the target's size.

    What is enlarged is not kept for the backward pass but enlarged again, so that memory does not grow by S times S
    with the masks.
    """
    rows = _rows_at_once(masks_mss)
    if size == "logits" or len(masks_mss) <= rows:
        return focal_and_dice(*at_one_size(logits_mhw, masks_mss, size), alpha, gamma)

    def terms(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        return focal_and_dice(*at_one_size(logits, masks, size), alpha, gamma)

    parts = [
        checkpoint(terms, logits, masks, use_reentrant=False, preserve_rng_state=False)
        for logits, masks in zip(logits_mhw.split(rows), masks_mss.split(rows), strict=True)
    ]
    focals, dices = zip(*parts, strict=True)
    return torch.stack(focals).sum(), torch.stack(dices).sum()


def full_precision(tensor: Tensor) -> Tensor:
    """Half types to fp32, others as they are: sums over a mask need more than 8 bits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def at_one_size(logits_mhw: Tensor, masks_mss: Tensor, size: MaskSize) -> tuple[Tensor, Tensor]:
    """Logits and masks of equal size, rows of pixels ``(M, P)``.

    Args:
        logits_mhw: Predictions.
        masks_mss: bool.
        size: "target" enlarges the logits bilinearly; "logits" averages the masks over each logit's
            area, which is cheaper by the square of the ratio and keeps thin parts as fractions.
    """
    if len(logits_mhw) == 0:
        # Resizing nothing is an error in torch; nothing of the logits' shape does as well.
        return logits_mhw.flatten(1), logits_mhw.detach().flatten(1)
    if size == "target":
        masks = masks_mss.to(logits_mhw.dtype)
        logits_mhw = functional.interpolate(
            logits_mhw[:, None], list(masks.shape[1:]), mode="bilinear", align_corners=False
        )[:, 0]
    else:
        height, width = logits_mhw.shape[1:]
        few = (part.to(logits_mhw.dtype) for part in masks_mss.split(_rows_at_once(masks_mss)))
        masks = torch.cat([functional.adaptive_avg_pool2d(part, (height, width)) for part in few])
    return logits_mhw.flatten(1), masks.flatten(1)


def at_points(
    logits_mhw: Tensor, masks_mss: Tensor, points: int, oversample: float, importance: float
) -> tuple[Tensor, Tensor]:
    """Logits and masks at ``points`` random places per row ``(M, P)``: little memory at full resolution.

    ``importance`` of the points are the most uncertain of ``oversample`` times as many; the rest are
    uniform, so that no part of the picture is without pressure.
    """
    rows, chosen = len(logits_mhw), int(importance * points)
    with torch.no_grad():
        tried = torch.rand(rows, int(points * oversample), 2, device=logits_mhw.device, dtype=logits_mhw.dtype)
        # Logits near 0 are undecided.
        order = _sample(logits_mhw, tried).abs().topk(chosen, 1, largest=False).indices
        tried = tried.gather(1, order[..., None].expand(-1, -1, 2))
        uniform = torch.rand(rows, points - chosen, 2, device=logits_mhw.device, dtype=logits_mhw.dtype)
        places = torch.cat([tried, uniform], 1)
        rows = _rows_at_once(masks_mss)
        few = zip(masks_mss.split(rows), places.split(rows), strict=True)
        target = torch.cat([_sample(part.to(logits_mhw.dtype), here) for part, here in few])
    return _sample(logits_mhw, places), target


def union_of_objects(masks_tss: Tensor, object_pair: Tensor, pairs: int) -> Tensor:
    """bool ``(B, S, S)``: where a pair has any of its objects."""
    count = torch.zeros(pairs, *masks_tss.shape[1:], dtype=torch.int16, device=masks_tss.device)
    return count.index_add_(0, object_pair, masks_tss.to(torch.int16)) > 0


def _rows_at_once(masks_mss: Tensor) -> int:
    return max(1, MOST_VALUES // max(1, masks_mss[:1].numel()))


def _sample(image_mhw: Tensor, places_mp2: Tensor) -> Tensor:
    """Bilinear values ``(M, P)`` at x, y in 0..1 from edge to edge; the outermost pixels reach to the edge."""
    if len(image_mhw) == 0:
        return image_mhw.new_zeros(places_mp2.shape[:2]) + image_mhw.sum()
    grid = 2 * places_mp2[:, None] - 1
    return functional.grid_sample(image_mhw[:, None], grid, padding_mode="border", align_corners=False)[:, 0, 0]
