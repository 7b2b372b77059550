"""A SAM3 with every part that the real one has, a few megabytes small, in every published layout."""

from __future__ import annotations

import gzip
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.architecture import Architecture
from MedicalSAM3Lib.meta_layout import POSITION_TABLE, lost_keys, to_meta
from MedicalSAM3Lib.model import MedicalSam3

DATA = Path(__file__).parent / "data"
SIDE, WIDTH = 56, 128


@cache
def frozen_keys() -> dict[str, dict[str, list[int]]]:
    """Names and shapes of Meta's own models: "video" at full size, "small" as ``oracle_architecture``."""
    return json.loads(gzip.decompress((DATA / "meta_keys.json.gz").read_bytes()))


def small_architecture() -> Architecture:
    """Detector and tracker. The width is 128, since the tracker of ``transformers`` allows no less."""
    from transformers import Sam3TrackerVideoConfig

    detector = _detector(SIDE, grid=4, window=2, pretrain=28, width=WIDTH, vit=32, queries=5, text={})
    tracker = Sam3TrackerVideoConfig(
        vision_config=detector.vision_config.to_dict(),
        image_size=SIDE,
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE},
        mask_decoder_config={"hidden_size": WIDTH, "mlp_dim": 32, "iou_head_hidden_dim": WIDTH},
        memory_attention_hidden_size=WIDTH,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_num_layers=1,
        memory_encoder_hidden_size=WIDTH,
        mask_downsampler_embed_dim=WIDTH,
        memory_fuser_embed_dim=WIDTH,
        memory_fuser_intermediate_dim=32,
    )
    return Architecture(detector, tracker)


def oracle_architecture() -> Architecture:
    """The sizes at which Meta's detector computed ``data/meta_small_outputs.npz``."""
    text = {"vocab_size": 64, "hidden_size": 12, "intermediate_size": 48, "num_hidden_layers": 2, "projection_dim": 512}
    tokens = {"bos_token_id": 62, "eos_token_id": 63, "pad_token_id": 63}
    text = {**text, **tokens}
    return Architecture(
        _detector(84, grid=6, window=3, pretrain=42, width=16, vit=16, queries=4, text=text, layers=2), None
    )


def _detector(
    side: int, grid: int, window: int, pretrain: int, width: int, vit: int, queries: int, text: dict[str, Any],
    layers: int = 1,
) -> Any:  # fmt: skip
    from transformers import Sam3Config

    part = {"hidden_size": width, "num_layers": layers, "num_attention_heads": 2, "intermediate_size": 24}
    return Sam3Config.from_dict(
        {
            "vision_config": {
                "model_type": "sam3_vision_model",
                "backbone_config": {
                    "model_type": "sam3_vit_model",
                    "hidden_size": vit,
                    "intermediate_size": 2 * vit,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": side,
                    "patch_size": 14,
                    "window_size": window,
                    "global_attn_indexes": [1],
                    "pretrain_image_size": pretrain,
                },
                "fpn_hidden_size": width,
                "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
            },
            "text_config": {
                "model_type": "clip_text_model",
                "vocab_size": 49408,
                "hidden_size": 16,
                "intermediate_size": 32,
                "projection_dim": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 32,
                "hidden_act": "gelu",
                **text,
            },
            "geometry_encoder_config": part,
            "detr_encoder_config": part,
            "detr_decoder_config": {**part, "num_queries": queries},
            "mask_decoder_config": {"hidden_size": width, "num_attention_heads": 2},
        }
    )


def small_model() -> MedicalSam3:
    """Random weights, the same in every run."""
    torch.manual_seed(0)
    return small_architecture().build()


def only_metas() -> dict[str, Tensor]:
    """The seven tensors that only Meta's file has, at the small size."""
    tensors = {key: torch.full((3, 2), 0.5) for key in lost_keys()}
    return {**tensors, POSITION_TABLE: torch.full((1, 5, 32), 0.25)}


def meta_tensors(model: MedicalSam3) -> dict[str, Tensor]:
    """The model as Meta's video checkpoint, prefixes ``detector.`` and ``tracker.``."""
    return to_meta(model.state_dict(), Architecture(model.config, model.tracker_config), only_metas())


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As Meta's trainer saves its image model, and as Medical SAM3's ``checkpoint_2D.pt`` is."""
    detector = {k.removeprefix("detector."): v for k, v in tensors.items() if k.startswith("detector.")}
    return {key: value for key, value in detector.items() if "sam2_convs" not in key}


def oracle_weights() -> dict[str, Tensor]:
    """The weights that Meta's detector had: uniform numbers from a generator seeded by each name."""
    weights = {}
    for key, shape in frozen_keys()["small"].items():
        uniform = np.random.default_rng(zlib.crc32(key.encode())).uniform(-1, 1, shape)
        if len(shape) == 1:
            values = 0.1 * uniform + (1 if key.endswith("weight") else 0)
        else:
            values = uniform * np.sqrt(3 / max(np.prod(shape[1:]), 1))
        # Input of the first normalisation, so small that its epsilon shows in the result.
        scale = 0.005 if "patch_embed" in key or "pos_embed" in key else 1.0
        weights[f"detector.{key}"] = torch.tensor(scale * values, dtype=torch.float32)
    return weights
