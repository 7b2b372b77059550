"""One forward of the training objective, as a module that DistributedDataParallel can wrap.

N slices, P different phrases, B (slice, phrase) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from MedicalSAM3Lib.model import MedicalSam3, Pyramid, TextFeatures
from MedicalSAM3Lib.text import Tokenizer
from Training.collate import Batch
from Training.forward import forward_train, freeze_unused
from Training.losses import LossConfig, compute_losses, global_counts


@dataclass(frozen=True, slots=True)
class Phrases:
    """The different phrases of a batch as tokens ``(P, T)``, and which of them each pair asks ``(B,)``."""

    input_ids: Tensor
    attention_mask: Tensor
    pair_phrase: Tensor

    def to(self, device: torch.device) -> Phrases:
        """The same on ``device``."""
        return Phrases(self.input_ids.to(device), self.attention_mask.to(device), self.pair_phrase.to(device))


def encode_phrases(phrases: tuple[str, ...], tokenizer: Tokenizer) -> Phrases:
    """Tokens of the different phrases, each once, in order of appearance."""
    row = {phrase: number for number, phrase in enumerate(dict.fromkeys(phrases))}
    input_ids, attention_mask = tokenizer.encode(list(row))
    return Phrases(input_ids, attention_mask, torch.tensor([row[phrase] for phrase in phrases]))


def encode_pairs(model: MedicalSam3, batch: Batch, phrases: Phrases) -> tuple[Pyramid, TextFeatures]:
    """Pyramid and text of each pair: the trunk runs once per slice, the text encoder once per phrase."""
    pyramid = model.pyramid(model.encode_trunk(batch.images)).take(batch.pair_slice)
    text = model.encode_text(phrases.input_ids, phrases.attention_mask).take(phrases.pair_phrase)
    return pyramid, text


def freeze_idle(model: MedicalSam3, losses: LossConfig) -> None:
    """Freeze what the objective cannot teach.

    Without a loss on instance masks their head has a zero gradient; weight decay alone would wear down
    what it knows.
    """
    freeze_unused(model, with_masks=losses.with_masks)
    if losses.mask_focal == losses.mask_dice == 0:
        head = model.detector_model.mask_decoder
        head.mask_embedder.requires_grad_(False)
        head.instance_projection.requires_grad_(False)


class TrainStep(nn.Module):
    """Batch to weighted loss terms.

    Args:
        model: Its parameters are this module's.
        losses: Weights and switches of the objective.
        autocast: Run the network in bf16 where that is safe; losses are fp32 in any case.
    """

    def __init__(self, model: MedicalSam3, losses: LossConfig, *, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self._losses = losses
        self._autocast = autocast

    def forward(self, batch: Batch, phrases: Phrases) -> dict[str, Tensor]:
        """Weighted scalar terms; their sum is what is optimised.

        Every denominator is the mean of the ranks' counts, so that the mean of their gradients is the
        gradient of all their data taken together.
        """
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self._autocast):
            pyramid, text = encode_pairs(self.model, batch, phrases)
            outputs = forward_train(
                self.model, pyramid, text, one_to_many=self._losses.one_to_many, with_masks=self._losses.with_masks
            )
        return compute_losses(outputs, batch, self._losses, global_counts(batch))
