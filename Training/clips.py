"""Clips: consecutive slices on which the tracker learns to carry one object along.

A clip is a run of training slices of one volume, up or down, with a stride, all seen through the same warp and the
same contrast. Its first slice shows an object; where that object goes is followed in the labels. The slices
are asked for the concept as any others are, so that the detector learns from them too.

T slices a clip, S side in pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from MedicalSAM3Lib.errors import InputError
from Training.collate import Clip, LabelState, Sample
from Training.pieces import pieces_of
from Training.volumes import TrainingVolume

if TYPE_CHECKING:
    from Training.config import DataConfig
    from Training.data import PictureSource
    from Training.phrases import PhraseBank

_TRIES = 50


class ClipConfig(BaseModel):
    """Clips beside the single slices of a step.

    Attributes:
        per_step: Clips a rank sees in one step; 0 trains no tracker.
        length: Slices of a clip, the seed included.
        most_stride: Largest distance between neighbouring slices of a clip.
        rough_seed: Fraction of seeds whose outline is grown or shrunk by a few pixels, as a detector's is wrong.
        least_pixels: Smallest object that is followed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_step: int = Field(default=0, ge=0)
    length: int = Field(default=5, ge=2)
    most_stride: int = Field(default=2, ge=1)
    rough_seed: float = Field(default=0.5, ge=0.0, le=1.0)
    least_pixels: int = Field(default=12, ge=1)


def sample_clip(
    pictures: PictureSource, bank: PhraseBank, config: DataConfig, rng: np.random.Generator
) -> tuple[list[Sample], Clip]:
    """Draw a clip: its slices, each asked for the concept, and the object to follow.

    Raises:
        InputError: No clip was found in many tries.
    """
    for _ in range(_TRIES):
        volume, _ = pictures.draw_slice(rng)
        numbers = draw_window(volume, pictures.split, config.clips, rng)
        concepts = followable(volume, numbers)
        if len(concepts) == 0:
            continue
        concept, view = int(rng.choice(concepts)), int(rng.integers(2**62))
        # One view for all slices; painting from labels would give an organ another grey on each.
        augment = config.augment.model_copy(update={"synthetic": 0.0})
        shown = [pictures.picture(volume, n, augment, np.random.default_rng(view)) for n in numbers]
        clip = make_clip(np.stack([(one.bits >> concept) & 1 > 0 for one in shown]), config.clips, rng)
        if clip is None:
            continue
        phrase = bank.draw(pictures.concepts[concept], rng)
        objects = [pieces_of(one.bits, concept, config.min_object_pixels, config.max_objects) for one in shown]
        samples = [
            Sample(one.image, (phrase,), (_state(int(one.states[concept]), len(found)),), (found,))
            for one, found in zip(shown, objects, strict=True)
        ]
        return samples, clip
    raise InputError(f"Expected an object to follow in one of {_TRIES} clips, found none; check data.clips.")


def _state(state: int, objects: int) -> LabelState:
    """What augmentation moved off the canvas is neither present nor absent."""
    cut_off = state == LabelState.PRESENT and objects == 0
    return LabelState.UNKNOWN if cut_off else LabelState(state)


def draw_window(volume: TrainingVolume, split: str, config: ClipConfig, rng: np.random.Generator) -> list[int]:
    """Numbers of T slices of the split, up or down, with one stride; none in between is of another split.

    Raises:
        InputError: No run of the split is as long as a clip.
    """
    inside = np.array(volume.splits) == split
    for attempt in range(_TRIES):
        # A short run admits only neighbours: the stride shrinks as tries fail.
        most = max(1, round(config.most_stride * (1 - attempt / (_TRIES / 2))))
        step = int(rng.integers(1, most + 1)) * int(rng.choice((-1, 1)))
        first = int(rng.choice(np.flatnonzero(inside)))
        last = first + step * (config.length - 1)
        low, high = min(first, last), max(first, last)
        if low >= 0 and high < len(inside) and inside[low : high + 1].all():
            return list(range(first, last + (1 if step > 0 else -1), step))
    raise InputError(
        f"Expected runs of {config.length} slices of the split '{split}' in '{volume.volume_id}', found none; "
        "shorten data.clips.length."
    )


def followable(volume: TrainingVolume, numbers: list[int]) -> np.ndarray:
    """Concepts whose state is known on every slice of a window, and which are on its first."""
    states = volume.states[numbers]
    return np.flatnonzero((states != LabelState.UNKNOWN).all(0) & (states[0] == LabelState.PRESENT))


def follow_object(masks_thw: np.ndarray, least_pixels: int, rng: np.random.Generator) -> np.ndarray | None:
    """One object of a concept through the slices: bool ``(T, H, W)``, or None where the first slice shows none.

    A connected piece of the first slice is drawn, the larger the likelier; on each next slice it is all pieces
    that overlap it. An object that ends and returns has ended.
    """
    pieces, count = ndimage.label(masks_thw[0])
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:].astype(float)
    sizes[sizes < least_pixels] = 0.0
    if not sizes.any():
        return None
    followed = np.zeros(masks_thw.shape, bool)
    followed[0] = pieces == 1 + int(rng.choice(count, p=sizes / sizes.sum()))
    for t in range(1, len(masks_thw)):
        pieces, _ = ndimage.label(masks_thw[t])
        touched = np.unique(pieces[followed[t - 1]])
        followed[t] = np.isin(pieces, touched[touched > 0])
    return followed


def rough_outline(mask: np.ndarray, config: ClipConfig, rng: np.random.Generator) -> np.ndarray:
    """Grow or shrink a mask ``(S, S)`` by one to three pixels, now and then; never to nothing."""
    if rng.random() >= config.rough_seed:
        return mask
    change = ndimage.binary_dilation if rng.random() < 0.5 else ndimage.binary_erosion
    changed = change(mask, iterations=int(rng.integers(1, 4)))
    return changed if changed.any() else mask


def make_clip(masks_thw: np.ndarray, config: ClipConfig, rng: np.random.Generator) -> Clip | None:
    """Choose an object and its seed; None where the first slice shows none."""
    followed = follow_object(masks_thw, config.least_pixels, rng)
    if followed is None:
        return None
    return Clip(torch.from_numpy(followed), torch.from_numpy(rough_outline(followed[0], config, rng)))
