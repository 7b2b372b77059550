"""Dense warm start of trunk and neck, for a model that is trained from nothing.

Set prediction learns slowly from random features. A throw-away 1x1 classifier on the finest pyramid level
learns all labels of a slice in one pass, and leaves features that see. The classifier is dropped; text,
queries and masks are then learned by the real objective.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from Training import distributed
from Training.collate import LabelState
from Training.config import TrainConfig
from Training.data import PictureSource, TrainingData
from Training.distributed import Ranks
from Training.transforms import AugmentConfig

LEAST_TURN = 0.1
"""Radians a token."""

SAME_PLACE = 6.0
"""Constant in queries and keys: with a head of 128 a distance of one token costs 3 of the score, of two tokens 11."""


def initialise(model: MedicalSam3) -> None:
    """Xavier for linear layers, Kaiming for convolutions, unit-sized tokens.

    ``transformers`` draws everything from a normal with deviation 0.02, meant for weights that are loaded
    over it: the pyramid then has a deviation of 0.002 and nothing is learned from it.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    detector = model.detector_model
    nn.init.normal_(detector.text_encoder.get_input_embeddings().weight, std=0.5)
    decoder = detector.detr_decoder
    for embedding in (decoder.query_embed, decoder.presence_token, detector.geometry_encoder.cls_embed):
        nn.init.normal_(embedding.weight, std=1.0)
    nn.init.uniform_(decoder.reference_points.weight, -2.0, 2.0)
    # A refinement starts as none, an instance's mask as undecided, a map as "probably not".
    nn.init.zeros_(decoder.box_head.layer3.weight)
    nn.init.normal_(detector.mask_decoder.mask_embedder.layers[-1].weight, std=0.002)
    nn.init.constant_(detector.mask_decoder.semantic_projection.bias, -2.0)
    if model.tracker_model is not None:
        initialise_tracker(model.tracker_model)


def initialise_tracker(tracker: Any) -> None:
    """Tokens of unit size, and memory that is heard from the first step.

    ``transformers`` starts the positions in time and the blank pointers at 0 and scales what the fuser adds by a
    millionth, again for weights that are loaded over it.
    """
    for token in (
        tracker.mask_decoder.iou_token,
        tracker.mask_decoder.mask_tokens,
        tracker.mask_decoder.obj_score_token,
    ):
        nn.init.normal_(token.weight, std=1.0)
    nn.init.normal_(tracker.prompt_encoder.no_mask_embed.weight, std=0.1)
    for network in tracker.mask_decoder.output_hypernetworks_mlps:  # masks start undecided
        nn.init.normal_(network.proj_out.weight, std=0.02)
    for blank in (
        tracker.memory_temporal_positional_encoding,
        tracker.no_object_pointer,
        tracker.occlusion_spatial_embedding_parameter,
    ):
        if blank is not None:
            nn.init.trunc_normal_(blank, std=0.02)
    # A memory is of the mask first, of the picture second: pictures can be looked at again, masks cannot.
    nn.init.xavier_uniform_(tracker.memory_encoder.feature_projection.weight, gain=0.2)
    for layer in tracker.memory_attention.layers:
        attend_to_the_same_place(layer.cross_attn_image, tracker.memory_attention.rotary_emb.inv_freq)
    for block in tracker.memory_encoder.memory_fuser.layers:
        nn.init.constant_(block.scale, 0.1)


