"""Clips: consecutive slices on which the tracker learns to carry objects along.

A clip is a run of training slices of one volume, up or down, with a stride, all seen through the same warp and the
same contrast. Its first slice shows a few objects; where these go is followed in the labels. Of one more slice the
tracker may be told, too, ahead of it or behind, as the detector tells it when it starts a track again. The slices
are asked for the objects' concepts as any others are, so that the detector learns from them too.

T slices a clip, K objects in it, G slices of which the tracker is told, S side in pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from MedicalSAM3Lib.errors import InputError
from Training.collate import Clip, LabelState, Sample
from Training.coverage import Coverage, stack
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
        objects: Most objects that are followed through a clip.
        second_seed: Fraction of steps in which the tracker is told of a second slice.
        rough_seed: Fraction of seeds whose outline is grown or shrunk by a few pixels, as a detector's is wrong.
        least_pixels: Smallest object that is followed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_step: int = Field(default=0, ge=0)
    length: int = Field(default=5, ge=2)
    most_stride: int = Field(default=2, ge=1)
    objects: int = Field(default=4, ge=1)
    second_seed: float = Field(default=0.5, ge=0.0, le=1.0)
    rough_seed: float = Field(default=0.5, ge=0.0, le=1.0)
    least_pixels: int = Field(default=12, ge=1)


def draw_given(config: ClipConfig, rng: np.random.Generator) -> tuple[int, ...]:
    """The slices of which the tracker is told: the first, and now and then another one."""
    another = int(rng.integers(1, config.length))
    return (0, another) if config.length > 2 and rng.random() < config.second_seed else (0,)


def sample_clip(
    pictures: PictureSource,
    bank: PhraseBank,
    config: DataConfig,
    given_at: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[list[Sample], Clip]:
    """Draw a clip: its slices, each asked for the objects' concepts, and the objects to follow.

    Args:
        given_at: As ``draw_given`` draws it; the same for all clips that share a batch.

    Raises:
        InputError: No clip was found in many tries.
    """
    for _ in range(_TRIES):
        volume, _ = pictures.draw_slice(rng)
        numbers = draw_window(volume, pictures.split, config.clips, rng)
        concepts = rng.permutation(followable(volume, [numbers[t] for t in given_at], numbers))
        if len(concepts) == 0:
            continue
        view = int(rng.integers(2**62))
        # One view for all slices; painting from labels would give an organ another grey on each.
        augment = config.augment.model_copy(update={"synthetic": 0.0})
        shown = [pictures.picture(volume, n, augment, np.random.default_rng(view)) for n in numbers]
        cover = stack([one.cover for one in shown])
        found = follow_concepts(cover, concepts.tolist(), given_at, config.clips, rng)
        if not found:
            continue
        phrases = tuple(bank.draw(pictures.concepts[concept], rng) for concept in found)
        samples = []
        for one in shown:
            masks = tuple(pieces_of(one.cover.mask(c), config.min_object_pixels, config.max_objects) for c in found)
            states = tuple(_state(int(one.states[c]), len(mask)) for c, mask in zip(found, masks, strict=True))
            samples.append(Sample(one.image, phrases, states, masks))
        return samples, make_clip(np.stack(list(found.values())), given_at, config.clips, rng)
    raise InputError(f"Expected an object to follow in one of {_TRIES} clips, found none; check data.clips.")


def follow_concepts(
    cover_tss: Coverage,
    concepts: list[int],
    given_at: tuple[int, ...],
    config: ClipConfig,
    rng: np.random.Generator,
) -> dict[int, np.ndarray]:
    """Concept to one object of it ``(T, S, S)`` that is on every slice of ``given_at``, of the first few that have one.

    Args:
        cover_tss: Of the slices ``(T, S, S)``.
        concepts: In the order in which they are tried.
    """
    found: dict[int, np.ndarray] = {}
    for concept in concepts:
        followed = follow_object(cover_tss.mask(concept), config.least_pixels, rng)
        if followed is not None and followed[list(given_at)].any(axis=(1, 2)).all():
            found[concept] = followed
        if len(found) == config.objects:
            break
    return found


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


def followable(volume: TrainingVolume, given: list[int], numbers: list[int]) -> np.ndarray:
    """Concepts whose state is known on every slice of a window, and which are on the ``given`` ones of them."""
    known = (volume.states[numbers] != LabelState.UNKNOWN).all(0)
    return np.flatnonzero(known & (volume.states[given] == LabelState.PRESENT).all(0))


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


def make_clip(
    followed_ktss: np.ndarray, given_at: tuple[int, ...], config: ClipConfig, rng: np.random.Generator
) -> Clip:
    """The objects with what the tracker is told of them: their outline, sometimes a rough one."""
    told = [[rough_outline(one[t], config, rng) for t in given_at] for one in followed_ktss]
    return Clip(torch.from_numpy(followed_ktss), torch.from_numpy(np.array(told)), given_at)
