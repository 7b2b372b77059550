"""A SAM3 of a few thousand weights in a real model folder, and a CT of a ball, for tests of whole programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIDE = 56

_SMALL: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def small_config() -> dict[str, Any]:
    """A ``config.json`` with the real vocabulary and everything else as small as the classes allow."""
    return {
        "model_type": "sam3",
        "vision_config": {
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 14,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": 28,
            },
            "fpn_hidden_size": 16,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        "text_config": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "geometry_encoder_config": _SMALL,
        "detr_encoder_config": _SMALL,
        "detr_decoder_config": {**_SMALL, "num_queries": 5},
        "mask_decoder_config": {"hidden_size": 16, "num_attention_heads": 2},
    }


def save_small_model(folder: Path) -> Path:
    """Write a model folder with random weights, the same in every run, marked as a demonstration."""
    import torch

    from MedicalSAM3Lib.architecture import from_config
    from MedicalSAM3Lib.model_folder import save_model_folder
    from MedicalSAM3Lib.resources import resource

    torch.manual_seed(0)
    model = from_config(small_config()).build()
    notice = "Random weights: a demonstration model for tests."
    preprocess, presence = {"image_size": SIDE}, {"default": {}, "volume": {}}
    save_model_folder(
        folder, model, resource("tokenizer"), preprocess, presence, "# Small", demonstration_notice=notice
    )
    return folder


def save_foreign_model(folder: Path) -> Path:
    """The same in another layout: sizes and weights as Hugging Face has them, without what makes it ours."""
    from MedicalSAM3Lib.model_folder import SUMS_FILE

    (save_small_model(folder) / SUMS_FILE).unlink()
    return folder


def ball_hu(shape_kji: tuple[int, int, int] = (6, 40, 40)) -> np.ndarray:
    """Air with a ball of soft tissue in the middle: float32 HU."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape_kji), indexing="ij")
    return np.where(sum(axis**2 for axis in axes) < 0.7, 60.0, -1000.0).astype(np.float32)


def write_image(path: Path, array: np.ndarray) -> Path:
    """Write an array ``(K, J, I)`` or ``(T, K, J, I)`` in the format of the suffix, 1 mm voxels."""
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=False), str(path))
    return path
