"""A small student learns also from what a large teacher says of the same pairs, beside what people drew.

The teacher's last layer is the goal: its presence, its map, and the boxes, scores and masks of the objects that it
finds. Pairs whose truth nobody knows are taught only where that is asked for: there the teacher alone is believed.

B (slice, phrase) pairs, Q queries, T objects that the teacher finds, h w side of the student's maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training import transfer
from Training.boxes import cxcywh_to_xyxy, overlap
from Training.collate import Batch, LabelState
from Training.forward import Outputs, forward_train
from Training.loss_config import LossConfig
from Training.mask_losses import full_precision
from Training.matchers import match_hungarian
from Training.query_losses import stack_layers
from Training.targets import Counts
from Training.transfer import in_memory, to_device

FOUND = 0.5
"""Score times presence from which on a teacher's query is an object, as in the pipeline."""


class DistilConfig(BaseModel):
    """Who teaches and how much of the loss it is.

    Attributes:
        teacher: Model folder, checkpoint file or name that the registry knows; "" = nobody. It sees the pictures as
            ``data.preprocess`` makes them, at its own size.
        weight: Of all that the teacher says.
        unknown: Teach also the pairs whose truth is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str = ""
    weight: float = Field(1.0, gt=0)
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher says: presence ``(B,)`` and map ``(B, H, W)`` as logits, and of its objects, in the order of
    their pairs: boxes ``(T, 4)``, scores ``(T,)`` 0..1, mask logits ``(T, H, W)`` and, in main
    memory, the pair of each."""

    presence: Tensor
    semantic: Tensor | None
    boxes_cxcywh: Tensor
    scores: Tensor
    masks: Tensor | None
    object_pair: np.ndarray


class Teacher:
    """A network that is asked and never learns; no module of the student's, so that nothing takes it for its part."""

    def __init__(self, model: MedicalSam3, config: DistilConfig) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = config

    @torch.no_grad()
    def say(
        self, batch: Batch, input_ids: Tensor, attention_mask: Tensor, pair_phrase: Tensor, *, masks: bool
    ) -> Lesson:
        """The lesson; pairs that are not taught have no object in it."""
        side = self.model.image_size
        images = functional.interpolate(batch.images, (side, side), mode="bilinear", antialias=True)
        pyramid = self.model.pyramid(self.model.encode_trunk(images))
        text = self.model.encode_text(input_ids, attention_mask).take(pair_phrase)
        said = forward_train(self.model, pyramid, text, False, masks, batch.pair_slice)
        last = said.layers[-1]
        assert last.presence is not None
        scores = full_precision(last.logits).sigmoid() * full_precision(last.presence).sigmoid()[:, None]
        (found,) = transfer.to_host(scores)
        pairs, queries = np.nonzero((found > FOUND) & self.taught(batch)[:, None])
        pair, query = to_device(np.stack([pairs, queries]), scores.device).unbind()
        return Lesson(
            presence=full_precision(last.presence),
            semantic=None if said.semantic is None else full_precision(said.semantic),
            boxes_cxcywh=full_precision(last.boxes_cxcywh)[pair, query],
            scores=full_precision(last.logits).sigmoid()[pair, query],
            masks=None if said.instances is None else full_precision(said.instances[pair, query]),
            object_pair=pairs,
        )

    def taught(self, batch: Batch) -> np.ndarray:
        """Which pairs the teacher is listened to on: bool ``(B,)``."""
        known: np.ndarray = in_memory(batch.states) != LabelState.UNKNOWN
        return np.ones_like(known) if self.config.unknown else known


def load_teacher(config: DistilConfig, tokenizer: Tokenizer, device: torch.device) -> Teacher | None:
    """The teacher on a device, None where nobody teaches.

    Raises:
        SettingsError: There is no such model, or it reads words otherwise than the student.
        WeightsError: It cannot be loaded.
    """
    if not config.teacher:
        return None
    from MedicalSAM3Lib.registry import load_model

    loaded = load_model(config.teacher, device="cpu", speed="exact")
    probe = ["left kidney", "polyp", "Zyste"]
    if any(not torch.equal(a, b) for a, b in zip(loaded.tokenizer.encode(probe), tokenizer.encode(probe), strict=True)):
        raise SettingsError(
            "distil.teacher: expected the tokenizer of the student, got another one; choose another teacher."
        )
    return Teacher(loaded.model.to(device), config)


def distil_terms(
    outputs: Outputs, lesson: Lesson, taught: np.ndarray, weight: float, losses: LossConfig, counts: Counts
) -> dict[str, Tensor]:
    """Weighted scalar terms of what the student says otherwise than its teacher, for each known pair of the batch.

    Args:
        outputs: Of the student.
        lesson: Of its teacher, on the same pairs.
        taught: bool ``(B,)``.
        weight: Of each term.
        losses: How objects are matched and boxes weighed.
        counts: Of the batch.
    """
    branch = stack_layers(outputs.layers[-1:])
    assert branch.presence is not None
    rows = to_device(np.flatnonzero(taught), branch.logits.device)
    terms = {"distil_presence": _soft(branch.presence[0], lesson.presence)[rows].sum()}
    if outputs.semantic is not None and lesson.semantic is not None:
        maps = full_precision(outputs.semantic)
        terms["distil_map"] = _soft(maps, _at_size(lesson.semantic, maps)).mean((1, 2))[rows].sum()
    boxes, pairs = lesson.boxes_cxcywh.to(branch.logits.dtype), lesson.object_pair
    matches = match_hungarian(branch.logits, branch.boxes_cxcywh, boxes, pairs, losses.hungarian)
    places = matches.on(branch.logits.device)
    place = places.pair, places.query
    found, goal, sure = branch.boxes_cxcywh[0][place], boxes[places.object], lesson.scores[places.object]
    _, giou = overlap(cxcywh_to_xyxy(found), cxcywh_to_xyxy(goal))
    off = losses.box_l1 * (found - goal).abs().sum(1) + losses.box_giou * (1 - giou)
    terms["distil_box"] = (sure * off).sum()
    terms["distil_score"] = functional.binary_cross_entropy_with_logits(branch.logits[0][place], sure, reduction="sum")
    if outputs.instances is not None and lesson.masks is not None:
        masks = full_precision(outputs.instances[place])
        terms["distil_mask"] = (sure * _soft(masks, _at_size(lesson.masks[places.object], masks)).mean((1, 2))).sum()
    return {name: weight * term / counts.pairs for name, term in terms.items()}


def _soft(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the teacher's probability, less the teacher's own: 0 where both agree."""
    goal = teacher.sigmoid().to(logits.dtype)
    own = functional.binary_cross_entropy_with_logits(teacher.to(logits.dtype), goal, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, goal, reduction="none") - own


def _at_size(maps: Tensor, like: Tensor) -> Tensor:
    """The teacher's maps at the student's size; nothing stays nothing."""
    if len(maps) == 0 or maps.shape[-2:] == like.shape[-2:]:
        return maps if len(maps) else like.detach()
    return functional.interpolate(maps[:, None], like.shape[-2:], mode="bilinear", align_corners=False, antialias=True)[
        :, 0
    ]
