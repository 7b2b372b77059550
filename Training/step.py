"""One forward of the training objective, as a module that DistributedDataParallel can wrap.

N slices, P different phrases, B (slice, phrase) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed
from Training.collate import Batch
from Training.config import TrainConfig
from Training.distil import Lesson, Teacher, distil_terms
from Training.forward import forward_train, freeze_unused
from Training.losses import Counts, LossConfig, compute_losses, global_counts
from Training.low_rank import add_low_rank
from Training.optim import MODULE_PREFIXES, module_of
from Training.recompute import recompute_layers
from Training.track_losses import track_losses
from Training.tracking import asked_at, track_clips
from Training.transfer import to_device


@dataclass(frozen=True, slots=True)
class Phrases:
    """The different phrases of a batch as tokens ``(P, T)``, and which of them each pair asks ``(B,)``."""

    input_ids: Tensor
    attention_mask: Tensor
    pair_phrase: Tensor

    def to(self, device: torch.device) -> Phrases:
        """The same on ``device``."""
        return Phrases(*(to_device(one, device) for one in (self.input_ids, self.attention_mask, self.pair_phrase)))


def encode_phrases(phrases: tuple[str, ...], tokenizer: Tokenizer) -> Phrases:
    """Tokens of the different phrases, each once, in order of appearance."""
    row = {phrase: number for number, phrase in enumerate(dict.fromkeys(phrases))}
    input_ids, attention_mask = tokenizer.encode(list(row))
    return Phrases(input_ids, attention_mask, torch.tensor([row[phrase] for phrase in phrases]))


def freeze_idle(model: MedicalSam3, losses: LossConfig, *, with_clips: bool = False) -> None:
    """Freeze what the objective cannot teach.

    Without a loss on instance masks their head has a zero gradient; weight decay alone would wear down
    what it knows. Without clips nothing teaches the tracker.

    Raises:
        SettingsError: Nothing would be left to learn, or there are clips and no tracker.
    """
    freeze_unused(model, with_masks=losses.with_masks)
    if with_clips:
        if not model.has_tracker:
            raise SettingsError("data.clips: expected a model with a tracker, got none; set model.tracker.")
        thaw_tracker(model, neck=losses.tracker_neck)
    if not losses.detector:
        if not with_clips:
            raise SettingsError("losses.detector: expected clips where the detector learns nothing, got none.")
        model.detector_model.requires_grad_(False)
    if losses.mask_focal == losses.mask_dice == 0:
        head = model.detector_model.mask_decoder
        head.mask_embedder.requires_grad_(False)
        head.instance_projection.requires_grad_(False)


def thaw_tracker(model: MedicalSam3, *, neck: bool) -> None:
    """Let the tracker learn, but for what no step from a mask reads: clicks, the first mask of four (a click's
    answer when there are several), a slice without memory, and the neck's unused level, or all of the neck."""
    tracker: Any = model.tracker_model
    own_neck: Any = model.tracker_neck
    tracker.requires_grad_(True)
    own_neck.requires_grad_(neck)
    idle = (
        own_neck.fpn_layers[-1],
        tracker.prompt_encoder.point_embed,
        tracker.mask_decoder.output_hypernetworks_mlps[0],
    )
    for part in (*idle, tracker.no_memory_embedding, tracker.no_memory_positional_encoding):
        part.requires_grad_(False)


