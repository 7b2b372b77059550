"""The images under a folder: files by their names, DICOM by its headers, as studies and series."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from MedicalSAM3Lib import dicom, files
from MedicalSAM3Lib.images import SUFFIXES as PICTURES

_VOLUMES = (*files.NIFTI_SUFFIXES, *files.ITK_SUFFIXES, *PICTURES)

NO_IMAGE = "Expected images, got a folder without any; check the path."


@dataclass(frozen=True, slots=True)
class Found:
    """An image, or a reason why there is none; ``name`` is its path below where was looked, without a suffix."""

    name: str
    files: tuple[Path, ...]
    is_series: bool = False
    problem: str = ""


@dataclass(slots=True)
class _Walk:
    """What a folder holds, sorted by kind."""

    volumes: list[Path] = field(default_factory=list)
    slices: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)


def find_in(path: Path, root: Path, skip: Path) -> tuple[list[Found], int]:
    """Find all images of a file or a folder; names are relative to ``root``, nothing under ``skip`` is looked at.

    Returns:
        The images, by name, and how many other files there are.
    """
    if not path.is_dir():
        return [Found(_name(path, root), (path,))], 0
    walk = _walk(path, skip)
    found = [Found(_name(volume, root), (volume,)) for volume in walk.volumes]
    series = dicom.sort_into_series(walk.slices)
    found += _series(series, root)
    used = {header.path for one in series for header in one.headers}
    others = [*walk.others, *(path for path in walk.slices if path not in used)]
    problem = "Expected a folder that can be opened, got one that may not; ask for permission."
    found += [Found(_relative(folder, root), (folder,), problem=problem) for folder in walk.closed]
    found += [Found(_relative(folder, root), (folder,), problem=NO_IMAGE) for folder in _empty(path, found, others)]
    return sorted(found, key=lambda one: one.name), len(others)


def _walk(path: Path, skip: Path) -> _Walk:
    walk = _Walk()

    def refused(error: OSError) -> None:
        walk.closed.append(Path(error.filename))

    for here, folders, names in os.walk(path, onerror=refused):
        hidden = {name for name in folders if name.startswith(".") or (Path(here) / name).resolve() == skip}
        folders[:] = sorted(set(folders) - hidden)
        for file in (Path(here) / name for name in sorted(names) if not name.startswith(".")):
            if file.name.lower().endswith(_VOLUMES):
                walk.volumes.append(file)
            else:
                (walk.slices if dicom.is_dicom(file) else walk.others).append(file)
    return walk


def _empty(top: Path, found: list[Found], others: list[Path]) -> list[Path]:
    """Folders with files of which none, there or below, is an image; the top one also without any."""
    with_images = {parent for one in found for file in one.files for parent in (file, *file.parents)}
    folders = sorted({file.parent for file in others} - with_images)
    return folders or ([] if found else [top])


def _series(series: tuple[dicom.Series, ...], root: Path) -> list[Found]:
    """Series by folder; the study and the number are in the name only where the folder holds several."""
    places: dict[Path, list[dicom.Series]] = defaultdict(list)
    for one in series:
        places[Path(os.path.commonpath([header.path.parent for header in one.headers]))].append(one)
    found = []
    for folder, there in places.items():
        studies = {one.headers[0].study_uid for one in there}
        seen: Counter[str] = Counter()
        for one in there:
            name = _relative(folder, root)
            if len(studies) > 1:
                name += f"/study-{hashlib.sha256(one.headers[0].study_uid.encode()).hexdigest()[:6]}"
            if len(there) > 1:
                name += f"/series-{one.info.number}"
            seen[name] += 1
            name += f"-{seen[name]}" if seen[name] > 1 else ""
            found.append(Found(name, tuple(sorted(header.path for header in one.headers)), is_series=True))
    return found


def _name(file: Path, root: Path) -> str:
    return without_suffix(_relative(file, root))


def without_suffix(name: str) -> str:
    """The name of an image file without what says its format: ``a/b.nii.gz`` is ``a/b``."""
    for suffix in (".nii.gz", *_VOLUMES, ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _relative(path: Path, root: Path) -> str:
    """Below the root; the root itself has its own name."""
    try:
        relative = path.relative_to(root)
    except ValueError:
        return path.name
    return relative.as_posix() if relative.parts else path.resolve().name
