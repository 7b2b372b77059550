"""A CT of boxes in a body of soft tissue, whose every voxel is known, as files and as the loader holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from MedicalSAM3Lib.preprocess import PreprocessSpec
from Training.adapters.labelled import LabelledVolume
from Training.collate import LabelState
from Training.config import DataConfig
from Training.coverage import Coverage
from Training.data import BatchSource, PictureSource
from Training.manifest import write_manifest
from Training.packages import write_volume
from Training.phrases import PhraseBank
from Training.transforms import NO_AUGMENTATION
from Training.volumes import TrainingVolume

AIR, TISSUE = -1000.0, 40.0
HU = {"liver": 300.0, "spleen": -300.0, "left_kidney": 450.0, "right_kidney": 120.0}

SPEC = PreprocessSpec(image_size=48, windows={"CT": ((-1000.0, 600.0),) * 3}, crop="body")
"""A window as wide as the values: windowing before or after resampling is then the same."""


def image_of(array_kji: np.ndarray, affine: np.ndarray | None = None) -> sitk.Image:
    """An image with an affine ``(4, 4)``; 2 mm voxels along the patient's axes unless given."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine
    image = sitk.GetImageFromArray(array_kji)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def boxes_hu(shape_kji: tuple[int, int, int] = (12, 30, 40)) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A body with organs in canonical order (k up, j back, i to the patient's left), and a mask of each organ.

    The liver lies on the right in the lower half, the spleen on the left in the upper half, kidneys in the back.
    """
    k, j, i = np.indices(shape_kji)
    depth, height, width = shape_kji
    array = np.full(shape_kji, AIR, np.float32)
    array[:, 6 : height - 6, 6 : width - 6] = TISSUE
    front, back = (j >= 8) & (j < height // 2), (j >= height // 2 + 1) & (j < height - 8)
    right, left = (i >= 8) & (i < width // 2 - 1), (i >= width // 2 + 2) & (i < width - 8)
    masks = {
        "liver": front & right & (k < depth // 2),
        "spleen": front & left & (k >= depth // 2),
        "left_kidney": back & left,
        "right_kidney": back & right,
    }
    for concept, mask in masks.items():
        array[mask] = HU[concept]
    return array, masks


def labelled(
    volume_id: str = "ct", splits: Sequence[str] | None = None, affine: np.ndarray | None = None, **changes: Any
) -> LabelledVolume:
    """The boxes as an adapter yields them; kidneys also without their sides."""
    array, masks = boxes_hu()
    masks = {**masks, "kidney": masks["left_kidney"] | masks["right_kidney"]}
    volume = LabelledVolume(
        dataset="boxes",
        volume_id=volume_id,
        patient=volume_id,
        modality="CT",
        licence="CC0-1.0",
        image=image_of(array, affine),
        masks_kji=masks,
        known_slices=(0, len(array) - 1),
        splits=tuple(splits or ["train"] * len(array)),
        absent=("urinary_bladder",),
    )
    return replace(volume, **changes)


def write_world(folder: Path, volumes: Iterable[LabelledVolume]) -> Path:
    """Write volumes and their manifest; returns the manifest's path."""
    path = folder / "manifest.parquet"
    write_manifest(path, [row for volume in volumes for row in write_volume(volume, folder)])
    return path


def in_memory(
    slices: np.ndarray, masks: dict[str, np.ndarray], *, known: dict[str, int] | None = None, **changes: Any
) -> TrainingVolume:
    """Pictures ``(N, H, W)`` and masks as a loaded volume, all of it training; 1 mm pixels, no crop.

    ``known`` gives the state of concepts that have no mask.
    """
    states = [np.where(mask.any((1, 2)), LabelState.PRESENT, LabelState.ABSENT) for mask in masks.values()]
    states += [np.full(len(slices), state) for state in (known or {}).values()]
    places = ((number, np.broadcast_to(mask, slices.shape)) for number, mask in enumerate(masks.values()))
    coverage = Coverage.of_masks(slices.shape, places, len(states))
    volume = TrainingVolume(
        volume_id="pictures",
        modality="CT",
        slices=slices.astype(np.float32),
        coverage=coverage,
        states=np.stack(states, 1).astype(np.int8),
        splits=("train",) * len(slices),
        numbers=np.arange(len(slices)),
        pixel_mm=(1.0, 1.0),
        ranges=((-1000.0, 600.0),) * 3,
    )
    return replace(volume, **changes)


def source_of(
    volume: TrainingVolume | Sequence[TrainingVolume],
    concepts: Sequence[str],
    *,
    split: str = "train",
    seed: int = 5,
    rank: int = 0,
    world_size: int = 1,
    **config: Any,
) -> BatchSource:
    """Batches of volumes in memory, without augmentation unless the configuration says so."""
    volumes = [volume] if isinstance(volume, TrainingVolume) else list(volume)
    settings = DataConfig(**{"manifest": "unused", "preprocess": SPEC, "augment": NO_AUGMENTATION, **config})
    pictures = PictureSource(volumes, tuple(concepts), settings.preprocess, split, settings.volume_weights)
    return BatchSource(pictures, PhraseBank(concepts), settings, seed=seed, rank=rank, world_size=world_size)
