"""What the tracker is told on each slice of a clip: its mask, how good that mask is, and whether the object is there.

As SAM 2 was trained (Ravi et al. 2024, section D.2.2): of the masks that it offers only the best one learns its
outline, all learn to predict their IoU; a slice without the object teaches presence alone.

B objects, m masks offered, h w side of the logits, S side of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.tracker_steps import Answer
from Training.mask_losses import MaskSize, at_one_size, dice, focal
from Training.targets import totals
from Training.transfer import to_device


class TrackLossConfig(BaseModel):
    """Weights of the tracker's terms; the defaults are SAM 2's.

    Attributes:
        focal, dice: Of the best mask.
        iou: Absolute error of the predicted IoU.
        presence: Cross-entropy of "the object is on this slice".
        alpha, gamma: Of the focal loss.
        size: Compare masks at the size of the target or of the logits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    focal: float = Field(default=20.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    iou: float = Field(default=1.0, ge=0)
    presence: float = Field(default=1.0, ge=0)
    alpha: float = Field(default=0.25, ge=0, le=1)
    gamma: float = Field(default=2.0, ge=0)
    size: MaskSize = "logits"


def track_losses(
    answers: Sequence[Answer], masks_btss: Tensor, shown_bt: np.ndarray, config: TrackLossConfig
) -> dict[str, Tensor]:
    """Named, weighted terms, means over the tracked slices of all ranks.

    Args:
        answers: On T slices.
        masks_btss: Truth there, bool ``(B, T, S, S)``.
        shown_bt: Where it is not empty, bool ``(B, T)``.
        config: Weights.
    """
    truth, on_slice = masks_btss.flatten(0, 1), shown_bt.ravel()
    logits, iou, here = _offered(answers)
    present = to_device(np.flatnonzero(on_slice), logits.device)
    (of_slices, of_shown), ranks = totals([len(on_slice), on_slice.sum()], logits.device)
    slices, shown = of_slices.clamp(min=1) / ranks, of_shown.clamp(min=1) / ranks
    count = logits.shape[1]
    compared, target = at_one_size(
        logits[present].flatten(0, 1), truth[present].repeat_interleave(count, 0), config.size
    )
    outline = config.focal * focal(compared, target, config.alpha, config.gamma).mean(1)
    overlap = config.dice * dice(compared, target)
    best = (outline + overlap).detach().view(-1, count).argmin(1, keepdim=True)

    def of_best(values: Tensor) -> Tensor:
        return values.view(-1, count).gather(1, best).sum() / shown

    error = (iou[present].flatten() - _iou(compared.detach() > 0, target > 0.5)).abs()
    is_here = to_device(on_slice, here.device).to(here.dtype)
    cross_entropy = functional.binary_cross_entropy_with_logits(here, is_here, reduction="sum")
    return {
        "track_focal": of_best(outline),
        "track_dice": of_best(overlap),
        "track_iou": config.iou * error.sum() / (shown * count),
        # The masks of absent objects get a gradient of zero, so that no rank waits for one.
        "track_presence": config.presence * cross_entropy / slices + 0.0 * (logits.sum() + iou.sum()),
    }


def _offered(answers: Sequence[Answer]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(B * T, m, h, w)``, predicted IoU ``(B * T, m)`` and presence, object by object."""
    offered = [answer.candidates for answer in answers]
    if any(one is None for one in offered):
        raise ValueError("expected answers of the tracker, got a seed")
    logits = torch.stack([one.logits for one in offered if one is not None], 1).flatten(0, 1)
    iou = torch.stack([one.iou for one in offered if one is not None], 1).flatten(0, 1)
    return logits, iou, torch.stack([answer.here for answer in answers], 1).flatten()


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU ``(M,)`` of rows of pixels ``(M, P)``."""
    both, either = (one & other).sum(1), (one | other).sum(1)
    return both / either.clamp(min=1)
