"""Are the files of a manifest all there, and its images still those that it was made of?"""

from __future__ import annotations

import json
from pathlib import Path

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.model_folder import sha256_of
from Training.manifest import Manifest


def check_files(manifest: Manifest, known: Path | None = None) -> None:
    """Every image and mask is there, and every image is the one whose hash was written down.

    Args:
        manifest: Rows whose paths are looked for.
        known: File in which the hashes are kept: an image of the same size and time of change is not read again.

    Raises:
        InputError: Says how many are missing or changed, and the first row that is concerned.
        OutputError: The hashes cannot be kept.
    """
    images = {row.image: number for number, row in enumerate(manifest.rows)}
    masks = {row.mask: number for number, row in enumerate(manifest.rows) if row.mask}
    missing = [number for name, number in {**masks, **images}.items() if not manifest.path(name).is_file()]
    if missing:
        raise InputError(
            f"Expected all files of the manifest, got {len(missing)} missing (row {min(missing)}); "
            "prepare the data again."
        )
    hashes = _hashes(manifest, list(images), known)
    changed = [number for image, number in images.items() if hashes[image] != manifest.rows[number].sha256]
    if changed:
        raise InputError(
            f"Expected the images that the manifest was made of, got {len(changed)} changed (row {min(changed)}); "
            "prepare the data again."
        )


def _hashes(manifest: Manifest, images: list[str], known: Path | None) -> dict[str, str]:
    """SHA-256 of each image, from the file where its size and time of change are as they were."""
    before = _read(known)
    now = {}
    for image in images:
        path = manifest.path(image)
        state = path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        kept = before.get(image, [])
        now[image] = kept if kept[:-1] == stamp else [*stamp, sha256_of(path)]
    if known is not None and now != before:
        with replacing(known) as (partial,):
            known.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(now), encoding="utf-8")
    return {image: str(kept[-1]) for image, kept in now.items()}


def _read(known: Path | None) -> dict[str, list[object]]:
    """What was kept; nothing where there is none, or where a kill spoilt it: then images are read again."""
    try:
        return dict(json.loads(known.read_text(encoding="utf-8"))) if known is not None else {}
    except (OSError, ValueError):
        return {}
