"""Validation during training: Dice by typed concept and presence, on whole slices of a split.

The published numbers come from the shipped pipeline on whole volumes; this one only picks a checkpoint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.fusion import union
from MedicalSAM3Lib.mask_head import Masks
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed
from Training.collate import Batch, LabelState
from Training.metrics import dice, mean_of, presence_counts
from Training.step import encode_phrases

PRESENCE_THRESHOLD = 0.5


class Source(Protocol):
    """What training and validation need of the data: a batch is a function of its number alone."""

    def __len__(self) -> int: ...

    def batch(self, step: int) -> Batch: ...

    def prefetched(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """``batch`` of each step, made ahead."""


@dataclass(frozen=True, slots=True)
class Row:
    """Score of one (slice, concept) pair. Dice is NaN where the concept is absent and nothing was found."""

    phrase: str
    dice: float
    is_present: bool
    is_found: bool


def validate(model: MedicalSam3, tokenizer: Tokenizer, source: Source, num_batches: int, bf16: bool) -> dict[str, Any]:
    """Score the model on the first batches of a source; all ranks get the result over all ranks.

    Args:
        model: Left in the mode it came in.
        tokenizer: Of the model.
        source: This rank's share of a split.
        num_batches: Most batches to look at.
        bf16: Run the network under autocast.

    Returns:
        ``dice`` (mean over concepts of their mean Dice over slices; a missed concept counts 0),
        ``concepts`` {phrase: {dice, count, undefined}}, ``sensitivity`` and ``specificity`` of presence
        with ``present`` and ``absent``, how many pairs they stand on.
    """
    was_training = model.training
    model.eval()
    rows: list[Row] = []
    for step in range(min(len(source), num_batches)):
        rows += score_batch(model, tokenizer, source.batch(step), bf16)
    model.train(was_training)
    return summarise([row for part in distributed.gather(rows) for row in part])


@torch.no_grad()
def score_batch(model: MedicalSam3, tokenizer: Tokenizer, batch: Batch, bf16: bool) -> list[Row]:
    """Score all pairs of a batch whose truth is known."""
    device = next(model.parameters()).device
    batch, phrases = batch.to(device), encode_phrases(batch.phrases, tokenizer).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        slices = model.share(model.pyramid(model.encode_trunk(batch.images))).take(batch.pair_slice)
        text = model.encode_text(phrases.input_ids, phrases.attention_mask).take(phrases.pair_phrase)
        queries = model.decode_queries(slices, text)
        presence = queries.presence.float().sigmoid()
        opened = torch.nonzero(presence > PRESENCE_THRESHOLD)[:, 0]
        answers = queries.take(opened)
        masks = model.decode_masks(slices.take(opened), answers) if len(opened) else None
    found = (
        {} if masks is None else _union_masks(masks, answers.logits, presence[opened], opened, batch.images.shape[-1])
    )
    rows = []
    for pair, phrase in enumerate(batch.phrases):
        if batch.states[pair] == LabelState.UNKNOWN:
            continue
        reference = batch.masks[batch.object_pair == pair].any(0).cpu().numpy()
        mask = found.get(pair, np.zeros_like(reference))
        is_present = bool(batch.states[pair] == LabelState.PRESENT)
        rows.append(Row(phrase, dice(mask, reference), is_present, pair in found))
    return rows


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Means with the number of cases that each stands on."""
    by_phrase: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_phrase[row.phrase].append(row.dice)
    means = {phrase: mean_of(values) for phrase, values in sorted(by_phrase.items())}
    counts = presence_counts([row.is_found for row in rows], [row.is_present for row in rows])
    # A concept that is nowhere present has no Dice to speak of: zero or undefined, whatever the model does.
    scored = [means[phrase].value for phrase in sorted({row.phrase for row in rows if row.is_present})]
    return {
        "dice": mean_of(scored).value,
        "concepts": {
            phrase: {"dice": mean.value, "count": mean.count, "undefined": mean.undefined}
            for phrase, mean in means.items()
        },
        "sensitivity": counts.sensitivity,
        "present": counts.present,
        "specificity": counts.specificity,
        "absent": counts.absent,
    }


def _union_masks(masks: Masks, logits: Tensor, presence: Tensor, pairs: Tensor, side: int) -> dict[int, np.ndarray]:
    """Masks ``(side, side)`` of the pairs by the shipped default rule."""
    scores = logits.float().sigmoid() * presence[:, None]
    found = {}
    for row, pair in enumerate(pairs.tolist()):
        fused = union(masks.instances(row), scores[row], masks.semantic[row].float())
        fused = functional.interpolate(fused[None, None], (side, side), mode="bilinear", align_corners=False)[0, 0]
        found[pair] = (fused > 0).cpu().numpy()
    return found
