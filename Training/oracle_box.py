"""The paper's diagnosis: how much of a score is the box that was given? Ask with the box around the reference

A box is taken from the reference, so this measures no use of the model. It enters where SAM3 has boxes: in the geometry
encoder, whose tokens stand beside the text. Each concept is asked by itself, as the box belongs to it alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.model import MedicalSam3, Pyramid
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Volume
from Training.cases import Case
from Training.protocols import Answer, ask

_SIDE = 1024
"""Of the map that positions are read from; any does."""


def ask_with_box(
    model: LoadedModel, volume: Volume, case: Case, phrase: str, settings: SegmentSettings, mask: np.ndarray | None
) -> Answer:
    """Ask for one phrase on one slice with the box around the reference; without a box where that is empty.

    Args:
        model, volume, phrase, settings: As ``ask``.
        case: Of a single slice.
        mask: The reference on the volume's grid, boolean ``(K, J, I)``; None for a concept that is absent.

    Raises:
        ValueError: The case has several slices.
    """
    part = case.part_of(volume)
    if case.slices is None or case.slices[1] - case.slices[0] != 1:
        raise ValueError("expected a case of one slice: a box has no third side")
    stack = prepare(volume, model.preprocess, settings.model_copy(update={"slices": case.slices, "axis": case.axis}))
    box = None if mask is None or not mask[part].any() else box_on_canvas(stack, mask)
    if box is None:
        return ask(model, volume, case, [phrase], settings)[0]
    with boxed(model.model, box):
        # No cache: what it keeps of a slice holds for every concept, and this does not.
        return ask(model, volume, case, [phrase], settings)[0]


def box_on_canvas(stack: SliceStack, mask: np.ndarray) -> tuple[float, float, float, float]:
    """Centre x and y, width and height, 0..1 of the model's square, of a mask ``(K, J, I)`` on a stack of one slice."""
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
def boxed(net: MedicalSam3, box_cxcywh: tuple[float, float, float, float]) -> Iterator[None]:
    """While this lasts, the geometry encoder of a network sees a box (centre, width, height, 0..1) on every slice."""

    def with_box(pyramid: Pyramid) -> Tensor:
        """Box and CLS token ``(N, 2, C)``, in place of the CLS token alone."""
        image = pyramid.levels[-1]
        box = torch.tensor(box_cxcywh, dtype=image.dtype, device=image.device).expand(len(image), 1, 4)
        always = torch.ones(box.shape[:2], dtype=torch.bool, device=image.device)
        places = pyramid.positions[-1].expand(len(image), -1, -1, -1)
        encoder = net.detector_model.geometry_encoder
        return encoder(box, always, always.long(), (image,), (places,)).last_hidden_state

    net.cls = with_box  # type: ignore[method-assign]
    try:
        yield
    finally:
        del net.cls
