"""The set-prediction objective: what the detector is told, term by term.

``compute_losses`` returns named terms with their weights in; their sum is the loss, so what is logged is
what is optimised. A pair is known to be present, known to be absent, or unknown:

- present: its queries learn boxes, scores and masks, its map and its presence learn;
- absent: presence learns; scores and masks do not (the map may, by ``absent_semantic``);
- unknown: nothing learns, and no denominator counts it.

On one rank the terms equal those of the published ``sam3`` package. Departures, on purpose:

- every denominator is global and at least 1 *in all*: ranks with half the batch each average to the
  gradient of the whole batch. The package counts objects globally but pairs, and pairs with a
  semantic map, by rank, and takes at least one object *per rank*;
- presence of the map (``semantic_presence``) reads the decoder's presence logit: the map has no logit
  of its own in SAM3, so this adds plain cross-entropy to the presence term, as Medical SAM3 did;
- boxes without area give finite numbers (the package divides 0 by 0);
- a query that answers for several objects takes the last one's quality on every device;
- points sampled in the outermost half pixel see that pixel, not a border of zeros.

K decoder layers, B pairs, Q queries, T objects of the batch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from Training import transfer
from Training.collate import Batch
from Training.forward import Outputs
from Training.loss_config import LossConfig
from Training.mask_losses import (
    at_points,
    focal,
    focal_and_dice,
    focal_and_dice_of_masks,
    full_precision,
    union_of_objects,
)
from Training.matchers import Matches, assign, choose_good, hungarian_cost, join, many_quality, match_hungarian
from Training.query_losses import Branch, query_terms, stack_layers
from Training.targets import Counts, Targets, global_counts, read_targets

__all__ = ["Counts", "LossConfig", "compute_losses", "global_counts"]


def compute_losses(outputs: Outputs, batch: Batch, config: LossConfig, counts: Counts) -> dict[str, Tensor]:
    """Named, weighted scalar terms; their sum is the loss.

    Names: ``box_l1``, ``box_giou``, ``classification``, ``presence`` for the last layer, with ``_aux``
    the sum over the earlier ones, with ``many_`` before them the one-to-many branch; ``mask_*`` and
    ``semantic_*`` where their weight is not 0 and masks were computed. Every output stays in the graph,
    also when there is nothing to learn from, so that no rank waits for another's gradient.

    Args:
        outputs: One row per pair of the batch.
        batch: Its pictures on the device of the outputs.
        config: Weights and constants.
        counts: Of this batch, from ``global_counts``.
    """
    targets = read_targets(batch)
    one, many = stack_layers(outputs.layers), stack_layers(outputs.many) if outputs.many else None
    one_matches, many_matches = _match(one, many, targets, config)
    terms = _split(query_terms(one, one_matches, targets, config, counts))
    last = len(outputs.layers) - 1
    matches = one_matches.of_layers(last, last + 1)
    terms.update(_instance_terms(outputs.instances, matches, targets, config, counts))
    if many is not None and many_matches is not None:
        branch = _split(query_terms(many, many_matches, targets, config, counts))
        matches = many_matches.of_layers(last, last + 1)
        branch.update(_instance_terms(outputs.many_instances, matches, targets, config, counts))
        terms.update({f"many_{name}": config.many * term for name, term in branch.items()})
    terms.update(_semantic_terms(outputs.semantic, outputs.layers[-1].presence, targets, config, counts))
    terms["classification"] = terms["classification"] + _nothing(outputs, config)
    return terms


def _match(one: Branch, many: Branch | None, targets: Targets, config: LossConfig) -> tuple[Matches, Matches | None]:
    """Matches of both branches: all that decides them crosses to the host at once, and the device is awaited once."""
    layers, pairs = len(one.logits), targets.pairs
    goal = (targets.boxes_cxcywh.to(one.logits.dtype), pairs)
    if many is None:
        return match_hungarian(one.logits, one.boxes_cxcywh, *goal, config.hungarian), None
    # The branch's last layer is matched by quality, the earlier ones as the settings say.
    greedy = 0 if config.many_aux_matcher == "one_to_many" else layers - 1
    logits = torch.cat([one.logits, many.logits[:greedy]])
    boxes = torch.cat([one.boxes_cxcywh, many.boxes_cxcywh[:greedy]])
    cost, quality = transfer.to_host(
        hungarian_cost(logits, boxes, *goal, config.hungarian),
        many_quality(many.logits[greedy:], many.boxes_cxcywh[greedy:], *goal, config.many_matcher),
    )
    assigned, good = assign(cost, pairs), choose_good(quality, pairs, config.many_matcher)
    good = replace(good, layer=good.layer + greedy)
    return assigned.of_layers(0, layers), join(assigned.of_layers(layers, layers + greedy), good)


def _split(by_layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last layer under the term's name, the sum of the earlier ones with ``_aux``."""
    terms = {name: values[-1] for name, values in by_layer.items()}
    terms.update({f"{name}_aux": values[:-1].sum() for name, values in by_layer.items()})
    return terms