def make_ready(model: MedicalSam3, config: TrainConfig, *, with_clips: bool) -> None:
    """Freeze what cannot or shall not learn, put adapters and recompute layers where that is asked for.

    Raises:
        SettingsError: As ``freeze_idle``, or nothing is left to learn.
    """
    freeze_idle(model, config.losses, with_clips=with_clips)
    put_adapters(model, config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and module_of(name) in config.optim.frozen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SettingsError("optim.frozen: expected something left to learn, got all of it frozen; leave modules out.")
    if config.run.recompute:
        recompute_layers(model)


def put_adapters(model: MedicalSam3, config: TrainConfig) -> None:
    """Low-rank adapters where they are asked for; raises ``SettingsError`` where there is no place for them.

    They are the same on every rank.
    """
    if config.optim.low_rank:
        prefixes = [prefix for module in config.optim.low_rank_modules for prefix in MODULE_PREFIXES[module]]
        torch.manual_seed(config.run.seed)
        add_low_rank(model, prefixes, config.optim.low_rank, config.optim.low_rank_alpha)


class TrainStep(nn.Module):
    """Batch to weighted loss terms.

    Args:
        model: Its parameters are this module's.
        losses: Weights and switches of the objective.
        autocast: Run the network in bf16 where that is safe; losses are fp32 in any case.
        teacher: Whose answers are learned beside the labels.
    """

    def __init__(
        self, model: MedicalSam3, losses: LossConfig, *, autocast: bool, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._losses = losses
        self._autocast = autocast
        self.teacher = teacher

    def forward(self, batch: Batch, phrases: Phrases, counts: Counts | None = None) -> dict[str, Tensor]:
        """Weighted scalar terms; their sum is what is optimised.

        Every denominator is the mean of the ranks' counts, so that the mean of their gradients is the
        gradient of all their data taken together.

        Args:
            counts: Of the batch that this one is a part of; its own by default.
        """
        losses = self._losses
        terms: dict[str, Tensor] = {}
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self._autocast):
            tokens = self._trunk(batch.images)
            if losses.detector:
                pyramid = self.model.pyramid(tokens)
                text = self.model.encode_text(phrases.input_ids, phrases.attention_mask).take(phrases.pair_phrase)
                outputs = forward_train(
                    self.model, pyramid, text, losses.one_to_many, losses.with_masks, batch.pair_slice
                )
                lesson = self._lesson(batch, phrases)
            if batch.clips is not None:
                count, length = batch.clips.count, batch.clips.masks.shape[1]
                of_clips = tokens[-count * length :].unflatten(0, (count, length))
                answers = track_clips(self.model, of_clips, batch.clips)
        if losses.detector:
            counts = counts or global_counts(batch)
            terms |= compute_losses(outputs, batch, losses, counts)
            if self.teacher is not None and lesson is not None:
                taught, weight = self.teacher.taught(batch), self.teacher.config.weight
                terms |= distil_terms(outputs, lesson, taught, weight, losses, counts)
        if batch.clips is not None:
            clips, asked = batch.clips, asked_at(batch.clips, batch.clips.masks.shape[1])
            truth = torch.stack([clips.masks[:, n] for n in asked], 1)
            terms |= track_losses(answers, truth, clips.shown[:, asked], losses.track)
        # A term is often one of several layers', and what waits for the gradient of a view can be lost (FSDP2 warns).
        return {name: term.clone() for name, term in terms.items()}

    def _lesson(self, batch: Batch, phrases: Phrases) -> Lesson | None:
        if self.teacher is None:
            return None
        asked = phrases.input_ids, phrases.attention_mask, phrases.pair_phrase
        return self.teacher.say(batch, *asked, masks=self._losses.with_masks)

    def _trunk(self, images: Tensor) -> Tensor:
        """Trunk tokens; without a graph where the detector learns nothing."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._losses.detector):
            return self.model.encode_trunk(images)


def backward(
    wrapped: nn.Module, batch: Batch, tokenizer: Tokenizer, device: torch.device, count: int
) -> dict[str, Tensor]:
    """Gradients of a batch, ``count`` parts one after the other, and its loss terms, without their graph.

    The parts share the denominators of the whole, so their gradients add up to its own.

    Args:
        wrapped: A ``TrainStep`` as ``distributed.wrap`` returns it.
        batch: In main memory.
        tokenizer: Reads its phrases.
        device: Of the network.
        count: ``run.accumulate``.
    """
    sums: dict[str, Tensor] = {}
    parts = batch.split(count) if count > 1 else [batch]
    counts = global_counts(batch.to(device)) if count > 1 else None
    for number, part in enumerate(parts, start=1):
        phrases = encode_phrases(part.phrases, tokenizer)
        with distributed.summing_up(wrapped, done=number == count):
            terms: dict[str, Tensor] = wrapped(part.to(device), phrases.to(device), counts)
            torch.stack(list(terms.values())).sum().backward()
        sums = {name: term.detach() + sums.get(name, 0.0) for name, term in terms.items()}
    return sums
