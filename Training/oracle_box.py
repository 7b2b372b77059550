"""The paper's diagnosis: how much of a score is the box that was given? Ask with the box around the reference

A box is taken from the reference, so this measures no use of the model. It enters where SAM3 has boxes: in the geometry
encoder, whose tokens stand beside the text. Each concept is asked by itself, as the box belongs to it alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.model import MedicalSam3, Pyramid
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Volume
from Training.cases import Case
from Training.protocols import Answer, ask

Box = tuple[float, float, float, float]
"""Centre x and y, width and height, 0..1 of the model's square."""

_SIDE = 1024
"""Of the map that positions are read from; any does."""


def ask_with_box(
    model: LoadedModel,
    volume: Volume,
    case: Case,
    phrase: str,
    settings: SegmentSettings,
    mask: np.ndarray | None,
    cache: FeatureCache | None = None,
) -> Answer:
    """Ask for one phrase on one slice with the box around the reference; without a box where that is empty.

    Args:
        model, volume, phrase, settings: As ``ask``.
        case: Of a single slice.
        mask: The reference on the volume's grid, boolean ``(K, J, I)``; None for a concept that is absent.
        cache: For questions without a box. What it keeps of a slice holds for every concept, and a box does not.

    Raises:
        ValueError: The case has several slices.
    """
    part = case.part_of(volume)
    if case.slices is None or case.slices[1] - case.slices[0] != 1:
        raise ValueError("expected a case of one slice: a box has no third side")
    stack = prepare(volume, model.preprocess, settings.model_copy(update={"slices": case.slices, "axis": case.axis}))
    box = None if mask is None or not mask[part].any() else box_on_canvas(stack, mask)
    if box is None:
        return ask(model, volume, case, [phrase], settings, cache)[0]
    with boxed(model.model, box):
        return ask(model, volume, case, [phrase], settings)[0]


def box_on_canvas(stack: SliceStack, mask: np.ndarray) -> Box:
    """The box around a mask ``(K, J, I)`` on a stack of one slice."""
    centres = (torch.arange(_SIDE, dtype=torch.float32) + 0.5) / _SIDE
    maps = torch.stack([centres.expand(_SIDE, _SIDE), centres[:, None].expand(_SIDE, _SIDE)])
    inside = stack.from_input(mask)[0]
    edges = []
    for positions, axis in zip(stack.restore(maps), (1, 0), strict=True):
        shown = positions[inside]
        pixel = float(np.abs(np.diff(positions, axis=axis)).max(initial=0.0))
        edges.append((max(float(shown.min()) - pixel / 2, 0.0), min(float(shown.max()) + pixel / 2, 1.0)))
    (left, right), (top, bottom) = edges
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


@contextmanager
def boxed(net: MedicalSam3, box_cxcywh: Box) -> Iterator[None]:
    """While this lasts, the geometry encoder of a network sees a box (centre, width, height, 0..1) on every slice."""
    plain = net.cls

    def with_box(pyramid: Pyramid, boxes: Tensor | None = None) -> Tensor:
        return plain(pyramid, embed_box(net, pyramid, box_cxcywh))

    net.cls = with_box  # type: ignore[method-assign]
    try:
        yield
    finally:
        del net.cls  # the method of the class is back


def embed_box(net: MedicalSam3, pyramid: Pyramid, box_cxcywh: Box) -> Tensor:
    """A wanted box as SAM3 encodes it: its numbers, what is in it, and where it is, ``(N, 1, C)``.

    As ``transformers`` does, which needs torchvision for the second.
    """
    encoder, image = net.detector_model.geometry_encoder, pyramid.levels[-1]
    box = torch.tensor([box_cxcywh], dtype=image.dtype, device=image.device)
    shown = encoder.vision_layer_norm(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    inside = encoder.boxes_pool_project(pool_box(shown, box_cxcywh, encoder.roi_size)).flatten(1)
    where = encoder.boxes_pos_enc_project(encoder._encode_box_coordinates(*box.unbind(1)))
    return (encoder.boxes_direct_project(box) + inside + where + encoder.label_embed.weight[1])[:, None]


def pool_box(maps: Tensor, box_cxcywh: Box, side: int) -> Tensor:
    """Means of maps ``(N, C, H, W)`` over ``side`` times ``side`` parts of a box, ``(N, C, side, side)``.

    As RoIAlign (He et al., 2017) in its first form, which SAM3 was trained with: pixel n lies at n, not n + 0.5; each
    part is the mean of a grid of samples at most a pixel apart; a box is taken to be one pixel at least.
    """
    lines, counts = [], []
    for centre, extent, length in zip(box_cxcywh[:2], box_cxcywh[2:], (maps.shape[3], maps.shape[2]), strict=True):
        pixels = max(extent * length, 1.0)
        count = side * math.ceil(pixels / side)
        at = (centre - extent / 2) * length + (torch.arange(count, dtype=torch.float64) + 0.5) * pixels / count
        lines.append(at.clamp(0, length - 1) * 2 / max(length - 1, 1) - 1)
        counts.append(count // side)
    rows, columns = torch.meshgrid(lines[1], lines[0], indexing="ij")
    grid = torch.stack([columns, rows], -1).to(maps).expand(len(maps), -1, -1, -1)
    samples = functional.grid_sample(maps, grid, mode="bilinear", align_corners=True)
    return functional.avg_pool2d(samples, (counts[1], counts[0]))
