"""The network that a run starts from: loaded from somewhere, or new at the sizes of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional
from transformers import Sam3Config, Sam3TrackerVideoConfig

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer, load_tokenizer
from Training.config import ModelConfig


def build_network(config: ModelConfig, seed: int) -> tuple[MedicalSam3, Tokenizer]:
    """Network in fp32 on the CPU, and its tokenizer; the same weights on every rank.

    Raises:
        SettingsError: The architecture has a key that SAM3 does not know.
        WeightsError: ``start_from`` is no checkpoint that can be loaded strictly.
    """
    from Training.warmstart import initialise

    torch.manual_seed(seed)
    if config.architecture is None:
        from MedicalSAM3Lib.registry import load_model

        loaded = load_model(config.start_from, device="cpu", speed="exact")
        model = loaded.model
        if config.tracker is not None:
            model = with_tracker(model, config.tracker, replace=config.replace_tracker)
        return model, loaded.tokenizer
    from MedicalSAM3Lib.resources import resource

    architecture = make_architecture(config.architecture)
    model = MedicalSam3(architecture, None if config.tracker is None else make_tracker(architecture, config.tracker))
    initialise(model)
    return model, load_tokenizer(config.tokenizer or resource("tokenizer"))


def with_tracker(model: MedicalSam3, values: Mapping[str, Any], *, replace: bool = False) -> MedicalSam3:
    """The same detector with a new tracker beside it, in place of one that it has where that is asked for.

    Raises:
        SettingsError: The model has a tracker already, or a key is unknown.
    """
    from Training.warmstart import initialise

    if model.has_tracker and not replace:
        raise SettingsError(
            "model.tracker: expected a model without a tracker, got one that has its own; leave it out, or set "
            "model.replace_tracker to begin it anew."
        )
    whole = MedicalSam3(model.config, make_tracker(model.config, values))
    initialise(whole)
    whole.detector_model.load_state_dict(model.detector_model.state_dict(), strict=True)
    # SAM3's second neck began as a copy of the first: both read the same trunk.
    neck = model.detector_model.vision_encoder.neck
    whole.tracker_neck.load_state_dict(neck.state_dict(), strict=True)  # type: ignore[union-attr]
    level_neck(whole)
    return whole


@torch.no_grad()
def level_neck(model: MedicalSam3) -> None:
    """Scale the levels of the tracker's neck so that each speaks in numbers of about 1.

    Nothing but the detector's own training says how large its features are (those of the bundled model have a
    deviation of 18), and next to large ones the mask in a memory is not heard. Measured on smooth noise, which is near
    enough to pictures.
    """
    side = model.image_size
    noise = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    images = functional.interpolate(noise, (side, side), mode="bilinear")
    was_training = model.training
    levels = model.eval().tracker_pyramid(model.encode_trunk(images)).levels
    model.train(was_training)
    for layer, level in zip(model.tracker_neck.fpn_layers, levels, strict=False):  # type: ignore[union-attr, arg-type]
        for parameter in layer.proj2.parameters():
            parameter.div_(level.std())


def make_tracker(architecture: Sam3Config, values: Mapping[str, Any]) -> Sam3TrackerVideoConfig:
    """A tracker's configuration that fits a detector: same trunk, same width, same size of the picture.

    Raises:
        SettingsError: A key is unknown.
    """
    width, side = architecture.vision_config.fpn_hidden_size, architecture.image_size
    patch = architecture.vision_config.backbone_config.patch_size
    fitting: dict[str, Any] = {
        "vision_config": architecture.vision_config.to_dict(),
        "image_size": side,
        "prompt_encoder_config": {"hidden_size": width, "image_size": side, "patch_size": patch},
        "mask_decoder_config": {"hidden_size": width, "iou_head_hidden_dim": width},
        "memory_attention_hidden_size": width,
        "memory_attention_rope_feat_sizes": [side // patch, side // patch],
        "memory_encoder_hidden_size": width,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
    }
    unknown: list[str] = []
    known = _merge(
        Sam3TrackerVideoConfig().to_dict(), {k: v for k, v in fitting.items() if k != "vision_config"}, "", []
    )
    merged = _merge(known | {"vision_config": fitting["vision_config"]}, values, "", unknown)
    if unknown:
        names = ", ".join(unknown)
        raise SettingsError(f"model.tracker: expected keys of Sam3TrackerVideoConfig, got {names}; correct them.")
    return Sam3TrackerVideoConfig.from_dict(merged)


def make_architecture(values: Mapping[str, Any]) -> Sam3Config:
    """SAM3's configuration with some values replaced.

    Raises:
        SettingsError: A key is unknown; ``transformers`` would take it and ignore it.
    """
    unknown: list[str] = []
    merged = _merge(Sam3Config().to_dict(), values, "", unknown)
    if unknown:
        raise SettingsError(f"model.architecture: expected keys of Sam3Config, got {', '.join(unknown)}; correct them.")
    return Sam3Config.from_dict(merged)


def _merge(known: Mapping[str, Any], values: Mapping[str, Any], prefix: str, unknown: list[str]) -> dict[str, Any]:
    """``known`` with the leaves of ``values`` in it; names what has no place to ``unknown``."""
    merged = dict(known)
    for key, value in values.items():
        if key not in known:
            unknown.append(prefix + key)
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping):
            merged[key] = _merge(known[key], value, f"{prefix}{key}.", unknown)
        else:
            merged[key] = value
    return merged
