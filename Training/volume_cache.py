"""Volumes as arrays in a folder, for data that memory does not hold: a slice is read when it is wanted.

    <cache>/<key>/   slices.npy     stored values, in the smallest number format that loses nothing
                     coverage.npy   a number a pixel
                     facts.npz      the table of these numbers, numbers of the slices, pixel size and value ranges

The key is a hash of the files and of how they are read, so a change of either makes a new entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.preprocess import PreprocessSpec, Ranges
from Training import distributed
from Training.coverage import Coverage
from Training.manifest import Manifest
from Training.volumes import Pictures, read_pictures

_KIND = 1
"""Goes up when entries are written otherwise."""

_SMALLER = (np.uint8, np.int16)


@dataclass(frozen=True, slots=True)
class ArrayOnDisk:
    """An array that is opened for each look at it, so that any number of them costs neither memory nor open files."""

    path: Path
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Length of the first dimension."""
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Part of the array, in memory; raises ``InputError`` where the file is damaged."""
        try:
            return np.array(np.load(self.path, mmap_mode="r")[index])
        except (OSError, ValueError) as error:
            raise InputError(
                f"Expected the cached array {self.path.parent.name}/{self.path.name} as it was written, it is damaged "
                "or gone; delete that folder and go on with --resume auto."
            ) from error


def cached_pictures(manifest: Manifest, spec: PreprocessSpec, folder: Path) -> list[Pictures]:
    """The pictures of every volume, read and written where they are not there yet; each rank does its share.

    Raises:
        InputError: As ``read_pictures``.
        OutputError: The folder cannot be written.
    """
    rank, ranks = distributed.rank_and_size()
    entries = {volume_id: folder / key_of(manifest, volume_id, spec) for volume_id in manifest.volume_ids()}
    for volume_id in list(entries)[rank::ranks]:
        if not entries[volume_id].is_dir():
            write_entry(entries[volume_id], read_pictures(manifest, volume_id, spec))
    distributed.barrier()
    return [read_entry(entry) for entry in entries.values()]


def key_of(manifest: Manifest, volume_id: str, spec: PreprocessSpec) -> str:
    """Name of a volume's entry: 32 hexadecimal digits."""
    rows = manifest.of_volume(volume_id)
    masks = []
    for path, concept in sorted({(row.mask, row.concept) for row in rows if row.mask}):
        try:
            found = manifest.path(path).stat()
        except OSError as error:
            raise InputError(f"Expected a mask of '{concept}', its file is missing; prepare the data again.") from error
        masks.append((path, concept, found.st_size, found.st_mtime_ns))
    facts = (_KIND, rows[0].sha256, rows[0].axis, rows[0].modality, masks, spec.model_dump(mode="json"))
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def write_entry(entry: Path, pictures: Pictures) -> None:
    """Write an entry; it appears whole or not at all.

    Raises:
        OutputError: The folder cannot be written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=entry.parent))
        try:
            np.save(partial / "slices.npy", smallest(pictures.slices))
            np.save(partial / "coverage.npy", pictures.coverage.ids)
            np.savez(
                partial / "facts.npz",
                table=pictures.coverage.table,
                concepts=np.array(pictures.concepts, dtype=str),
                numbers=pictures.numbers,
                pixel_mm=np.array(pictures.pixel_mm),
                ranges=np.array(pictures.ranges),
            )
            if not entry.is_dir():
                os.replace(partial, entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        reason = (error.strerror or "the writer failed").lower()
        raise OutputError(
            f"Expected to write the cache of volumes, but {reason}; make room or set data.cache."
        ) from error


def read_entry(entry: Path) -> Pictures:
    """An entry whose arrays stay on the disk; raises ``InputError`` where it is damaged."""
    try:
        with np.load(entry / "facts.npz", allow_pickle=False) as facts:
            slices, ids = (_on_disk(entry / f"{name}.npy") for name in ("slices", "coverage"))
            return Pictures(
                slices=cast(np.ndarray, slices),
                coverage=Coverage(ids, facts["table"]),
                concepts=tuple(facts["concepts"].tolist()),
                numbers=facts["numbers"],
                pixel_mm=tuple(facts["pixel_mm"].tolist()),
                ranges=cast(Ranges, tuple(map(tuple, facts["ranges"].tolist()))),
            )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"Expected an entry of the cache of volumes, {entry.name} is damaged; delete it.") from error


def smallest(slices: np.ndarray) -> np.ndarray:
    """The same values in the smallest format that holds them exactly."""
    for kind in _SMALLER:
        limits = np.iinfo(kind)
        if slices.size and limits.min <= slices.min() and slices.max() <= limits.max:
            smaller = slices.astype(kind)
            if np.array_equal(smaller, slices):
                return smaller
    return slices


def _on_disk(path: Path) -> ArrayOnDisk:
    return ArrayOnDisk(path, np.load(path, mmap_mode="r").shape)
