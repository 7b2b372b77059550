"""Losses on queries: boxes, scores that aim at the quality of their box, and presence.

K decoder layers, B pairs, Q queries, M matches; all layers of one set of queries at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from Training.boxes import cxcywh_to_xyxy, overlap
from Training.forward import LayerOutput
from Training.loss_config import LossConfig
from Training.mask_losses import focal, full_precision
from Training.matchers import Matches, Places
from Training.targets import Counts, Targets

# A matched query is worth this much at least, or a bad first guess would never be pulled up.
SMALLEST_QUALITY = 0.01


@dataclass(frozen=True, slots=True)
class Branch:
    """All layers of one set of queries: (K, B, Q), (K, B, Q, 4) and (K, B) or None."""

    logits: Tensor
    boxes_cxcywh: Tensor
    presence: Tensor | None


def stack_layers(layers: Sequence[LayerOutput]) -> Branch:
    presence = [layer.presence for layer in layers if layer.presence is not None]
    return Branch(
        logits=full_precision(torch.stack([layer.logits for layer in layers])),
        boxes_cxcywh=full_precision(torch.stack([layer.boxes_cxcywh for layer in layers])),
        presence=full_precision(torch.stack(presence)) if presence else None,
    )


def query_terms(
    branch: Branch, matches: Matches, targets: Targets, config: LossConfig, counts: Counts
) -> dict[str, Tensor]:
    """Boxes, scores and presence by layer: ``(K,)`` each."""
    places = matches.on(branch.logits.device)
    goal = targets.boxes_cxcywh.to(branch.logits.dtype)[places.object]
    found = branch.boxes_cxcywh[places.layer, places.pair, places.query]
    iou, giou = overlap(cxcywh_to_xyxy(found), cxcywh_to_xyxy(goal))
    l1 = (found - goal).abs().sum(-1)
    by_layer = torch.zeros_like(branch.logits[:, 0, 0].detach())
    score = _score_loss(branch.logits, places, iou.detach(), config) * targets.present[None, :, None]
    queries = max(branch.logits.shape[2], config.padded_queries)
    terms = {
        "box_l1": config.box_l1 * by_layer.index_add(0, places.layer, l1) / counts.objects,
        "box_giou": config.box_giou * by_layer.index_add(0, places.layer, 1 - giou) / counts.objects,
        "classification": config.classification * score.sum((1, 2)) / (counts.pairs * queries),
    }
    if branch.presence is not None:
        here = targets.present.to(branch.presence.dtype).expand_as(branch.presence)
        presence = focal(branch.presence, here, config.presence_alpha, config.presence_gamma) * targets.known
        terms["presence"] = config.presence * presence.sum(1) / counts.pairs
    return terms


def _score_loss(logits_kbq: Tensor, places: Places, iou: Tensor, config: LossConfig) -> Tensor:
    """Loss of every score ``(K, B, Q)``: matched ones aim at their quality, the others at 0, the surer the harder."""
    _, pairs, queries = logits_kbq.shape
    probability = logits_kbq.sigmoid()
    matched = probability.detach()[places.layer, places.pair, places.query]
    quality = (matched**config.quality_alpha * iou ** (1 - config.quality_alpha)).clamp(min=SMALLEST_QUALITY)
    place = (places.layer * pairs + places.pair) * queries + places.query
    # The last match of a query wins, on every device alike; -1 is no match and reads the zero at the end.
    winner = torch.full((logits_kbq.numel(),), -1, device=place.device)
    winner = winner.scatter_reduce(0, place, torch.arange(len(place), device=place.device), "amax")
    goal = torch.cat([quality, quality.new_zeros(1)])[winner].view_as(logits_kbq)
    weight = torch.where(
        winner.view_as(logits_kbq) >= 0,
        torch.full_like(probability, config.positive_weight),
        probability**config.negative_gamma,
    )
    return weight * functional.binary_cross_entropy_with_logits(logits_kbq, goal, reduction="none")
