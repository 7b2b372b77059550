"""The same work without sharing: one full forward of ``transformers``' ``Sam3Model`` per slice and concept.

Without boxes its forward skips the geometry encoder; Meta's network never does, and Medical SAM3 was trained with its
CLS token. So each call gets a box, and the encoder of boxes finds none: what is left is the token, as in our model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3ImageSegmentationOutput

from MedicalSAM3Lib.fusion import SliceMap, fuse_slice
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.presence import SliceCalibration
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack

Maps = dict[tuple[int, int], SliceMap]
"""(concept, slice) to what was found there."""


@dataclass(frozen=True, slots=True)
class PairRead:
    """A forward's answer, read by our rules: calibrated ``presence``, mask logits ``(Q, s, s)`` and scores ``(Q,)`` of
    the queries, and the map; None where the gate stays closed."""

    presence: float
    instances: Tensor
    scores: Tensor
    fused: SliceMap | None


@dataclass(frozen=True, slots=True)
class Seen:
    """All pairs: ``seconds`` in forwards alone, ``presence`` (P, N), and the maps where the gate opened."""

    seconds: float
    presence: np.ndarray
    maps: Maps


def always_with_cls_token(detector: Sam3Model) -> Sam3Model:
    """Change a detector, in place, so that its ``forward`` has the token in every prompt without boxes."""
    detector.register_forward_pre_hook(_with_a_box, with_kwargs=True)
    detector.geometry_encoder._encode_boxes = _no_boxes
    return detector


def forward_each(
    model: LoadedModel,
    stack: SliceStack,
    concepts: Sequence[str],
    calibration: SliceCalibration,
    runtime: Runtime,
) -> Seen:
    """Trunk, text encoder and decoder for each slice and each concept; the detector has its token already."""
    seen, seconds, maps = np.zeros((len(concepts), len(stack))), 0.0, {}
    texts = [model.tokenizer.encode([concept]) for concept in concepts]
    for n, concept in product(range(len(stack)), range(len(concepts))):
        start = time.perf_counter()
        ids, mask = (tokens.to(runtime.device) for tokens in texts[concept])
        picture = stack.batch(slice(n, n + 1), runtime.device)
        with runtime.computing():
            answer = model.model.detector_model(pixel_values=picture, input_ids=ids, attention_mask=mask)
        answer.presence_logits.cpu()  # waits for the device
        seconds += time.perf_counter() - start
        pair = read_pair(answer, calibration)
        seen[concept, n] = pair.presence
        if pair.fused is not None:
            maps[concept, n] = pair.fused
    return Seen(seconds, seen, maps)


def read_pair(answer: Sam3ImageSegmentationOutput, calibration: SliceCalibration) -> PairRead:
    """Read a forward of one slice and one concept as our detector reads its own."""
    presence = float(calibration.probability(answer.presence_logits[0, 0].float().cpu().numpy()))
    scores, instances = answer.pred_logits[0].float().sigmoid() * presence, answer.pred_masks[0].float()
    if presence < calibration.threshold:
        return PairRead(presence, instances, scores, None)
    fused = fuse_slice(instances, scores, answer.semantic_seg[0, 0].float(), presence, "union")
    return PairRead(presence, instances, scores, fused)


def _with_a_box(detector: Sam3Model, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    pictures, features = kwargs.get("pixel_values"), kwargs.get("vision_embeds")
    first = features.fpn_hidden_states[0] if pictures is None else pictures
    return args, {**kwargs, "input_boxes": first.new_zeros(len(first), 1, 4)}


def _no_boxes(boxes: Tensor, mask: Tensor, labels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    nothing = features.new_zeros(len(boxes), 0, features.shape[1])
    return nothing, torch.zeros(len(boxes), 0, dtype=mask.dtype, device=mask.device)
