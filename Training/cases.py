"""What an evaluation asks about: whole volumes where all of them is held out, else runs of held-out slices"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.geometry import canonical_of, input_axis
from MedicalSAM3Lib.structures import Volume
from Training.manifest import Manifest, ManifestRow

SIDES = ("left_", "right_")

AXES: tuple[Literal["0", "1", "2"], ...] = ("0", "1", "2")
"""The axis of a manifest's row as a setting."""


@dataclass(frozen=True)
class Case:
    """Slices of one volume that are asked about together.

    Attributes:
        rows: Of the manifest, all of one volume and one axis.
        slices: Half-open range in the input's own numbering; None for the whole volume.
        name: Unique in the manifest.
    """

    rows: tuple[ManifestRow, ...]
    slices: tuple[int, int] | None

    @property
    def name(self) -> str:
        part = "whole" if self.slices is None else f"{self.slices[0]}-{self.slices[1]}"
        return f"{self.rows[0].volume_id}/{self.rows[0].axis}/{part}"

    @property
    def axis(self) -> Literal["0", "1", "2"]:
        """Across which the slices lie, as a setting."""
        return AXES[self.rows[0].axis]

    def concepts(self, state: str) -> list[str]:
        """Concepts that are known on all slices of the case, sorted: "present" on some of them, or "absent" on all."""
        unknown = {row.concept for row in self.rows if row.label_state == "unknown"}
        present = {row.concept for row in self.rows if row.label_state == "present"}
        chosen = present if state == "present" else {row.concept for row in self.rows} - present
        return sorted(chosen - unknown)

    def part_of(self, volume: Volume) -> tuple[slice, ...]:
        """The slices as an index into an array ``(K, J, I)`` of the input."""
        return part_of(volume, self.slices, int(self.axis))


def held_out_split(manifest: Manifest) -> Literal["test", "val"]:
    """ "test", where slices were kept for it, else "val"."""
    return "test" if any(row.split == "test" for row in manifest.rows) else "val"


def cases_of(manifest: Manifest, split: str, *, slice_by_slice: bool) -> list[Case]:
    """The cases of a split, in the order of the manifest.

    Args:
        manifest: Rows of other splits are left alone.
        split: "test", for instance.
        slice_by_slice: Each slice is a case of its own, as the paper scores pictures.

    Raises:
        InputError: The split has no rows.
    """
    cases = []
    for volume_id in manifest.volume_ids():
        every = manifest.of_volume(volume_id)
        rows = [row for row in every if row.split == split]
        for axis in sorted({row.axis for row in rows}):
            along = [row for row in rows if row.axis == axis]
            if not slice_by_slice and len(along) == len(every):
                cases.append(Case(tuple(along), None))
                continue
            numbers = sorted({row.slice_index for row in along})
            parts = [(number, number + 1) for number in numbers] if slice_by_slice else runs_of(numbers)
            cases += [Case(tuple(r for r in along if start <= r.slice_index < stop), (start, stop))
                      for start, stop in parts]  # fmt: skip
    if not cases:
        there = ", ".join(sorted({f"'{row.split}'" for row in manifest.rows}))
        raise InputError(f"Expected rows of the split '{split}' in the manifest, got {there} alone; give --split.")
    return cases


def runs_of(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open ranges of neighbouring numbers, of sorted ones."""
    starts = [n for n in numbers if n - 1 not in numbers]
    stops = [n + 1 for n in numbers if n + 1 not in numbers]
    return list(zip(starts, stops, strict=True))


def groups_of(concepts: Sequence[str]) -> list[list[str]]:
    """Concepts that may compete for a voxel. A side and the whole organ are asked one after the other."""
    groups = (
        [c for c in sorted(concepts) if not c.startswith(SIDES)],
        [c for c in sorted(concepts) if c.startswith(SIDES)],
    )
    return [group for group in groups if group]


def part_of(volume: Volume, slices: tuple[int, int] | None, axis: int) -> tuple[slice, ...]:
    """A range of slices across a patient axis as an index into an array ``(K, J, I)`` of the input."""
    part = [slice(None)] * 3
    if slices:
        part[input_axis(canonical_of(volume.ijk_to_lps), axis)] = slice(*slices)
    return tuple(part)


def read_case(manifest: Manifest, rows: Sequence[ManifestRow]) -> tuple[Volume, dict[str, np.ndarray]]:
    """The image of some rows and, by concept, the numbers of its objects: int32 ``(K, J, I)``, 0 outside.

    The image is of the manifest's modality, as in training: a NIfTI file does not say that it is MR, and presence is
    calibrated for each modality.

    Raises:
        InputError: A file is gone or damaged, or a mask lies on another grid than the image.
    """
    volume = read_volume(manifest.path(rows[0].image))
    volume = replace(volume, modality=rows[0].modality or volume.modality)
    masks = {}
    for concept, path in {row.concept: row.mask for row in rows if row.mask}.items():
        labels = read_volume(manifest.path(path)).array
        if labels.shape != volume.shape_kji:
            sizes = f"{volume.shape_kji}, got {labels.shape}"
            raise InputError(f"Expected a mask of '{concept}' on the image's grid {sizes}; prepare the data again.")
        masks[concept] = np.where(labels > 0.5, np.ceil(labels), 0).astype(np.int32)
    return volume, masks
