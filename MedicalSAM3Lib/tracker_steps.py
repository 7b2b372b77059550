"""The four things that SAM3's tracker does on a slice, for many objects at once.

    look        trunk tokens of slices             -> SliceImage    the tracker's own neck
    take_mask   image + mask of the detector       -> Answer        a seed: the mask is the answer
    follow      image + what is remembered         -> Answer        the object's mask on the next slice
    memorise    image + Answer                     -> memory        what later slices will look at

They are the steps of ``Sam3TrackerVideoModel`` (transformers), from the same sub-modules: there they run object by
object inside a session that keeps every slice for good; here rows are (object, slice) pairs, and what is kept is
the caller's business. Nothing here is in place and nothing is under ``no_grad``: training uses the same functions.

Shapes: B rows, S side of the model's input, s = 4 g side of its masks, g side of its grid, L = g * g, C width,
M width of a memory (64), R memories and K pointers a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import get_1d_sine_pe

from MedicalSAM3Lib.memory import MemoryLimits

if TYPE_CHECKING:
    from transformers import Sam3TrackerVideoModel

    from MedicalSAM3Lib.model import MedicalSam3

GONE = -1024.0
"""Mask logit of an object that is not on the slice (``NO_OBJ_SCORE`` of SAM3)."""

SEED_LOGIT = 10.0
"""Mask and object logit of a seed, positive or negative."""


@dataclass(frozen=True, slots=True)
class SliceImage:
    """Slices as the tracker sees them: ``fine`` (B, C/8, 4g, 4g), ``middle`` (B, C/4, 2g, 2g), ``coarse`` and
    ``position`` (B, C, g, g)."""

    fine: Tensor
    middle: Tensor
    coarse: Tensor
    position: Tensor

    def take(self, index: Tensor) -> SliceImage:
        """Rows ``index``, one per (object, slice) pair."""
        return SliceImage(self.fine[index], self.middle[index], self.coarse[index], self.position[index])


@dataclass(frozen=True, slots=True)
class Candidates:
    """The masks among which an answer was chosen: ``logits`` (B, m, s, s) and predicted ``iou`` (B, m)."""

    logits: Tensor
    iou: Tensor


@dataclass(frozen=True, slots=True)
class Answer:
    """Where the objects are.

    Attributes:
        logits: Mask logits ``(B, s, s)``, ``GONE`` everywhere where the object is not on the slice.
        iou: Predicted IoU ``(B,)`` of the mask, 0..1.
        here: Logits ``(B,)`` that the object is on the slice.
        pointers: ``(B, C)``.
        given: Masks ``(B, S, S)`` from outside, taken as they are; None for the tracker's own.
        candidates: None for a seed.
    """

    logits: Tensor
    iou: Tensor
    here: Tensor
    pointers: Tensor
    given: Tensor | None = None
    candidates: Candidates | None = None


@dataclass(frozen=True, slots=True)
class Recalled:
    """What attention looks at, equally much for every row.

    Attributes:
        memories: ``(B, R, L, M)``, R >= 1.
        steps: Steps back ``(B, R)``, int64; 0 for a seed.
        pointers: ``(B, K, C)``.
        pointer_steps: Steps back ``(B, K)``, int64.
        reach: Slices that pointers may span: the smaller of SAM3's 16 and the number of slices.
    """

    memories: Tensor
    steps: Tensor
    pointers: Tensor
    pointer_steps: Tensor
    reach: int


def limits_of(model: MedicalSam3) -> MemoryLimits:
    """How much the attention of this model reaches."""
    config = _tracker(model).config
    return MemoryLimits(config.num_maskmem, config.max_cond_frame_num, config.max_object_pointers_in_encoder)


def look(model: MedicalSam3, tokens_nld: Tensor) -> SliceImage:
    """Run the tracker's neck over trunk tokens ``(N, L, D)``: once a slice, for all objects."""
    pyramid, decoder = model.tracker_pyramid(tokens_nld), _tracker(model).mask_decoder
    return SliceImage(
        decoder.conv_s0(pyramid.levels[0]),
        decoder.conv_s1(pyramid.levels[1]),
        pyramid.levels[2],
        pyramid.positions[2].expand(len(tokens_nld), -1, -1, -1),
    )


def take_mask(model: MedicalSam3, image: SliceImage, masks_bss: Tensor) -> Answer:
    """Make an answer of masks ``(B, S, S)``, 0..1, that the tracker is to start from."""
    tracker = _tracker(model)
    masks = masks_bss[:, None].to(image.coarse.dtype)
    prompt = functional.interpolate(
        tracker.mask_downsample(masks).float(), _mask_side(tracker), mode="bilinear", antialias=True
    )
    pointers = _decode(tracker, image, image.coarse, prompt.to(masks.dtype)).pointers
    logits = functional.interpolate(
        _logits_of(masks_bss)[:, None], _mask_side(tracker), mode="bilinear", antialias=True
    )[:, 0]
    here = masks_bss.flatten(1).amax(1) > 0
    return Answer(
        logits=logits,
        iou=torch.ones_like(logits[:, 0, 0]),
        here=torch.where(here, SEED_LOGIT, -SEED_LOGIT).to(logits.dtype),
        pointers=torch.where(here[:, None], pointers, tracker.no_object_pointer.to(pointers.dtype)),
        given=masks_bss,
    )


