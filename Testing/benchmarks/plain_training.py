"""The training objective, computed in the straightforward way: what ``Training`` is measured against.

A (slice, concept) pair at a time goes through the whole network and back, each decoder layer of each branch is
matched by itself, and masks are enlarged to the picture's size before they are compared. Against us: of the masks only
those of matched queries are enlarged, and the graph of a pair is gone before the next one begins. Loss and gradient
are those of ``Training.step.TrainStep``, which a test holds; so the modules and the formulas of the terms are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.model import MedicalSam3, Pyramid, TextFeatures
from Training.collate import Batch
from Training.forward import LayerOutput, Memory, Outputs, branches, decode_layers
from Training.loss_config import LossConfig
from Training.mask_losses import focal, focal_and_dice, full_precision, union_of_objects
from Training.matchers import Matches, match_hungarian, match_one_to_many
from Training.query_losses import Branch, query_terms, stack_layers
from Training.step import Phrases
from Training.targets import Counts, Targets, global_counts, read_targets


def plain_step(model: MedicalSam3, batch: Batch, phrases: Phrases, config: LossConfig) -> float:
    """Forward and backward of all pairs, one after the other; gradients add up. Returns the loss."""
    counts, loss = global_counts(batch), 0.0
    for pair in range(len(batch.phrases)):
        one = _of_pair(batch, pair)
        row = phrases.pair_phrase[pair : pair + 1]
        text = model.encode_text(phrases.input_ids[row], phrases.attention_mask[row])
        loss += _forward_and_back(model, one, text, config, counts)
    return loss


def plain_masks(logits_mhw: Tensor, masks_mss: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal and dice of masks that are all enlarged at once."""
    if len(logits_mhw) == 0:
        return logits_mhw.sum(), logits_mhw.sum()
    enlarged = functional.interpolate(
        full_precision(logits_mhw)[:, None], list(masks_mss.shape[1:]), mode="bilinear", align_corners=False
    )
    return focal_and_dice(enlarged.flatten(1), masks_mss.to(enlarged.dtype).flatten(1), alpha, gamma)


def plain_losses(outputs: Outputs, batch: Batch, config: LossConfig, counts: Counts) -> Tensor:
    """The sum of the terms of ``compute_losses``, layer by layer."""
    targets = read_targets(batch)
    loss, matches = _branch_loss(outputs.layers, targets, config, counts, many=False)
    loss = loss + _instance_loss(outputs.instances, matches, targets, config, counts)
    if outputs.many:
        many, matches = _branch_loss(outputs.many, targets, config, counts, many=True)
        many = many + _instance_loss(outputs.many_instances, matches, targets, config, counts)
        loss = loss + config.many * many
    return loss + _semantic_loss(outputs, targets, config, counts)


def _forward_and_back(
    model: MedicalSam3, batch: Batch, text: TextFeatures, config: LossConfig, counts: Counts
) -> float:
    pyramid = model.pyramid(model.encode_trunk(batch.images))
    outputs = plain_forward(model, pyramid, text, config)
    loss = plain_losses(outputs, batch, config, counts)
    loss.backward()
    return float(loss.detach())


def plain_forward(model: MedicalSam3, pyramid: Pyramid, text: TextFeatures, config: LossConfig) -> Outputs:
    """The training forward with ``transformers``' encoder and mask decoder as they are."""
    detector, prompt = model.detector_model, model.prompt(model.cls(pyramid), text)
    encoded = detector.detr_encoder(
        vision_features=[pyramid.levels[-1]],
        text_features=prompt.tokens,
        vision_pos_embeds=[pyramid.positions[-1]],
        text_mask=prompt.mask,
    )
    image = encoded.last_hidden_state
    height, width = pyramid.levels[-1].shape[-2:]
    memory = Memory(prompt.tokens, image, image + encoded.pos_embeds_flattened, (height, width))
    layers, hidden = decode_layers(model, memory, prompt, config.one_to_many)
    masks = detector.mask_decoder(
        decoder_queries=hidden,
        backbone_features=list(pyramid.levels),
        encoder_hidden_states=image,
        prompt_features=prompt.tokens,
        prompt_mask=prompt.mask,
    )
    count = detector.detr_decoder.query_embed.num_embeddings
    return branches(layers, masks.pred_masks, masks.semantic_seg[:, 0], count)


