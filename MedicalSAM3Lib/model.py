"""SAM3 as one object: detector, tracker and tracker neck around a single vision trunk.

The architecture is SAM3's from ``transformers`` (Apache-2.0), unchanged; the state dict has the keys of
``transformers``' ``Sam3VideoModel``. Two things differ from its forward, so that outputs are those of
the network that the weights were trained with (``facebookresearch/sam3``):

- the geometry encoder always runs, so a text prompt carries its CLS token (``transformers`` skips it
  unless there are boxes; Medical SAM3 was trained with it);
- the ViT's LayerNorm epsilon is 1e-5 (``transformers`` defaults to 1e-6).

Shapes: N slices, B (slice, concept) pairs, L trunk tokens, D trunk width, C detector width, T prompt
tokens, Q object queries, S input side, h w mask side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model, Sam3TrackerVideoConfig, Sam3TrackerVideoModel
from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck

from MedicalSAM3Lib.decoder import Memory, decode
from MedicalSAM3Lib.encoder import fuse_prompt, look_around
from MedicalSAM3Lib.mask_head import Masks, draw_masks, lateral_maps, upsampling_kernels

VIT_LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Pyramid:
    """Feature maps, finest first, each ``(N, C, h, w)``, and their position encodings, alike."""

    levels: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]

    def take(self, index: Tensor) -> Pyramid:
        """Rows ``index`` (B,) of every level: one row per (slice, concept) pair."""
        return Pyramid(
            tuple(level[index] for level in self.levels),
            tuple(position[index] for position in self.positions),
        )


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """Encoded phrases: ``tokens`` (P, T, C) and ``mask`` (P, T), True at real tokens."""

    tokens: Tensor
    mask: Tensor

    def take(self, index: Tensor) -> TextFeatures:
        """Rows ``index`` (B,) of the phrases."""
        return TextFeatures(self.tokens[index], self.mask[index])


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the detector is asked: text and CLS tokens (B, T + 1, C) and their mask (B, T + 1)."""

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Queries:
    """Answer of the detector before its mask head.

    Attributes:
        presence: Logits ``(B,)`` that the concept is on the slice.
        logits: Scores of the queries ``(B, Q)``, before presence is folded in.
        boxes_xyxy: ``(B, Q, 4)``, 0..1 of the model's square input.
        hidden: Query states of the last layer ``(B, Q, C)``.
        encoded: Image tokens fused with the prompt ``(B, L, C)``.
        prompt: The prompt that was asked.
    """

    presence: Tensor
    logits: Tensor
    boxes_xyxy: Tensor
    hidden: Tensor
    encoded: Tensor
    prompt: Prompt

    def take(self, index: Tensor) -> Queries:
        """Rows ``index`` of every field: pairs whose presence opened the gate to the mask head."""
        return Queries(
            self.presence[index],
            self.logits[index],
            self.boxes_xyxy[index],
            self.hidden[index],
            self.encoded[index],
            Prompt(self.prompt.tokens[index], self.prompt.mask[index]),
        )


@dataclass(frozen=True, slots=True)
class Slices:
    """What slices give to every concept that is asked of them, computed once.

    Attributes:
        tokens, positions: Image tokens ``(N, L, C)`` after the self-attention of the first encoder layer, which comes
            before that layer reads the prompt, and their positions.
        cls: The geometry encoder's token ``(N, 1, C)``, which has looked at the slice.
        laterals: Of the mask head, coarse to fine ``(N, C, h, w)``.
        kernels: Of the mask head; the same for all slices.
    """

    tokens: Tensor
    positions: Tensor
    cls: Tensor
    laterals: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]

    def take(self, index: Tensor) -> Slices:
        """Rows ``index`` (B,): one per (slice, concept) pair."""
        return replace(
            self,
            tokens=self.tokens[index],
            positions=self.positions[index],
            cls=self.cls[index],
            laterals=tuple(lateral[index] for lateral in self.laterals),
        )

    def rows(self) -> list[Slices]:
        """Each slice by itself: views, not copies."""
        return [
            replace(
                self,
                tokens=self.tokens[n : n + 1],
                positions=self.positions[n : n + 1],
                cls=self.cls[n : n + 1],
                laterals=tuple(lateral[n : n + 1] for lateral in self.laterals),
            )
            for n in range(len(self.tokens))
        ]

    @classmethod
    def join(cls, rows: Sequence[Slices]) -> Slices:
        """The opposite of ``rows``."""
        if len(rows) == 1:
            return rows[0]
        return replace(
            rows[0],
            tokens=torch.cat([row.tokens for row in rows]),
            positions=torch.cat([row.positions for row in rows]),
            cls=torch.cat([row.cls for row in rows]),
            laterals=tuple(torch.cat(level) for level in zip(*(row.laterals for row in rows), strict=True)),
        )

    def for_queries(self) -> Slices:
        """Without what only the mask head reads: most pairs never get there."""
        return replace(self, laterals=())