def follow(model: MedicalSam3, image: SliceImage, recalled: Recalled) -> Answer:
    """Find the objects on new slices from what is remembered of them."""
    tracker = _tracker(model)
    memory, position, pointer_tokens = _memory_tokens(tracker, recalled)
    queries = image.coarse.flatten(2).permute(2, 0, 1)
    attended = tracker.memory_attention(
        current_vision_features=queries,
        current_vision_position_embeddings=image.position.flatten(2).permute(2, 0, 1),
        memory=memory.to(queries.dtype).transpose(0, 1),
        memory_posision_embeddings=position.to(queries.dtype).transpose(0, 1),
        num_object_pointer_tokens=pointer_tokens,
    )
    # (1, B, L, C): transformers keeps an axis for points, and turns it to the front.
    conditioned = attended[0].transpose(1, 2).reshape(image.coarse.shape)
    return _decode(tracker, image, conditioned, None)


def memorise(model: MedicalSam3, image: SliceImage, answer: Answer) -> Tensor:
    """Encode slices and the masks on them into memories ``(B, L, M)``."""
    tracker = _tracker(model)
    config = tracker.config
    side = 4 * _mask_side(tracker)[0]
    if answer.given is None:
        logits = functional.interpolate(answer.logits[:, None].float(), (model.image_size,) * 2, mode="bilinear")
    else:
        logits = _logits_of(answer.given)[:, None]
    if model.image_size != side:
        logits = functional.interpolate(logits, (side, side), mode="bilinear", antialias=True)
    # The detector's mask is a decision, the tracker's own is not.
    mask = logits.sigmoid() if answer.given is None else (logits > 0).to(logits.dtype)
    mask = mask * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
    memory, _ = tracker.memory_encoder(image.coarse, mask.to(image.coarse.dtype))
    if tracker.occlusion_spatial_embedding_parameter is not None:
        gone = (answer.here <= 0).to(memory.dtype)[:, None, None, None]
        memory = memory + gone * tracker.occlusion_spatial_embedding_parameter[..., None, None].to(memory.dtype)
    return memory.flatten(2).transpose(1, 2)


def _decode(tracker: Sam3TrackerVideoModel, image: SliceImage, coarse: Tensor, prompt: Tensor | None) -> Answer:
    """SAM's mask decoder without a click; ``prompt`` are mask logits ``(B, 1, s, s)``."""
    rows, device = len(coarse), coarse.device
    nowhere = torch.zeros(rows, 1, 1, 2, dtype=coarse.dtype, device=device)
    no_point = torch.full((rows, 1, 1), -1, dtype=torch.int32, device=device)
    sparse, dense = tracker.prompt_encoder(nowhere, no_point, None, prompt)
    places = tracker.get_image_wide_positional_embeddings().to(coarse.dtype)
    logits, iou, tokens, here = tracker.mask_decoder(
        image_embeddings=coarse,
        image_positional_embeddings=places.expand(rows, -1, -1, -1),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
        high_resolution_features=[image.fine, image.middle],
    )
    logits, iou, tokens, here = logits[:, 0].float(), iou[:, 0].float(), tokens[:, 0], here[:, 0, 0].float()
    row, best = torch.arange(rows, device=device), iou.argmax(1)
    pointers = tracker.object_pointer_proj(tokens[row, best])
    is_here = here > 0
    return Answer(
        logits=torch.where(is_here[:, None, None], logits[row, best], GONE),
        iou=iou[row, best],
        here=here,
        pointers=torch.where(is_here[:, None], pointers, tracker.no_object_pointer.to(pointers.dtype)),
        candidates=Candidates(logits, iou),
    )


def _memory_tokens(tracker: Sam3TrackerVideoModel, recalled: Recalled) -> tuple[Tensor, Tensor, int]:
    """Tokens ``(B, R * L + K * C / M, M)``, their positions, and how many of them are pointers."""
    memories, pointers = recalled.memories, recalled.pointers
    rows, count, length, width = memories.shape
    side = int(length**0.5)
    places = tracker.memory_encoder.position_encoding((1, width, side, side), memories.device, torch.float32)
    places = places.flatten(2).transpose(1, 2)
    # A seed has 0 steps and takes the last row, a slice k steps back takes row k - 1.
    times = tracker.memory_temporal_positional_encoding[:, 0, 0][recalled.steps - 1]
    position = (places[:, None] + times[:, :, None]).expand(rows, count, length, width)
    tokens, positions = [memories.flatten(1, 2)], [position.flatten(1, 2)]
    parts = pointers.shape[-1] // width
    if pointers.shape[1]:
        spread = max(recalled.reach - 1, 1)
        waves = get_1d_sine_pe(recalled.pointer_steps.float() / spread, dim=pointers.shape[-1])
        if tracker.config.enable_temporal_pos_encoding_for_object_pointers:
            when = tracker.temporal_positional_encoding_projection_layer(waves.to(pointers.dtype))
        else:
            when = pointers.new_zeros(*pointers.shape[:2], width)
        tokens.append(pointers.reshape(rows, -1, width).to(memories.dtype))
        positions.append(when.repeat_interleave(parts, dim=1))
    return torch.cat(tokens, 1), torch.cat([part.float() for part in positions], 1), pointers.shape[1] * parts


def _logits_of(masks: Tensor) -> Tensor:
    """Masks 0..1 as logits, as SAM3 takes a mask for an answer."""
    return masks.float() * (2 * SEED_LOGIT) - SEED_LOGIT


def _mask_side(tracker: Sam3TrackerVideoModel) -> tuple[int, int]:
    side, _ = tracker.prompt_encoder.mask_input_size
    return int(side), int(side)


def _tracker(model: MedicalSam3) -> Sam3TrackerVideoModel:
    """The tracker of a model that has one; the caller has asked ``has_tracker``."""
    if model.tracker_model is None:
        raise ValueError("expected a model with a tracker, got a detector alone")
    return model.tracker_model