def _of_pair(batch: Batch, pair: int) -> Batch:
    """The batch of one pair: its slice, its phrase, its objects."""
    mine = batch.object_pair == pair
    n = int(batch.pair_slice[pair])
    return Batch(
        images=batch.images[n : n + 1],
        phrases=batch.phrases[pair : pair + 1],
        pair_slice=batch.pair_slice.new_zeros(1),
        states=batch.states[pair : pair + 1],
        boxes_cxcywh=batch.boxes_cxcywh[mine],
        masks=batch.masks[mine],
        object_pair=batch.object_pair.new_zeros(int(mine.sum())),
    )


def _branch_loss(
    layers: Sequence[LayerOutput], targets: Targets, config: LossConfig, counts: Counts, *, many: bool
) -> tuple[Tensor, Matches]:
    """Terms of all layers, each matched by itself; and the last layer's matches."""
    loss, matches = torch.zeros(()), None
    for number, layer in enumerate(layers):
        branch = stack_layers([layer])
        by_quality = many and (number == len(layers) - 1 or config.many_aux_matcher == "one_to_many")
        matches = _match(branch, targets, config, by_quality=by_quality)
        loss = loss + sum(term.sum() for term in query_terms(branch, matches, targets, config, counts).values())
    assert matches is not None
    return loss, matches


def _match(branch: Branch, targets: Targets, config: LossConfig, *, by_quality: bool) -> Matches:
    goal = (targets.boxes_cxcywh.to(branch.logits.dtype), targets.pairs)
    if by_quality:
        return match_one_to_many(branch.logits, branch.boxes_cxcywh, *goal, config.many_matcher)
    return match_hungarian(branch.logits, branch.boxes_cxcywh, *goal, config.hungarian)


def _instance_loss(
    instances: Tensor | None, matches: Matches, targets: Targets, config: LossConfig, counts: Counts
) -> Tensor:
    if instances is None or config.mask_focal == config.mask_dice == 0:
        return torch.zeros(())
    places = matches.on(instances.device)
    logits, masks = instances[places.pair, places.query], targets.masks[places.object]
    focal_sum, dice_sum = plain_masks(logits, masks, config.mask_alpha, config.mask_gamma)
    return (config.mask_focal * focal_sum + config.mask_dice * dice_sum) / counts.objects


def _semantic_loss(outputs: Outputs, targets: Targets, config: LossConfig, counts: Counts) -> Tensor:
    presence, semantic = outputs.layers[-1].presence, outputs.semantic
    loss = torch.zeros(())
    if presence is not None:
        here = targets.present.to(presence.dtype)
        terms = functional.binary_cross_entropy_with_logits(full_precision(presence), here.float(), reduction="none")
        loss = loss + config.semantic_presence * (terms * targets.known).sum() / counts.pairs
    if semantic is None:
        return loss
    union = union_of_objects(targets.masks, targets.object_pair, len(targets.known))[targets.present]
    focal_sum, dice_sum = plain_masks(semantic[targets.present], union, config.semantic_alpha, config.semantic_gamma)
    loss = loss + (config.semantic_focal * focal_sum + config.semantic_dice * dice_sum) / counts.positives
    absent = full_precision(semantic[targets.known & ~targets.present]).flatten(1)
    empty = focal(absent, torch.zeros_like(absent), config.semantic_alpha, config.semantic_gamma).mean(1).sum()
    return loss + config.absent_semantic * empty / counts.absents
