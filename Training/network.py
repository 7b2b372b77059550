"""The network that a run starts from: loaded from somewhere, or new at the sizes of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import Sam3Config

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
    if config.architecture is None:
        from MedicalSAM3Lib.registry import load_model

        loaded = load_model(config.start_from, device="cpu", speed="exact")
        return loaded.model, loaded.tokenizer
    from MedicalSAM3Lib.resources import resource
    from Training.warmstart import initialise

    torch.manual_seed(seed)
    model = MedicalSam3(make_architecture(config.architecture))
    initialise(model)
    return model, load_tokenizer(config.tokenizer or resource("tokenizer"))


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
