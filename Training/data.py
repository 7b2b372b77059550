"""Batches from a manifest: a pure function of (seed, step, rank), so that resuming needs only the step.

``BatchSource.batch(step)`` asks a few phrases of a few augmented slices for training, or all known concepts of
untouched slices, in order, for validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.preprocess import PreprocessSpec, normalise
from Training.clips import draw_given, sample_clip
from Training.collate import Batch, LabelState, Sample, collate
from Training.coverage import Coverage
from Training.manifest import read_manifest
from Training.phrases import PhraseBank, draw_nonsense
from Training.pieces import no_pieces, pieces_of
from Training.synthesis import change_contrast, paint_from_labels
from Training.transforms import (
    NO_AUGMENTATION,
    AugmentConfig,
    canvas_grid,
    degrade,
    sample_coverage,
    sample_image,
    to_channels,
)
from Training.volumes import TrainingVolume, load_volumes

if TYPE_CHECKING:
    from Training.config import DataConfig

BEYOND_HU = -1400.0
"""Beyond the edge of a CT slice: below every window, as the padding of inference is."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One slice on the model's canvas: ``image`` (3, S, S) normalised, what ``cover``s it (S, S),
    ``states`` (C,) of the concepts."""

    image: Tensor
    cover: Coverage
    states: np.ndarray


@dataclass(frozen=True)
class PictureSource:
    """Draws pictures from the slices of one split.

    Attributes:
        volumes: All volumes of the manifest.
        concepts: Concept ids, in the order of the coverage's columns.
        spec: Size, windows and normalisation of the model's input.
        weights: How often each volume is drawn; 1 unless named.
        dataset_temperature, modality_temperature: See ``tempered``.
    """

    volumes: Sequence[TrainingVolume]
    concepts: tuple[str, ...]
    spec: PreprocessSpec
    split: str
    weights: dict[str, float] | None = None
    dataset_temperature: float = 1.0
    modality_temperature: float = 1.0

    def slices(self) -> list[tuple[TrainingVolume, int]]:
        """Every (volume, slice) of the split, in a fixed order."""
        return [(volume, int(n)) for volume in self.volumes for n in volume.of_split(self.split)]

    def draw_slice(self, rng: np.random.Generator) -> tuple[TrainingVolume, int]:
        """A volume by its weight, then one of its slices evenly."""
        volume = self._candidates[int(rng.choice(len(self._candidates), p=self._shares))]
        return volume, int(rng.choice(volume.of_split(self.split)))

    @cached_property
    def _candidates(self) -> list[TrainingVolume]:
        return [volume for volume in self.volumes if len(volume.of_split(self.split))]

    @cached_property
    def _shares(self) -> np.ndarray:
        """How often each candidate is drawn; a temperature makes what is rare less so."""
        weights = np.array([(self.weights or {}).get(volume.volume_id, 1.0) for volume in self._candidates])
        datasets = [volume.dataset for volume in self._candidates]
        modalities = [volume.modality for volume in self._candidates]
        weights = tempered(tempered(weights, datasets, self.dataset_temperature), modalities, self.modality_temperature)
        return weights / weights.sum()

    def picture(self, volume: TrainingVolume, n: int, config: AugmentConfig, rng: np.random.Generator) -> Picture:
        """Warp, repaint and window one slice."""
        grid = canvas_grid(volume, self.spec.image_size, config, rng)
        outside = BEYOND_HU if volume.modality == "CT" else volume.ranges[0][0]
        values = sample_image(volume.slices[n], grid, outside)
        cover = sample_coverage(volume.coverage[n], grid)
        if volume.modality == "CT":
            if rng.random() < config.synthetic:
                values = paint_from_labels(values, cover, self.concepts, rng)
            elif rng.random() < config.contrast:
                values = change_contrast(values, cover, self.concepts, rng)
        channels = degrade(to_channels(values, volume, config, rng), config, rng)
        return Picture(normalise(channels[None], self.spec)[0], cover, volume.states[n])


def tempered(weights: np.ndarray, groups: Sequence[str], temperature: float) -> np.ndarray:
    """Weights whose sum in each group is its old sum to the power of 1 / temperature.

    At 1 nothing changes; the higher the temperature, the more alike are the groups; within them all stays as it is.
    """
    if temperature == 1.0:
        return weights
    _, group = np.unique(groups, return_inverse=True)
    sums = np.bincount(group, weights)
    return weights * (sums ** (1.0 / temperature - 1.0))[group]


class BatchSource:
    """Batches of one split of a manifest."""

    def __init__(
        self,
        pictures: PictureSource,
        bank: PhraseBank,
        config: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._pictures = pictures
        self._bank = bank
        self._config = config
        self._seed = seed
        self._rank = rank
        self._world_size = world_size
        self._in_order = pictures.split != "train"
        self._slices = pictures.slices()[rank::world_size] if self._in_order else pictures.slices()
        if not self._in_order and not self._slices:
            raise InputError("Expected slices of the split 'train' in the manifest, got none; prepare the data again.")

    @property
    def concepts(self) -> tuple[str, ...]:
        """Concept ids that the manifest knows."""
        return self._pictures.concepts

    def __len__(self) -> int:
        """Steps that show every slice of the split about once; 0 where this rank has none to validate."""
        per_step = self._config.batch_slices * (1 if self._in_order else self._world_size)
        return -(-len(self._slices) // per_step)

    def modalities(self, step: int) -> list[str]:
        """Modality of each slice of a batch, of a split that is shown in order."""
        first = step * self._config.batch_slices
        return [volume.modality for volume, _ in self._slices[first : first + self._config.batch_slices]]

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same every time it is asked for."""
        if self._in_order:
            first = step * self._config.batch_slices
            chosen = self._slices[first : first + self._config.batch_slices]
            return collate([self._whole_sample(volume, n) for volume, n in chosen])
        samples = [self._drawn_sample(rng) for rng in self._generators(step, 0, self._config.batch_slices)]
        clips = self._config.clips
        # Drawn once for all ranks: rows of a batch are told about the same slices.
        given_at = draw_given(clips, np.random.default_rng([self._seed, step, 0, 2]))
        made = [
            sample_clip(self._pictures, self._bank, self._config, given_at, rng)
            for rng in self._generators(step, 1, clips.per_step)
        ]
        for of_clip, _ in made:
            samples += of_clip
        return collate(samples, [clip for _, clip in made])

    def _generators(self, step: int, kind: int, count: int) -> Iterator[np.random.Generator]:
        """Numbered over all ranks: two ranks with a batch of b draw what one rank with 2b draws."""
        for number in range(self._rank * count, (self._rank + 1) * count):
            # Single slices are kind 0 and keep the numbers they had before there were clips.
            yield np.random.default_rng([self._seed, step, number] + [kind] * (kind > 0))

    def prefetched(self, first_step: int, last_step: int, workers: int = 2) -> Iterator[Batch]:
        """Batches of ``first_step`` up to, not including, ``last_step``, made ahead in threads."""
        with ThreadPoolExecutor(workers) as pool:
            waiting = [
                pool.submit(self.batch, step) for step in range(first_step, min(first_step + workers, last_step))
            ]
            for step in range(first_step, last_step):
                ready = waiting.pop(0).result()
                if step + workers < last_step:
                    waiting.append(pool.submit(self.batch, step + workers))
                yield ready

    def _drawn_sample(self, rng: np.random.Generator) -> Sample:
        volume, n = self._pictures.draw_slice(rng)
        picture = self._pictures.picture(volume, n, self._config.augment, rng)
        concepts = self.concepts
        present = [c for c in range(len(concepts)) if picture.states[c] == LabelState.PRESENT]
        absent = [c for c in range(len(concepts)) if picture.states[c] == LabelState.ABSENT]
        phrases, states, masks = [], [], []
        for number in range(self._config.phrases_per_slice):
            negative = rng.random() < self._config.negatives and number > 0
            if not negative and not present and number > 0:
                # All that it shows has been asked for: more of what it does not show would exceed the set rate.
                break
            pool = absent if negative else present
            if not pool or (negative and rng.random() < self._config.nonsense):
                phrases.append(draw_nonsense(rng, concepts, elsewhere=self._config.elsewhere))
                states.append(LabelState.ABSENT)
                masks.append(no_pieces(picture.cover.shape))
                continue
            weights = self._weights(pool, None if negative else picture.cover)
            chosen = pool.pop(int(rng.choice(len(pool), p=weights)))
            objects = no_pieces(picture.cover.shape) if negative else self._objects(picture.cover, chosen)
            phrases.append(self._bank.draw(concepts[chosen], rng))
            masks.append(objects)
            # A structure that the canvas cut off or shrank to a few pixels is neither present nor absent.
            states.append(LabelState.ABSENT if negative else LabelState.PRESENT if len(objects) else LabelState.UNKNOWN)
        return Sample(picture.image, tuple(phrases), tuple(states), tuple(masks))

    def _whole_sample(self, volume: TrainingVolume, n: int) -> Sample:
        picture = self._pictures.picture(volume, n, NO_AUGMENTATION, np.random.default_rng(0))
        known = [c for c, state in enumerate(picture.states) if state != LabelState.UNKNOWN]
        return Sample(
            picture.image,
            tuple(self._bank.name(self.concepts[c]) for c in known),
            tuple(LabelState(int(picture.states[c])) for c in known),
            tuple(self._objects(picture.cover, c, smallest=1) for c in known),
        )

    def _weights(self, pool: list[int], cover: Coverage | None) -> np.ndarray:
        """Draw large structures more often, and one side of a paired organ less often than the organ.

        Args:
            pool: Concepts to choose from.
            cover: Of the picture where size counts; None where nothing of the pool is on it.
        """
        sided = [self.concepts[c].startswith(("left_", "right_")) for c in pool]
        weights = np.where(sided, self._config.sided_weight, 1.0)
        if cover is not None and self._config.size_power > 0:
            # At least a pixel: what augmentation moved off the canvas can still be drawn.
            areas = cover.areas()[pool].astype(float)
            weights *= areas.clip(1.0) ** self._config.size_power
        return weights / weights.sum()

    def _objects(self, cover: Coverage, concept: int, smallest: int | None = None) -> Tensor:
        limit = self._config.min_object_pixels if smallest is None else smallest
        return pieces_of(cover.mask(concept), limit, self._config.max_objects)


@dataclass(frozen=True)
class TrainingData:
    """The volumes of a manifest, from which every split is served."""

    volumes: tuple[TrainingVolume, ...]
    concepts: tuple[str, ...]
    config: DataConfig

    @classmethod
    def load(cls, config: DataConfig) -> TrainingData:
        """Read the manifest and all of its volumes."""
        manifest = read_manifest(Path(config.manifest))
        concepts = manifest.concepts()
        return cls(tuple(load_volumes(manifest, concepts, config.preprocess, config.cache)), concepts, config)

    def pictures(self, split: str) -> PictureSource:
        """Pictures of one split."""
        config = self.config
        temperatures = config.dataset_temperature, config.modality_temperature
        return PictureSource(
            self.volumes, self.concepts, config.preprocess, split, config.volume_weights, *temperatures
        )

    def source(self, split: str, *, seed: int, rank: int = 0, world_size: int = 1) -> BatchSource:
        """Batches of one split; ranks share its slices."""
        bank = PhraseBank(self.concepts, self.config.prompts)
        return BatchSource(self.pictures(split), bank, self.config, seed=seed, rank=rank, world_size=world_size)
