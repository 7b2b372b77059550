"""The detector as it is trained: every decoder layer answers, and a second set of queries learns one-to-many.

The sub-modules are those of ``MedicalSam3``, unmodified, and no parameter is added. Three things differ
from its inference path:

- every layer yields scores, boxes and presence; a box keeps its gradient for one refinement and is
  detached where it steers the next layer;
- with ``one_to_many`` the queries are doubled (DAC): the second half skips self-attention but passes its
  layer norm, and shares all else;
- presence logits are not clamped: a clamp has no gradient outside, so a confident error would stay.

What the concepts of a slice have in common is computed once, as in inference (``MedicalSam3.share``), and the
gradients of all its concepts meet there; with dropout they share what was dropped of it.

Shapes: N slices, B (slice, concept) pairs, Q queries, C width, L image tokens, h w mask side. Scores, boxes and
presence are computed in the precision of the weights also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.sam3.modeling_sam3 import inverse_sigmoid

from MedicalSAM3Lib.decoder import Memory, box_bias, decoder_layer, first_rows, prompt_seen, query_positions
from MedicalSAM3Lib.encoder import fuse_prompt
from MedicalSAM3Lib.mask_head import draw_masks
from MedicalSAM3Lib.model import MedicalSam3, Prompt, Pyramid, Slices, TextFeatures


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """What one decoder layer says of one set of queries.

    Attributes:
        logits: ``(B, Q)``, without presence.
        boxes_cxcywh: ``(B, Q, 4)``, 0..1.
        presence: ``(B,)`` logits; None for the one-to-many queries, which have no say in it.
    """

    logits: Tensor
    boxes_cxcywh: Tensor
    presence: Tensor | None


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the loss reads.

    Attributes:
        layers: One per decoder layer for the one-to-one queries, the last is the detector's answer.
        many: The same for the one-to-many queries; empty when they are off.
        instances: Mask logits ``(B, Q, h, w)`` of the last layer; None when masks are off.
        many_instances: The same for the one-to-many queries, or None.
        semantic: Logits ``(B, h, w)`` of the concept's map; None when masks are off.
    """

    layers: tuple[LayerOutput, ...]
    many: tuple[LayerOutput, ...]
    instances: Tensor | None
    many_instances: Tensor | None
    semantic: Tensor | None


def forward_train(
    model: MedicalSam3,
    pyramid: Pyramid,
    text: TextFeatures,
    one_to_many: bool,
    with_masks: bool,
    pair_slice: Tensor | None = None,
) -> Outputs:
    """Run the detector on B pairs and keep what every decoder layer says.

    Args:
        model: In training mode or not: only dropout differs.
        pyramid: N rows, one per slice.
        text: B rows, one per pair.
        one_to_many: Double the queries for the one-to-many branch.
        with_masks: Run the mask head, instances and semantic map; see ``freeze_unused`` when off.
        pair_slice: The slice that each pair asks of ``(B,)``; None where each asks of its own.
    """
    rows = torch.arange(len(text.tokens), device=text.tokens.device) if pair_slice is None else pair_slice
    slices = model.share(pyramid, with_masks)
    prompt, positions = model.prompt(slices.cls[rows], text), slices.positions[rows]
    encoded = fuse_prompt(model.detector_model.detr_encoder, slices.tokens[rows], positions, prompt.tokens, prompt.mask)
    height, width = pyramid.levels[-1].shape[-2:]
    memory = Memory(prompt.tokens, image=encoded, image_keys=encoded + positions, grid=(height, width))
    layers, hidden = decode_layers(model, memory, prompt, one_to_many)
    instances, semantic = _masks(model, slices, rows, prompt, encoded, hidden) if with_masks else (None, None)
    return branches(layers, instances, semantic, model.detector_model.detr_decoder.query_embed.num_embeddings)


def branches(layers: Sequence[LayerOutput], instances: Tensor | None, semantic: Tensor | None, count: int) -> Outputs:
    """Answers of all queries parted in those of the two branches; ``count`` are one-to-one."""
    one_to_many = layers[0].logits.shape[1] > count
    return Outputs(
        layers=tuple(_queries(layer, slice(0, count)) for layer in layers),
        many=tuple(_queries(layer, slice(count, None)) for layer in layers) if one_to_many else (),
        instances=None if instances is None else instances[:, :count],
        many_instances=instances[:, count:] if one_to_many and instances is not None else None,
        semantic=semantic,
    )