def attend_to_the_same_place(attention: Any, frequencies: Tensor) -> None:
    """Let rotary attention begin where a token lies itself: neighbouring slices hardly differ.

    Equal constants in queries and keys, turned by the rotary angles, give the score ``sum c^2 cos(f d)`` at a distance
    d; with the frequencies f that turn noticeably within a few tokens it is high at d = 0 only. From random weights
    attention to memory begins as the mean over the whole slice, and a tracker that cannot see where its object was
    stays there: after 450 steps it had a Dice of 0.1, where the mask before, copied, has 0.75.

    Args:
        attention: Of the tracker, from a slice to its memories.
        frequencies: Of the rotary encoding ``(head / 4,)``: angles per token, the same for both axes.
    """
    quick = frequencies >= LEAST_TURN
    both_axes = torch.cat([quick, quick])
    constants = torch.stack([both_axes, torch.zeros_like(both_axes)], 1).flatten() * SAME_PLACE
    for projection in (attention.q_proj, attention.k_proj):
        nn.init.xavier_uniform_(projection.weight, gain=0.3)
        with torch.no_grad():
            projection.bias.copy_(constants.repeat(len(projection.bias) // len(constants)))


def warm_start_once(
    out: Path,
    model: MedicalSam3,
    data: TrainingData,
    config: TrainConfig,
    ranks: Ranks,
    log: Callable[[int, float], None],
) -> None:
    """Warm-start the network, or take the result of an earlier start of the same run.

    All ranks do the same work on the same pictures: it is short, and so they agree without talking.
    """
    path = out / "warm_start.safetensors"
    wanted = config.model_dump_json(include={"model", "data", "warm_start"})
    if path.is_file():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("config") != wanted:
                raise SettingsError(f"Expected {path.name} of the same settings, got another one; change run.out.")
        model.load_state_dict(load_file(path), strict=True)
        return
    warm_start(model, data.pictures("train"), config, ranks.device, log)
    distributed.barrier()
    if ranks.is_main:
        partial = path.with_suffix(".partial")
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial, {"config": wanted})
        os.replace(partial, path)


def warm_start(
    model: MedicalSam3,
    pictures: PictureSource,
    config: TrainConfig,
    device: torch.device,
    log: Callable[[int, float], None],
) -> None:
    """Train trunk and neck in place for ``config.warm_start.steps`` steps of dense classification."""
    settings, bf16 = config.warm_start, config.run.precision == "bf16"
    classes = [c for c, name in enumerate(pictures.concepts) if not name.startswith(("left_", "right_"))]
    width = int(model.config.vision_config.fpn_hidden_size)
    classifier = nn.Conv2d(width, len(classes) + 1, 1).to(device)
    parameters = [*model.detector_model.vision_encoder.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.05)
    model.train()
    for step in range(settings.steps):
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * max(rate, 0.02)
        batch = _dense_batch(pictures, config.data.augment, classes, settings.batch_slices, config.run.seed, step)
        images, target, allowed, known = (tensor.to(device) for tensor in batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = classifier(model.pyramid(model.encode_trunk(images)).levels[0])
        loss = dense_loss(logits.float(), target, allowed, known)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        log(step, float(loss.detach()))
    bring_levels_to_unit_size(model, images)


@torch.no_grad()
def bring_levels_to_unit_size(model: MedicalSam3, images: Tensor) -> None:
    """Scale the last convolution of each pyramid level so that the level has a deviation of 1 on ``images``.

    The classifier leaves levels of a deviation above 10. Text then adds to the encoder's tokens less than a
    tenth of what is there, is hardly seen, and gets hardly any gradient.
    """
    neck = model.detector_model.vision_encoder.neck
    for layer, level in zip(neck.fpn_layers, model.pyramid(model.encode_trunk(images)).levels, strict=False):
        layer.proj2.weight /= level.std()
        layer.proj2.bias /= level.std()


def dense_loss(logits: Tensor, target: Tensor, allowed: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy and Dice over exclusive classes of which some may be unlabelled on a slice.

    Args:
        logits: ``(N, 1 + C, h, w)``, class 0 is background.
        target: int64 ``(N, S, S)``, 0 where no known class lies.
        allowed: bool ``(N, 1 + C)``: what a pixel of target 0 may be: background, or a class that
            nobody labelled on this slice.
        known: bool ``(N, C)``: classes labelled on this slice; only they have a Dice.
    """
    logits = functional.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    log_all = logits.logsumexp(1)
    log_rest = logits.masked_fill(~allowed[:, :, None, None], -1e4).logsumexp(1)
    log_own = logits.gather(1, target[:, None])[:, 0]
    entropy = (log_all - torch.where(target == 0, log_rest, log_own)).mean()
    chosen = functional.one_hot(target, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
    probability = logits.softmax(1)[:, 1:]
    both = (probability * chosen).sum((2, 3))
    total = probability.sum((2, 3)) + chosen.sum((2, 3))
    dice = 1 - (2 * both + 1) / (total + 1)
    weight = (known & (chosen.sum((2, 3)) > 0)).to(dice.dtype)
    return entropy + (dice * weight).sum() / weight.sum().clamp(min=1)


def _dense_batch(
    pictures: PictureSource, augment: AugmentConfig, classes: list[int], count: int, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, targets, knowns = [], [], []
    for row in range(count):
        rng = np.random.default_rng([seed, 1, step, row])
        picture = pictures.picture(*pictures.draw_slice(rng), augment, rng)
        target = np.zeros(picture.cover.shape, np.int64)
        for number, concept in enumerate(classes, start=1):
            target[picture.cover.mask(concept)] = number
        images.append(picture.image)
        targets.append(torch.from_numpy(target))
        knowns.append(torch.from_numpy(picture.states[classes] != LabelState.UNKNOWN))
    known = torch.stack(knowns)
    allowed = torch.cat([torch.ones(count, 1, dtype=torch.bool), ~known], 1)
    return torch.stack(images), torch.stack(targets), allowed, known
