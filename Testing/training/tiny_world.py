"""A world of bright squares and a network of a few thousand weights, for tests of the training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from MedicalSAM3Lib.model import MedicalSam3
from Testing.lib.small_world import SIDE, small_config
from Training.collate import Batch, LabelState, Sample, collate
from Training.config import TrainConfig, make_config
from Training.loop import Data
from Training.network import make_architecture


def _architecture() -> dict[str, Any]:
    """The small network of the library's tests, with a vocabulary of 64 and a second decoder layer."""
    config = small_config()
    config["text_config"] |= {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 63}
    config["detr_decoder_config"] = {**config["detr_decoder_config"], "num_layers": 2}
    return config


ARCHITECTURE = _architecture()


def tiny_model(seed: int = 0) -> MedicalSam3:
    """Random weights, the same for the same seed, of a size that features can be seen through."""
    torch.manual_seed(seed)
    model = MedicalSam3(make_architecture(ARCHITECTURE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def without_dropout(model: MedicalSam3) -> MedicalSam3:
    """The same network, which then does not depend on random numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


class FakeTokenizer:
    """One token per word, by its letters."""

    def encode(self, phrases: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.full((len(phrases), 4), 63)
        mask = torch.zeros_like(ids)
        for row, phrase in enumerate(phrases):
            words = [1 + sum(map(ord, word)) % 60 for word in phrase.split()][:2]
            ids[row, : len(words) + 2] = torch.tensor([0, *words, 63])
            mask[row, : len(words) + 2] = 1
        return ids, mask


class SquareSource:
    """Noise with a bright square: "square" is present, "disc" is absent, "cross" unknown.

    ``broken`` is the (step, slice) of a picture that is not a number; slices count through all ranks.
    ``hang`` is a step that never comes.
    """

    def __init__(
        self,
        batch_slices: int = 2,
        seed: int = 0,
        rank: int = 0,
        length: int = 100,
        dtype: torch.dtype = torch.float32,
        pause: float = 0.0,
        broken: tuple[int, int] | None = None,
        hang: int | None = None,
    ) -> None:
        self._batch_slices, self._seed, self._rank, self._length = batch_slices, seed, rank, length
        self._dtype, self._pause, self._broken, self._hang = dtype, pause, broken, hang

    def __len__(self) -> int:
        return self._length

    def batch(self, step: int) -> Batch:
        time.sleep(1000 if step == self._hang else self._pause)
        first = self._rank * self._batch_slices
        return collate([self._sample(step, first + row) for row in range(self._batch_slices)])

    def prefetched(self, first_step: int, last_step: int) -> Iterator[Batch]:
        yield from (self.batch(step) for step in range(first_step, last_step))

    def _sample(self, step: int, number: int) -> Sample:
        rng = np.random.default_rng([self._seed, step, number])
        top, left = rng.integers(0, SIDE - 24, 2)
        mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
        mask[0, top : top + 20, left : left + 24] = True
        image = torch.from_numpy(rng.normal(0, 0.2, (3, SIDE, SIDE)).astype(np.float32)) + mask * 2.0
        if (step, number) == self._broken:
            image.fill_(torch.nan)
        nothing = mask[:0]
        states = (LabelState.PRESENT, LabelState.ABSENT, LabelState.UNKNOWN)
        return Sample(image.to(self._dtype), ("square", "disc", "cross"), states, (mask, nothing, nothing))


def tiny_config(out: object, **overrides: dict[str, Any]) -> TrainConfig:
    """Settings of a short run, with whole sections updated by name."""
    values: dict[str, Any] = {
        "model": {"architecture": ARCHITECTURE},
        "data": {"manifest": "unused.parquet", "batch_slices": 2},
        "losses": {"mask_focal": 200.0, "mask_dice": 10.0},
        "optim": {"lr": 1e-3, "clip": 1.0},
        "run": {
            "out": str(out),
            "steps": 6,
            "precision": "fp32",
            "save_every": 2,
            "seed": 3,
            "device": "cpu",
            "plan": False,
        },
    }
    for section, changes in overrides.items():
        values[section] = {**values.get(section, {}), **changes}
    return make_config(values)


def tiny_data(
    batch_slices: int = 2,
    rank: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    pause: float = 0.0,
    broken: tuple[int, int] | None = None,
    hang: int | None = None,
) -> Data:
    """Squares for training, other squares for validation."""
    train = SquareSource(batch_slices, rank=rank, dtype=dtype, pause=pause, broken=broken, hang=hang)
    val = SquareSource(batch_slices, seed=1, rank=rank, length=2, dtype=dtype)
    return Data(train, val, manifest_sha256="0" * 64)