class MedicalSam3(nn.Module):
    """SAM3's detector and, where the weights have one, its tracker, on one trunk."""

    def __init__(self, config: Sam3Config, tracker_config: Sam3TrackerVideoConfig | None = None) -> None:
        super().__init__()
        config.vision_config.backbone_config.layer_norm_eps = VIT_LAYER_NORM_EPS
        self.config = config
        self.tracker_config = tracker_config
        self.has_graphs = False  # whether this process has compiled the trunk (``compiling``)
        self.detector_model = Sam3Model(config)
        self.tracker_model: nn.Module | None = None
        self.tracker_neck: nn.Module | None = None
        if tracker_config is not None:
            # The trunk is the detector's: without this flag the tracker would build a second one.
            tracker = Sam3TrackerVideoModel(tracker_config, remove_vision_encoder=True)
            # One random projection encodes positions in SAM3; transformers draws its two copies apart.
            tracker.prompt_encoder.shared_embedding.load_state_dict(tracker.shared_image_embedding.state_dict())
            self.tracker_model = tracker
            self.tracker_neck = Sam3VisionNeck(config.vision_config)

    @property
    def has_tracker(self) -> bool:
        """Whether the weights carry a tracker (image-only checkpoints do not)."""
        return self.tracker_model is not None

    @property
    def image_size(self) -> int:
        """Side S of the square input in pixels."""
        size = self.config.image_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def grid_size(self) -> int:
        """Side of the trunk's token grid; L is its square."""
        return self.image_size // int(self.config.vision_config.backbone_config.patch_size)

    def encode_trunk(self, images_n3ss: Tensor) -> Tensor:
        """Run the ViT once per slice: ``(N, 3, S, S)`` in about -1..1 to tokens ``(N, L, D)``."""
        return self.detector_model.vision_encoder.backbone(images_n3ss).last_hidden_state

    def pyramid(self, tokens_nld: Tensor) -> Pyramid:
        """Detector neck: trunk tokens to three maps. The half-resolution level has no reader; skip it."""
        return _neck(self.detector_model.vision_encoder.neck, tokens_nld, self.grid_size)

    def tracker_pyramid(self, tokens_nld: Tensor) -> Pyramid:
        """Tracker neck: the same tokens, three maps of its own. The model must have a tracker."""
        if self.tracker_neck is None:
            raise ValueError("expected a model with a tracker, got a detector alone")
        return _neck(self.tracker_neck, tokens_nld, self.grid_size)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        """Encode phrases ``(P, T)`` of token ids, mask 1 at real tokens."""
        features = self.detector_model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return TextFeatures(features.pooler_output, attention_mask.bool())

    def share(self, pyramid: Pyramid, with_masks: bool = True) -> Slices:
        """Compute what all concepts of a slice have in common; without masks there are no ``laterals``."""
        model = self.detector_model
        tokens, positions = _coarse_tokens(pyramid)
        return Slices(
            tokens=look_around(model.detr_encoder.layers[0], tokens, positions),
            positions=positions,
            cls=self.cls(pyramid),
            laterals=lateral_maps(model.mask_decoder, pyramid.levels) if with_masks else (),
            kernels=upsampling_kernels(model.mask_decoder, len(pyramid.levels) - 1) if with_masks else (),
        )

    def cls(self, pyramid: Pyramid) -> Tensor:
        """Let the geometry encoder's CLS token ``(N, 1, C)`` look at each slice."""
        encoder = self.detector_model.geometry_encoder
        image, positions = _coarse_tokens(pyramid)
        cls = encoder.cls_embed.weight[None].expand(image.shape[0], -1, -1)
        cls = encoder.prompt_layer_norm(encoder.final_proj(cls))
        for layer in encoder.layers:
            cls = layer(prompt_feats=cls, vision_feats=image, vision_pos_encoding=positions, prompt_mask=None)
        return encoder.output_layer_norm(cls)

    def prompt(self, cls: Tensor, text: TextFeatures) -> Prompt:
        """Append the geometry encoder's CLS token ``(B, 1, C)``, which has looked at the slice, to the text."""
        always = torch.ones(cls.shape[:2], dtype=torch.bool, device=cls.device)
        return Prompt(torch.cat([text.tokens, cls.to(text.tokens.dtype)], 1), torch.cat([text.mask, always], 1))

    def decode_queries(self, slices: Slices, text: TextFeatures) -> Queries:
        """Detect: one row of ``slices`` and of ``text`` per (slice, concept) pair."""
        model, prompt = self.detector_model, self.prompt(slices.cls, text)
        encoded = fuse_prompt(model.detr_encoder, slices.tokens, slices.positions, prompt.tokens, prompt.mask)
        memory = Memory(prompt.tokens, encoded, encoded + slices.positions, (self.grid_size, self.grid_size))
        decoded = decode(model.detr_decoder, memory, prompt.mask)
        logits = model.dot_product_scoring(decoded.hidden[None], prompt.tokens, prompt.mask)[0, ..., 0]
        return Queries(decoded.presence, logits, decoded.boxes_xyxy, decoded.hidden, encoded, prompt)

    def decode_masks(self, slices: Slices, queries: Queries) -> Masks:
        """Mask head for pairs whose presence opened the gate (same rows as ``queries``)."""
        return draw_masks(
            self.detector_model.mask_decoder,
            slices.laterals,
            slices.kernels,
            queries.encoded,
            queries.hidden,
            (queries.prompt.tokens, queries.prompt.mask),
        )


def _neck(neck: Sam3VisionNeck, tokens_nld: Tensor, grid_size: int) -> Pyramid:
    # (N, D, g, g) with the channels last in memory, as the tokens lie: convolutions on CPUs are faster so.
    image = tokens_nld.unflatten(1, (grid_size, grid_size)).permute(0, 3, 1, 2)
    levels = tuple(layer(image) for layer in neck.fpn_layers[:-1])
    # The same for every slice. The encoder keeps its last answers for good: of one slice, not of a whole batch.
    places = (neck.position_encoding(torch.Size((1, *x.shape[1:])), x.device, x.dtype) for x in levels)
    positions = tuple(place.expand(len(tokens_nld), -1, -1, -1) for place in places)
    return Pyramid(levels, positions)


def _coarse_tokens(pyramid: Pyramid) -> tuple[Tensor, Tensor]:
    """The coarsest level as tokens ``(N, L, C)``, and their positions, alike."""
    tokens, positions = (level.flatten(2).transpose(1, 2) for level in (pyramid.levels[-1], pyramid.positions[-1]))
    return tokens, positions.expand(len(tokens), -1, -1)