def freeze_unused(model: MedicalSam3, with_masks: bool = True) -> list[str]:
    """Freeze what no loss of ``forward_train`` can reach, so that DDP waits for no gradient in vain.

    The half-resolution neck level and the last stage of the pixel decoder have no reader, the text
    encoder's own projection is CLIP's, and the box encoders wait for box prompts: until then the geometry
    encoder's one token attends to itself alone, whatever queries and keys say, and their gradient is rounding.
    The tracker is trained by other means.

    Returns:
        The names of the frozen parameters.
    """
    detector = model.detector_model
    geometry, pixels = detector.geometry_encoder, detector.mask_decoder.pixel_decoder
    unused: list[nn.Module | None] = [
        detector.vision_encoder.neck.fpn_layers[-1],
        detector.text_encoder.text_projection,
        pixels.conv_layers[-1],
        pixels.norms[-1],
        geometry.label_embed,
        geometry.boxes_direct_project,
        geometry.boxes_pool_project,
        geometry.boxes_pos_enc_project,
        geometry.vision_layer_norm,
        *(projection for layer in geometry.layers for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj)),
        model.tracker_model,
        model.tracker_neck,
    ]
    if not with_masks:
        # Only the coarsest of the three levels is read by the detector itself.
        unused += [detector.mask_decoder, detector.vision_encoder.neck.fpn_layers[:-2]]
    frozen = {id(parameter) for module in unused if module is not None for parameter in module.parameters()}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in frozen]
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return names


def decode_layers(
    model: MedicalSam3, memory: Memory, prompt: Prompt, one_to_many: bool
) -> tuple[list[LayerOutput], Tensor]:
    """All decoder layers for all queries, and the last layer's normalised states ``(B, Q or 2Q, C)``."""
    decoder = model.detector_model.detr_decoder
    hidden, reference = first_rows(decoder, len(memory.image), copies=2 if one_to_many else 1)
    attended = 1 + decoder.query_embed.num_embeddings
    # `steer` conditions the layer, `reference` is what its boxes are refined from: equal numbers, but
    # only the first is cut off from the layer before.
    steer, seen = reference, prompt_seen(decoder, hidden, memory, prompt.mask)
    layers = []
    for layer in decoder.layers:
        position, bias = query_positions(decoder, steer), box_bias(decoder, steer, memory.grid)
        hidden = decoder_layer(layer, hidden, position, attended, memory, seen, bias)
        state, output, offset = _heads(model, hidden, reference, prompt)
        layers.append(output)
        reference = (inverse_sigmoid(steer) + offset).sigmoid()
        steer = reference.detach()
    return layers, state


def _heads(model: MedicalSam3, hidden: Tensor, reference: Tensor, prompt: Prompt) -> tuple[Tensor, LayerOutput, Tensor]:
    """Normalised query states, what the layer says, and the step that its box head takes."""
    detector, decoder = model.detector_model, model.detector_model.detr_decoder
    dtype = decoder.query_embed.weight.dtype
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.to(dtype)
        state = decoder.output_layer_norm(hidden[:, 1:])
        offset = decoder.box_head(state)
        presence = decoder.presence_head(decoder.presence_layer_norm(hidden[:, :1]))[:, 0, 0]
        logits = detector.dot_product_scoring(state[None], prompt.tokens.to(dtype), prompt.mask)[0, ..., 0]
        boxes = (inverse_sigmoid(reference) + offset).sigmoid()
    return state, LayerOutput(logits, boxes, presence), offset


def _masks(
    model: MedicalSam3, slices: Slices, rows: Tensor, prompt: Prompt, encoded: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Instance logits of all queries and the semantic map."""
    # One level at a time: a copy for each pair lives no longer than its sum.
    laterals = (lateral[rows] for lateral in slices.laterals)
    asked = (prompt.tokens, prompt.mask)
    masks = draw_masks(model.detector_model.mask_decoder, laterals, slices.kernels, encoded, hidden, asked)
    instances = torch.einsum("bqc,bchw->bqhw", masks.queries.to(masks.pixels.dtype), masks.pixels)
    return instances.to(masks.offset.dtype) + masks.offset[..., None, None], masks.semantic


def _queries(layer: LayerOutput, part: slice) -> LayerOutput:
    """One branch of a layer; presence belongs to the first."""
    presence = layer.presence if part.start == 0 else None
    return LayerOutput(layer.logits[:, part], layer.boxes_cxcywh[:, part], presence)
