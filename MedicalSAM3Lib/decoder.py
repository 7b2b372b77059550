"""The detector's decoder, layer by layer, and the bias that draws its queries to their boxes.

Layers and parameters are ``transformers``'. The bias is the largest tensor of the decoder (17 MB a pair and layer at
full size in half precision): here it is written once, where ``transformers`` writes, turns, pads and copies it.

Shapes: B (slice, concept) pairs, R rows (the presence token, then queries), C width, L image tokens, A heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam3.modeling_sam3 import (
    Sam3DetrDecoder,
    Sam3DetrDecoderLayer,
    box_cxcywh_to_xyxy,
    inverse_sigmoid,
)


@dataclass(frozen=True, slots=True)
class Memory:
    """What the queries look at: prompt tokens, and image tokens with their positions added for the keys."""

    prompt: Tensor
    image: Tensor
    image_keys: Tensor
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the last layer says: ``presence`` logits (B,), ``boxes_xyxy`` (B, Q, 4) in 0..1, and the normalised states
    of the queries ``hidden`` (B, Q, C)."""

    presence: Tensor
    boxes_xyxy: Tensor
    hidden: Tensor


def decode(decoder: Sam3DetrDecoder, memory: Memory, prompt_mask: Tensor) -> Decoded:
    """Run all layers for all queries.

    Args:
        decoder: Of the detector.
        memory: What the queries look at, B rows.
        prompt_mask: ``(B, T)``, True at real tokens of the prompt.
    """
    hidden, boxes = first_rows(decoder, len(memory.image))
    seen = prompt_seen(decoder, hidden, memory, prompt_mask)
    for layer in decoder.layers:
        position = query_positions(decoder, boxes)
        hidden = decoder_layer(
            layer, hidden, position, hidden.shape[1], memory, seen, box_bias(decoder, boxes, memory.grid)
        )
        state = decoder.output_layer_norm(hidden[:, 1:])
        boxes = (inverse_sigmoid(boxes) + decoder.box_head(state)).sigmoid()
    presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, :1]))[:, 0, 0]
    most = decoder.clamp_presence_logit_max_val
    return Decoded(presence.clamp(-most, most), box_cxcywh_to_xyxy(boxes), state)


def first_rows(decoder: Sam3DetrDecoder, pairs: int, copies: int = 1) -> tuple[Tensor, Tensor]:
    """The presence token and the queries as they start ``(B, R, C)``, and the queries' boxes ``(B, R - 1, 4)``.

    Args:
        decoder: Of the detector.
        pairs: B.
        copies: How often the queries stand there; training has a second set.
    """
    queries = decoder.query_embed.weight.repeat(copies, 1).expand(pairs, -1, -1)
    hidden = torch.cat([decoder.presence_token.weight.expand(pairs, 1, -1), queries], 1)
    return hidden, decoder.reference_points.weight.sigmoid().repeat(copies, 1).expand(pairs, -1, -1)


def prompt_seen(decoder: Sam3DetrDecoder, hidden: Tensor, memory: Memory, prompt_mask: Tensor) -> Tensor | None:
    """What of the prompt the rows may look at, as attention wants it."""
    return create_bidirectional_mask(
        config=decoder.config,
        inputs_embeds=hidden,
        attention_mask=prompt_mask,
        encoder_hidden_states=memory.prompt,
    )


def query_positions(decoder: Sam3DetrDecoder, boxes_cxcywh: Tensor) -> Tensor:
    """Position ``(B, R, C)`` of each row by its box; the presence token in row 0 has none."""
    position = decoder.ref_point_head(decoder.position_encoding.encode_boxes(boxes_cxcywh))
    return functional.pad(position, (0, 0, 1, 0))


def box_bias(decoder: Sam3DetrDecoder, boxes_cxcywh: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention bias ``(B, A, R, L)`` by where a token lies to the box of a query.

    Row 0, the presence token, has no box and looks at all of the image alike.

    Args:
        decoder: Of the detector.
        boxes_cxcywh: Boxes of the queries ``(B, R - 1, 4)``, 0..1.
        grid: Rows and columns of the image tokens.
    """
    boxes = box_cxcywh_to_xyxy(boxes_cxcywh)
    height, width = grid
    rows = _log_distances(boxes[..., 1::2], height)
    columns = _log_distances(boxes[..., 0::2], width)
    by_row, by_column = (
        # Contiguous, so that the sum is written in the order in which attention reads it.
        functional.pad(embedded.permute(0, 3, 1, 2), (0, 0, 1, 0)).contiguous()
        for embedded in (decoder.box_rpb_embed_y(rows), decoder.box_rpb_embed_x(columns))
    )
    return (by_row[..., :, None] + by_column[..., None, :]).flatten(3)


def decoder_layer(
    layer: Sam3DetrDecoderLayer,
    hidden: Tensor,
    position: Tensor,
    attended: int,
    memory: Memory,
    prompt_mask: Tensor | None,
    bias: Tensor,
) -> Tensor:
    """Run one layer ``(B, R, C)``, in which only the first ``attended`` rows take part in self-attention."""
    first, rest = hidden[:, :attended], hidden[:, attended:]
    asking = first + position[:, :attended]
    told = layer.self_attn(query=asking, key=asking, value=first, attention_mask=None)[0]
    hidden = layer.self_attn_layer_norm(torch.cat([first + layer.self_attn_dropout(told), rest], 1))
    told = layer.text_cross_attn(
        query=hidden + position, key=memory.prompt, value=memory.prompt, attention_mask=prompt_mask
    )[0]
    hidden = layer.text_cross_attn_layer_norm(hidden + layer.text_cross_attn_dropout(told))
    told = layer.vision_cross_attn(
        query=hidden + position, key=memory.image_keys, value=memory.image, attention_mask=bias
    )[0]
    hidden = layer.vision_cross_attn_layer_norm(hidden + layer.vision_cross_attn_dropout(told))
    return layer.mlp_layer_norm(hidden + layer.mlp_dropout(layer.mlp(hidden)))


def _log_distances(edges: Tensor, count: int) -> Tensor:
    """From ``count`` places along an axis to both edges ``(B, Q, 2)`` of each box, log-scaled: ``(B, Q, count, 2)``."""
    places = torch.arange(count, device=edges.device, dtype=edges.dtype) / count
    distances = 8 * (places[:, None] - edges[:, :, None])
    return distances.sign() * (distances.abs() + 1.0).log2() / math.log2(8)
