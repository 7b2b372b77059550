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

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Sam3Config, Sam3Model, Sam3TrackerVideoConfig, Sam3TrackerVideoModel
from transformers.models.sam3.modeling_sam3 import Sam3VisionNeck, box_cxcywh_to_xyxy, inverse_sigmoid

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
class Masks:
    """Mask logits: ``instances`` (B, Q, h, w) of the queries, ``semantic`` (B, h, w) of the concept."""

    instances: Tensor
    semantic: Tensor


class MedicalSam3(nn.Module):
    """SAM3's detector and, where the weights have one, its tracker, on one trunk."""

    def __init__(self, config: Sam3Config, tracker_config: Sam3TrackerVideoConfig | None = None) -> None:
        super().__init__()
        config.vision_config.backbone_config.layer_norm_eps = VIT_LAYER_NORM_EPS
        self.config = config
        self.tracker_config = tracker_config
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

    def prompt(self, pyramid: Pyramid, text: TextFeatures) -> Prompt:
        """Append the geometry encoder's CLS token, which has looked at the slice, to the text."""
        encoder = self.detector_model.geometry_encoder
        image = pyramid.levels[-1].flatten(2).transpose(1, 2)
        position = pyramid.positions[-1].flatten(2).transpose(1, 2)
        cls = encoder.cls_embed.weight[None].expand(image.shape[0], -1, -1)
        cls = encoder.prompt_layer_norm(encoder.final_proj(cls))
        for layer in encoder.layers:
            cls = layer(prompt_feats=cls, vision_feats=image, vision_pos_encoding=position, prompt_mask=None)
        cls = encoder.output_layer_norm(cls)
        always = torch.ones(cls.shape[:2], dtype=torch.bool, device=cls.device)
        return Prompt(torch.cat([text.tokens, cls.to(text.tokens.dtype)], 1), torch.cat([text.mask, always], 1))

    def decode_queries(self, pyramid: Pyramid, text: TextFeatures) -> Queries:
        """Detect: one row of ``pyramid`` and of ``text`` per (slice, concept) pair."""
        model = self.detector_model
        prompt = self.prompt(pyramid, text)
        encoded = model.detr_encoder(
            vision_features=[pyramid.levels[-1]],
            text_features=prompt.tokens,
            vision_pos_embeds=[pyramid.positions[-1]],
            text_mask=prompt.mask,
        )
        decoded = model.detr_decoder(
            vision_features=encoded.last_hidden_state,
            text_features=prompt.tokens,
            vision_pos_encoding=encoded.pos_embeds_flattened,
            text_mask=prompt.mask,
            spatial_shapes=encoded.spatial_shapes,
        )
        hidden = decoded.intermediate_hidden_states[-1]
        boxes = (inverse_sigmoid(decoded.reference_boxes[-1]) + model.detr_decoder.box_head(hidden)).sigmoid()
        logits = model.dot_product_scoring(hidden[None], prompt.tokens, prompt.mask)[0, ..., 0]
        return Queries(
            presence=decoded.presence_logits[-1][:, 0],
            logits=logits,
            boxes_xyxy=box_cxcywh_to_xyxy(boxes),
            hidden=hidden,
            encoded=encoded.last_hidden_state,
            prompt=prompt,
        )

    def decode_masks(self, pyramid: Pyramid, queries: Queries) -> Masks:
        """Mask head for pairs whose presence opened the gate (same rows as ``queries``)."""
        out = self.detector_model.mask_decoder(
            decoder_queries=queries.hidden,
            backbone_features=list(pyramid.levels),
            encoder_hidden_states=queries.encoded,
            prompt_features=queries.prompt.tokens,
            prompt_mask=queries.prompt.mask,
        )
        return Masks(out.pred_masks, out.semantic_seg[:, 0])


def _neck(neck: Sam3VisionNeck, tokens_nld: Tensor, grid_size: int) -> Pyramid:
    n, _, d = tokens_nld.shape
    image = tokens_nld.transpose(1, 2).reshape(n, d, grid_size, grid_size)
    levels = tuple(layer(image) for layer in neck.fpn_layers[:-1])
    # The same for every slice. The encoder keeps its last answers for good: of one slice, not of a whole batch.
    places = (neck.position_encoding(torch.Size((1, *x.shape[1:])), x.device, x.dtype) for x in levels)
    positions = tuple(place.expand(n, -1, -1, -1) for place in places)
    return Pyramid(levels, positions)
