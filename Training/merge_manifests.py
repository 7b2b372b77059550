"""Put the manifests of several data sets together, so that one run trains on all of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from MedicalSAM3Lib.errors import InputError
from Training.manifest import ManifestRow, read_manifest, write_manifest

ORDER = ("unseen", "test", "val", "train")
"""Where one image is in several splits, the first of these keeps it: what measures is not taught."""


def merge(sources: Sequence[Path], target: Path, *, leave_out: bool = False) -> int:
    """Write one manifest with the rows of all, its paths relative to its own folder; returns how many rows.

    Args:
        sources: Manifests, whose images and masks stay where they are.
        target: The manifest to be.
        leave_out: An image that is in several splits stays in the one that measures; else it stops everything.

    Raises:
        InputError: A manifest cannot be read, two hold one volume, or one image is in two splits.
    """
    rows = [row for source in sources for row in _rows_of(source, target.parent)]
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row.sha256].add(row.split)
    # Slices of one volume may be divided; two files with the same content may not.
    volumes: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        volumes[row.sha256].add(row.volume_id)
    leaks = {sha256 for sha256, found in splits.items() if len(found) > 1 and len(volumes[sha256]) > 1}
    if leaks and not leave_out:
        raise InputError(
            f"Expected each image in one split, got {len(leaks)} that two data sets share and divide otherwise; "
            "--leave-out keeps them where they measure."
        )
    kept = {sha256: min(splits[sha256], key=ORDER.index) for sha256 in leaks}
    rows = [row for row in rows if row.split == kept.get(row.sha256, row.split)]
    write_manifest(target, rows)
    return len(rows)


def _rows_of(source: Path, folder: Path) -> list[ManifestRow]:
    manifest = read_manifest(source)

    def moved(name: str) -> str:
        return Path(os.path.relpath(manifest.path(name).resolve(), folder.resolve())).as_posix() if name else ""

    return [row.model_copy(update={"image": moved(row.image), "mask": moved(row.mask)}) for row in manifest.rows]