def _instance_terms(
    instances: Tensor | None, matches: Matches, targets: Targets, config: LossConfig, counts: Counts
) -> dict[str, Tensor]:
    """Masks of matched queries, last layer."""
    if instances is None or config.mask_focal == config.mask_dice == 0:
        return {}
    places = matches.on(instances.device)
    logits, masks = full_precision(instances[places.pair, places.query]), targets.masks[places.object]
    alpha, gamma = config.mask_alpha, config.mask_gamma
    if config.point_sampling:
        compared = at_points(logits, masks, config.point_sampling, config.point_oversample, config.point_importance)
        focal_sum, dice_sum = focal_and_dice(*compared, alpha, gamma)
    else:
        focal_sum, dice_sum = focal_and_dice_of_masks(logits, masks, config.mask_loss_size, alpha, gamma)
    return {
        "mask_focal": config.mask_focal * focal_sum / counts.objects,
        "mask_dice": config.mask_dice * dice_sum / counts.objects,
    }


def _semantic_terms(
    semantic: Tensor | None, presence: Tensor | None, targets: Targets, config: LossConfig, counts: Counts
) -> dict[str, Tensor]:
    """The concept's map on present pairs, its presence on known ones and, if asked, its emptiness on absent ones."""
    terms = {}
    if config.semantic_presence and presence is not None:
        here = targets.present.to(presence.dtype)
        loss = functional.binary_cross_entropy_with_logits(full_precision(presence), here, reduction="none")
        terms["semantic_presence"] = config.semantic_presence * (loss * targets.known).sum() / counts.pairs
    if semantic is None:
        return terms
    alpha, gamma = config.semantic_alpha, config.semantic_gamma
    if config.semantic_focal or config.semantic_dice:
        union = union_of_objects(targets.masks, targets.object_pair, len(targets.known))[targets.present_rows]
        maps = full_precision(semantic[targets.present_rows])
        focal_sum, dice_sum = focal_and_dice_of_masks(maps, union, config.mask_loss_size, alpha, gamma)
        terms["semantic_focal"] = config.semantic_focal * focal_sum / counts.positives
        terms["semantic_dice"] = config.semantic_dice * dice_sum / counts.positives
    if config.absent_semantic:
        absent = full_precision(semantic[targets.absent_rows]).flatten(1)
        empty = focal(absent, torch.zeros_like(absent), alpha, gamma).mean(1).sum()
        terms["absent_semantic"] = config.absent_semantic * empty / counts.absents
    return terms


def _nothing(outputs: Outputs, config: LossConfig) -> Tensor:
    """Zero, with a (zero) gradient into each mask head that no term may have reached."""
    heads = [outputs.semantic]
    if config.mask_focal == config.mask_dice == 0:
        heads += [outputs.instances, outputs.many_instances]
    corners = [head[(slice(0, 1),) * head.dim()] for head in heads if head is not None]
    return outputs.layers[-1].logits.new_zeros(()) + sum((0.0 * corner.sum() for corner in corners), start=0.0)
