"""An oracle in the place of the network: it finds a concept by its grey values, and counts what it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from MedicalSAM3Lib.mask_head import Masks
from MedicalSAM3Lib.model import Prompt, Pyramid, Queries, Slices, TextFeatures
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import PresenceSpec

GAIN = 40.0
PRESENT, ABSENT = 6.0, -6.0


class FakeTokenizer:
    """One token per known phrase: its position in the list, from 1; 0 for all others."""

    def __init__(self, phrases: Sequence[str]) -> None:
        self.phrases = list(phrases)

    def encode(self, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask, both ``(P, 1)``."""
        ids = [[self.phrases.index(phrase) + 1 if phrase in self.phrases else 0] for phrase in phrases]
        return torch.tensor(ids), torch.ones(len(phrases), 1, dtype=torch.int64)


class FakeModel(nn.Module):
    """The method surface of ``MedicalSam3``. Its trunk tokens are the picture itself, so nothing is lost.

    Args:
        bands: For each concept the grey values, low and high on the scale 0..1, that belong to it.
        size: Side of the input.
        least_pixels: A concept is on a slice from this many pixels of the input on.
    """

    has_tracker = False

    def __init__(self, bands: Sequence[tuple[float, float]], size: int = 96, least_pixels: int = 1) -> None:
        super().__init__()
        self.bands = torch.tensor([(2.0, 3.0), *bands])  # no grey value is that bright: unknown phrases are absent
        self.image_size, self.grid_size, self.patch = size, size // 8, 8
        self.least_pixels = least_pixels
        self.trunk_slices = self.text_phrases = self.query_pairs = self.mask_pairs = 0
        self.largest_batch = 0

    def encode_trunk(self, images: Tensor) -> Tensor:
        self.trunk_slices += len(images)
        return functional.pixel_unshuffle(images[:, :1], self.patch).flatten(2).transpose(1, 2)

    def pyramid(self, tokens: Tensor) -> Pyramid:
        maps = tokens.transpose(1, 2).unflatten(2, (self.grid_size, self.grid_size))
        picture = functional.pixel_shuffle(maps, self.patch)
        return Pyramid((picture,) * 3, (torch.zeros_like(picture),) * 3)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        self.text_phrases += len(input_ids)
        return TextFeatures(input_ids[..., None].float(), attention_mask.bool())

    def share(self, pyramid: Pyramid) -> Slices:
        picture = pyramid.levels[0]
        return Slices(picture, picture, picture, (picture,), ())

    def decode_queries(self, slices: Slices, text: TextFeatures) -> Queries:
        picture, band = slices.tokens[:, 0], self.bands[text.tokens[:, 0, 0].long()]
        self.query_pairs += len(picture)
        self.largest_batch = max(self.largest_batch, len(picture))
        pixels = (self._mask(picture, band) > 0).flatten(1).sum(1)
        presence = torch.where(pixels >= self.least_pixels, PRESENT, ABSENT)
        logits = torch.stack([presence, torch.full_like(presence, ABSENT)], 1)
        hidden = band[:, None].expand(-1, 2, -1)
        return Queries(presence, logits, torch.zeros(len(picture), 2, 4), hidden, hidden, Prompt(hidden, hidden > 0))

    def decode_masks(self, slices: Slices, queries: Queries) -> Masks:
        """Two queries: the concept's mask, and nothing."""
        self.mask_pairs += len(queries.hidden)
        mask = self._mask(slices.laterals[0][:, 0], queries.hidden[:, 0])
        pixels = torch.stack([mask, torch.full_like(mask, -GAIN)], 1)
        return Masks(mask, pixels, torch.eye(2).expand(len(mask), 2, 2), torch.zeros(len(mask), 2))

    @staticmethod
    def _mask(picture: Tensor, band: Tensor) -> Tensor:
        low, high = band[:, 0, None, None], band[:, 1, None, None]
        return GAIN * torch.minimum(picture - low, high - picture)


def fake_model(
    bands: dict[str, tuple[float, float]], size: int = 96, least_pixels: int = 1, **presence: object
) -> LoadedModel:
    """A ``LoadedModel`` around the oracle; ``presence`` are fields of ``PresenceSpec``."""
    return LoadedModel(
        model=FakeModel(list(bands.values()), size, least_pixels),  # type: ignore[arg-type]
        tokenizer=FakeTokenizer(list(bands)),  # type: ignore[arg-type]
        preprocess=PreprocessSpec(image_size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        presence=PresenceSpec.model_validate(presence),
        name="oracle",
        weights_hash="0" * 64,
        is_demonstration=True,
        notice="An oracle for tests.",
        card=Path("README.md"),
    )
