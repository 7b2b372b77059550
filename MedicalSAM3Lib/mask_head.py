"""The mask head, with what the concepts of a slice share computed once.

``transformers``' pixel decoder upsamples what is coarse, adds a finer level of the pyramid and convolves the sum. A
convolution of a sum is the sum of the convolutions: that of the finer level is the slice's, whatever is asked of it.
That of the upsampled map, where each pixel stands four times, is a transposed convolution of the map as it was, with
four products a pixel instead of nine. And a mask is made only of the queries that somebody asks for. Numbers are those
of ``Sam3MaskDecoder`` but for rounding; its parameters are used as they are.

Shapes: N slices, B (slice, concept) pairs, Q queries, C width, L = g * g tokens, s = 4 g side of the masks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.sam3.modeling_sam3 import Sam3MaskDecoder


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of B pairs; those of single queries are drawn when they are asked for.

    Attributes:
        semantic: Logits ``(B, s, s)`` of the concept's map.
        pixels: Embedding of each pixel ``(B, C, s, s)``.
        queries, offset: Embedding ``(B, Q, C)`` and constant ``(B, Q)`` of each query, in the precision of the weights:
            its mask is the product with the pixels plus the constant.
    """

    semantic: Tensor
    pixels: Tensor
    queries: Tensor
    offset: Tensor

    def instances(self, pair: int, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Mask logits ``(k, s, s)`` of some queries of a pair."""
        pixels = self.pixels[pair].permute(1, 2, 0)  # as they lie in memory
        drawn = (pixels @ self.queries[pair, chosen].to(pixels.dtype).T).permute(2, 0, 1)
        return drawn.to(self.offset.dtype) + self.offset[pair, chosen, None, None]


def lateral_maps(head: Sam3MaskDecoder, levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Convolve the finer levels of a pyramid (finest first) for all concepts: coarse to fine, ``(N, C, h, w)`` each."""
    finer = reversed(levels[:-1])
    return tuple(
        functional.conv2d(level, conv.weight, conv.bias, padding=1)
        for level, conv in zip(finer, head.pixel_decoder.conv_layers, strict=False)
    )


def upsampling_kernels(head: Sam3MaskDecoder, stages: int) -> tuple[Tensor, ...]:
    """Of each stage the kernel ``(C, C, 4, 4)`` of a transposed convolution of stride 2 that does what upsampling to
    the nearest neighbour and the stage's convolution do."""
    return tuple(_upsampling_kernel(conv.weight) for conv in head.pixel_decoder.conv_layers[:stages])


def draw_masks(
    head: Sam3MaskDecoder,
    laterals: Iterable[Tensor],
    kernels: tuple[Tensor, ...],
    encoded: Tensor,
    hidden: Tensor,
    prompt: tuple[Tensor, Tensor],
) -> Masks:
    """Run the mask head on B pairs.

    Args:
        head: Of the detector.
        laterals: As ``lateral_maps`` makes them, a row for each pair.
        kernels: As ``upsampling_kernels`` makes them.
        encoded: Image tokens fused with the prompt ``(B, L, C)``.
        hidden: Query states ``(B, Q, C)``.
        prompt: Tokens ``(B, T, C)`` and their mask ``(B, T)``.
    """
    pixels = _read_prompt(head, encoded, *prompt)
    side = int(pixels.shape[1] ** 0.5)
    # (B, C, g, g) with the channels last in memory, as the tokens lie: convolutions on CPUs are four times faster so.
    pixels = pixels.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    for lateral, kernel, norm in zip(laterals, kernels, head.pixel_decoder.norms, strict=False):
        pixels = functional.conv_transpose2d(pixels, kernel, stride=2, padding=1).add_(lateral)
        pixels = norm(pixels).relu_()
    project = head.instance_projection
    queries = head.mask_embedder(hidden).to(project.weight.dtype)
    semantic = head.semantic_projection(pixels)[:, 0]
    with torch.autocast(hidden.device.type, enabled=False):
        return Masks(semantic, pixels, queries @ project.weight[:, :, 0, 0], queries @ project.bias)


def _read_prompt(head: Sam3MaskDecoder, encoded: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    asking = head.prompt_cross_attn_norm(encoded)
    seen = create_bidirectional_mask(
        config=head.config, inputs_embeds=asking, encoder_hidden_states=tokens, attention_mask=mask
    )
    return encoded + head.prompt_cross_attn(query=asking, key=tokens, value=tokens, attention_mask=seen)[0]


def _upsampling_kernel(weight: Tensor) -> Tensor:
    """From ``(out, in, 3, 3)`` to ``(in, out, 4, 4)``: the flipped kernel, laid over the 2 x 2 copies of a pixel."""
    flipped = weight.transpose(0, 1).flip(2, 3)
    kernel = flipped.new_zeros((*flipped.shape[:2], 4, 4))
    for row in (0, 1):
        for column in (0, 1):
            kernel[:, :, row : row + 3, column : column + 3] += flipped
    return kernel.contiguous(memory_format=torch.channels_last)
