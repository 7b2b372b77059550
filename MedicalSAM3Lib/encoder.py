"""The detector's encoder, cut where the text comes in.

A layer first lets the image tokens look at each other, then at the prompt. The first look around of the first layer
has not met the prompt yet: it belongs to the slice, and is done once for all concepts.

Shapes: B (slice, concept) pairs, L image tokens, T prompt tokens, C width.
"""

from __future__ import annotations

from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam3.modeling_sam3 import Sam3DetrEncoder, Sam3DetrEncoderLayer


def look_around(layer: Sam3DetrEncoderLayer, tokens: Tensor, positions: Tensor) -> Tensor:
    """Let image tokens ``(B, L, C)`` look at each other."""
    value = layer.layer_norm1(tokens)
    asking = value + positions
    return tokens + layer.dropout(layer.self_attn(query=asking, key=asking, value=value)[0])


def read_prompt(layer: Sam3DetrEncoderLayer, tokens: Tensor, prompt: Tensor, seen: Tensor | None) -> Tensor:
    """Let image tokens ``(B, L, C)`` look at the prompt ``(B, T, C)``."""
    told = layer.cross_attn(query=layer.layer_norm2(tokens), key=prompt, value=prompt, attention_mask=seen)[0]
    tokens = tokens + layer.dropout(told)
    return tokens + layer.dropout(layer.mlp(layer.layer_norm3(tokens)))


def fuse_prompt(encoder: Sam3DetrEncoder, looked: Tensor, positions: Tensor, prompt: Tensor, mask: Tensor) -> Tensor:
    """Run the rest of the encoder.

    Args:
        encoder: Of the detector.
        looked: Image tokens ``(B, L, C)`` that have been through ``look_around`` of the first layer.
        positions: Of the image tokens.
        prompt, mask: Tokens ``(B, T, C)`` and ``(B, T)``, True at real ones.

    Returns:
        Image tokens ``(B, L, C)`` fused with the prompt.
    """
    seen = create_bidirectional_mask(
        config=encoder.config, inputs_embeds=looked, attention_mask=mask, encoder_hidden_states=prompt
    )
    tokens = read_prompt(encoder.layers[0], looked, prompt, seen)
    for layer in encoder.layers[1:]:
        tokens = read_prompt(layer, look_around(layer, tokens, positions), prompt, seen)
    return tokens
