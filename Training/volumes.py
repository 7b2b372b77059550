"""Volumes of a manifest: raw slices and, for every pixel, which concepts cover it.

They are read once, and stay in memory or, where there is too much of them, in a folder of arrays that are opened for
the one slice that is wanted (``volume_cache.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.geometry import canonical_of, input_slice_index, pixel_mm, slices_along
from MedicalSAM3Lib.preprocess import PreprocessSpec, Ranges, body_box, square_canvas, value_ranges
from MedicalSAM3Lib.structures import Volume
from Training.collate import LabelState
from Training.coverage import Coverage
from Training.manifest import Manifest, ManifestRow


@dataclass(frozen=True)
class TrainingVolume:
    """Pictures of one volume along its slice axis, facing the reader (``geometry.slices_along``).

    They are what the canvas shows: cut to the body's box where inference cuts, and no finer than the canvas.

    Attributes:
        slices: float32 ``(N, H, W)``, or ``(N, H, W, 3)`` in colour: the stored values (HU for CT).
        coverage: ``(N, H, W)``, columns are the concepts of the list.
        states: int8 ``(N, C)`` of ``LabelState``.
        splits: One per slice, "" where the manifest says nothing.
        numbers: int64 ``(N,)``, the slice's number in the file.
        pixel_mm: Height and width of a pixel.
        ranges: Stored values that become 0 and 1 in each of the three channels.
        dataset: Where it comes from.
    """

    volume_id: str
    modality: str
    slices: np.ndarray
    coverage: Coverage
    states: np.ndarray
    splits: tuple[str, ...]
    numbers: np.ndarray
    pixel_mm: tuple[float, float]
    ranges: Ranges
    dataset: str = ""

    def of_split(self, split: str) -> np.ndarray:
        """Indices of the slices of a split."""
        return np.flatnonzero(np.array(self.splits) == split)


def load_volumes(
    manifest: Manifest, concepts: Sequence[str], spec: PreprocessSpec, cache: str = ""
) -> list[TrainingVolume]:
    """Read every volume of the manifest once.

    Args:
        concepts: Columns of coverage and states.
        spec: Of the model's input.
        cache: Folder to keep arrays in; "" holds all in memory. Ranks that share it share the work.

    Raises:
        InputError: A file cannot be read, a mask lies on another grid than its image, slices along two axes under one
            volume id, or slices that the image does not have. Rows are named by their number in the manifest.
    """
    if not cache:
        return [_volume(manifest, one, concepts, read_pictures(manifest, one, spec)) for one in manifest.volume_ids()]
    from Training.volume_cache import cached_pictures

    every = cached_pictures(manifest, spec, Path(cache))
    return [
        _volume(manifest, one, concepts, pictures) for one, pictures in zip(manifest.volume_ids(), every, strict=True)
    ]


@dataclass(frozen=True)
class Pictures:
    """What the files of a volume hold: its slices, and where each of its own ``concepts`` is on them.

    The other fields are as in ``TrainingVolume``; the columns of ``coverage`` are ``concepts``.
    """

    slices: np.ndarray
    coverage: Coverage
    concepts: tuple[str, ...]
    numbers: np.ndarray
    pixel_mm: tuple[float, float]
    ranges: Ranges


def _volume(manifest: Manifest, volume_id: str, concepts: Sequence[str], pictures: Pictures) -> TrainingVolume:
    rows = manifest.of_volume(volume_id)
    states, splits = _slice_facts(rows, pictures.numbers, concepts)
    table = np.zeros((len(pictures.coverage.table), len(concepts)), bool)
    for column, concept in enumerate(pictures.concepts):
        if concept in concepts:
            table[:, concepts.index(concept)] = pictures.coverage.table[:, column]
    return TrainingVolume(
        volume_id=volume_id,
        modality=rows[0].modality,
        slices=pictures.slices,
        coverage=Coverage(pictures.coverage.ids, table),
        states=states,
        splits=splits,
        numbers=pictures.numbers,
        pixel_mm=pictures.pixel_mm,
        ranges=pictures.ranges,
        dataset=rows[0].dataset,
    )


def read_pictures(manifest: Manifest, volume_id: str, spec: PreprocessSpec) -> Pictures:
    """Read the image and the masks of a volume; raises ``InputError``, which names a row of the manifest."""
    rows = manifest.of_volume(volume_id)
    try:
        return _read(manifest, rows, spec)
    except InputError as error:
        number = manifest.rows.index(rows[0])
        raise InputError(f"Row {number} of the manifest, data set '{rows[0].dataset}': {error}") from error


def _read(manifest: Manifest, rows: Sequence[ManifestRow], spec: PreprocessSpec) -> Pictures:
    first = rows[0]
    volume = read_volume(manifest.path(first.image))
    canonical = canonical_of(volume.ijk_to_lps)
    slices = np.ascontiguousarray(slices_along(canonical.to_canonical(volume.array), first.axis))
    numbers = input_slice_index(canonical, first.axis, len(slices))
    concepts = tuple(sorted({row.concept for row in rows if row.mask}))
    coverage = _coverage(manifest, rows, concepts, volume, slices.shape[:3])
    ranges = value_ranges(slices, first.modality, spec)
    size_mm = pixel_mm(canonical.spacing_mm(volume.spacing_mm), first.axis)
    if spec.crop == "body" and first.modality == "CT":
        top, bottom, left, right = body_box(slices, size_mm)
        slices, coverage = slices[:, top:bottom, left:right], coverage[:, top:bottom, left:right]
    slices, ids, size_mm = no_finer_than(spec.image_size, slices, coverage.ids, size_mm)
    return Pictures(slices, Coverage(ids, coverage.table), concepts, numbers, size_mm, ranges)


def no_finer_than(
    side: int, slices: np.ndarray, coverage: np.ndarray, size_mm: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Shrink pictures that a canvas of ``side`` pixels would shrink, antialiased as inference does.

    Augmentation reads single points of them, which would see noise that inference averages away.

    Args:
        slices: Stored values ``(N, H, W)``, or ``(N, H, W, 3)`` in colour.
        coverage: Numbers ``(N, H, W)``; they keep the value at each new pixel's centre.
        size_mm: Height and width of a pixel.

    Returns:
        Slices, coverage and pixel size, unchanged where the canvas would enlarge them.
    """
    old_hw = slices.shape[1:3]
    canvas_hw = square_canvas((old_hw[0], old_hw[1]), size_mm, side).inner_hw
    new_hw = (min(old_hw[0], canvas_hw[0]), min(old_hw[1], canvas_hw[1]))
    if new_hw == old_hw:
        return np.ascontiguousarray(slices), np.ascontiguousarray(coverage), size_mm
    channels_last = np.ascontiguousarray(slices, np.float32).reshape(len(slices), *old_hw, -1)
    smaller = functional.interpolate(
        torch.from_numpy(channels_last).movedim(-1, 1), size=new_hw, mode="bilinear", antialias=True
    )
    shrunk = smaller.movedim(1, -1).reshape(len(slices), *new_hw, *slices.shape[3:]).numpy()
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(new_hw, old_hw, strict=True))
    new_mm = (size_mm[0] * old_hw[0] / new_hw[0], size_mm[1] * old_hw[1] / new_hw[1])
    return shrunk, np.ascontiguousarray(coverage[:, rows][:, :, columns]), new_mm


