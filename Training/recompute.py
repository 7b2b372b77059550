"""Activation checkpointing: keep only what goes into a layer, and compute the rest again in the backward."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from MedicalSAM3Lib.model import MedicalSam3


def recompute_layers(model: MedicalSam3) -> int:
    """Have the layers of trunk, text encoder and image encoder recomputed; returns how many.

    They hold nearly all activations: the trunk's 32 blocks see 5184 tokens each. Names and weights stay as they are,
    the random numbers of dropout are those of the forward, and without gradients (validation) nothing changes.
    """
    detector = model.detector_model
    text = detector.text_encoder
    layers: list[nn.Module] = [
        *detector.vision_encoder.backbone.layers,
        *getattr(text, "text_model", text).encoder.layers,
        *detector.detr_encoder.layers,
    ]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return len(layers)
