"""Boxes: one conversion and one overlap, shared by the matchers and the losses.

Boxes are 0..1 of the model's square input; the format stands in every name.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Far below the area of one pixel at any input side, so it only ever acts where both boxes have no area.
SMALLEST_AREA = 1e-9


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Centre and size ``(..., 4)`` to the corners x0, y0, x1, y1."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def overlap(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union and its generalised form (GIoU), element by element.

    Boxes without area are safe: IoU 0 with everything, finite GIoU, finite gradients.

    Args:
        a_xyxy: ``(..., 4)``.
        b_xyxy: ``(..., 4)``; the leading dimensions broadcast against those of ``a_xyxy``.

    Returns:
        IoU in 0..1 and GIoU in -1..1, without the last dimension.
    """
    low, high = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    inter = _area((high - low).clamp(min=0))
    union = _area(a_xyxy[..., 2:] - a_xyxy[..., :2]) + _area(b_xyxy[..., 2:] - b_xyxy[..., :2]) - inter
    low, high = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = _area((high - low).clamp(min=0))
    iou = inter / union.clamp(min=SMALLEST_AREA)
    return iou, iou - (hull - union) / hull.clamp(min=SMALLEST_AREA)


def _area(size: Tensor) -> Tensor:
    return size[..., 0] * size[..., 1]