def _coverage(
    manifest: Manifest,
    rows: Sequence[ManifestRow],
    concepts: Sequence[str],
    image: Volume,
    shape_nhw: tuple[int, ...],
) -> Coverage:
    """All masks as pictures ``(N, H, W)``; nothing covers a volume of which everything is absent."""

    def masks() -> Iterator[tuple[int, np.ndarray]]:
        for path, concept in sorted({(row.mask, row.concept) for row in rows if row.mask}):
            mask = read_volume(manifest.path(path))
            if mask.array.shape != image.shape_kji or not np.allclose(mask.ijk_to_lps, image.ijk_to_lps, atol=1e-2):
                raise InputError(
                    f"Expected the mask of '{concept}' in '{rows[0].volume_id}' on the grid of its image "
                    f"{image.shape_kji}, got another grid {mask.array.shape}; resample it."
                )
            canonical = canonical_of(mask.ijk_to_lps)
            yield concepts.index(concept), slices_along(canonical.to_canonical(mask.array > 0.5), rows[0].axis)

    return Coverage.of_masks(shape_nhw, masks(), len(concepts))


def _slice_facts(
    rows: Sequence[ManifestRow], numbers: np.ndarray, concepts: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label states ``(N, C)`` and the split of each slice, from the rows of one volume."""
    states = np.full((len(numbers), len(concepts)), int(LabelState.UNKNOWN), np.int8)
    splits = [""] * len(numbers)
    position = {int(number): n for n, number in enumerate(numbers)}
    column = {concept: bit for bit, concept in enumerate(concepts)}
    if len({row.axis for row in rows}) > 1 or any(row.slice_index not in position for row in rows):
        raise InputError(
            f"Expected slices 0 to {len(numbers) - 1} along one axis for volume '{rows[0].volume_id}', got others; "
            "give each axis a volume_id of its own and prepare the data again."
        )
    for row in rows:
        n = position[row.slice_index]
        splits[n] = row.split
        if row.concept in column:
            states[n, column[row.concept]] = LabelState[row.label_state.upper()]
    return states, tuple(splits)
