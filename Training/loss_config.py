"""Weights and constants of the training objective, in one frozen value that is saved with the run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from Training.mask_losses import MaskSize
from Training.matchers import HungarianConfig, OneToManyConfig
from Training.track_losses import TrackLossConfig


class LossConfig(BaseModel):
    """Weights and constants of every term; the defaults are Table 2 of the paper.

    Attributes:
        classification: Scores of the queries, aware of IoU.
        positive_weight: Of a matched query within that term.
        quality_alpha: Exponent of the score in a matched query's target; IoU has the rest.
        negative_gamma: Exponent of the score that weighs an unmatched query.
        padded_queries: The term is a mean over at least this many queries, so that its weight holds
            for a model with fewer.
        one_to_many: Train the second set of queries.
        many_matcher: What matches the last layer of that branch.
        many: Weight of the one-to-many branch as a whole (lambda of the paper).
        many_aux_matcher: What matches the branch's earlier layers.
        absent_semantic: Focal loss that empties the map of absent pairs; 0 is the paper's.
        mask_focal, mask_dice: Instance masks; 0 is the paper's, 200 and 10 are SAM3's.
        mask_loss_size: Compare masks at the size of the target or of the logits.
        point_sampling: Compare instance masks at so many points only; 0 is everywhere.
        detector: Off, the detector stays as it is and the tracker alone learns, from clips.
        tracker_neck: Off, the tracker's own neck stays as it is.
        track: What the tracker is told on clips.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hungarian: HungarianConfig = HungarianConfig()
    one_to_many: bool = True
    many_matcher: OneToManyConfig = OneToManyConfig()

    box_l1: float = Field(5.0, ge=0)
    box_giou: float = Field(2.0, ge=0)
    classification: float = Field(20.0, ge=0)
    positive_weight: float = Field(10.0, ge=0)
    quality_alpha: float = Field(0.25, ge=0, le=1)
    negative_gamma: float = Field(2.0, ge=0)
    padded_queries: int = Field(200, ge=1)
    presence: float = Field(20.0, ge=0)
    presence_alpha: float = Field(0.5, ge=0, le=1)
    presence_gamma: float = Field(0.0, ge=0)
    many: float = Field(2.0, ge=0)
    many_aux_matcher: Literal["hungarian", "one_to_many"] = "hungarian"

    semantic_focal: float = Field(20.0, ge=0)
    semantic_dice: float = Field(30.0, ge=0)
    semantic_presence: float = Field(1.0, ge=0)
    semantic_alpha: float = Field(0.6, ge=0, le=1)
    semantic_gamma: float = Field(2.0, ge=0)
    absent_semantic: float = Field(0.0, ge=0)

    mask_focal: float = Field(0.0, ge=0)
    mask_dice: float = Field(0.0, ge=0)
    mask_alpha: float = Field(0.25, ge=0, le=1)
    mask_gamma: float = Field(2.0, ge=0)
    mask_loss_size: MaskSize = "target"
    point_sampling: int = Field(0, ge=0)
    point_oversample: float = Field(3.0, ge=1)
    point_importance: float = Field(0.75, ge=0, le=1)

    detector: bool = True
    tracker_neck: bool = True
    track: TrackLossConfig = TrackLossConfig()

    @property
    def with_masks(self) -> bool:
        """Whether any term reads the mask head."""
        return any((self.semantic_focal, self.semantic_dice, self.absent_semantic, self.mask_focal, self.mask_dice))
