"""What an adapter yields: first the files that belong together, then the pixels of one case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.structures import Volume


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A file with labels, and the label it stands for where its name says so ("" else)."""

    path: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class CaseFiles:
    """One image and the files that say what is on it; no pixel has been read yet.

    Attributes:
        case_id: Unique in the data set; a file name, so without ``/``.
        image: Relative to the source; a folder for a DICOM series.
        masks: Relative to the source; empty where somebody looked and found nothing.
        patient: As published; "" where nobody said whose image it is.
        published_split: "train", "test", ... as the publisher divided it; "" if not.
        part: Which image of a file that holds many, else None.
        details: What else the adapter needs to read it (annotations of a COCO file, run lengths).
    """

    case_id: str
    image: str
    masks: tuple[MaskFile, ...] = ()
    patient: str = ""
    published_split: str = ""
    part: int | None = None
    details: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it: the path of the image, and which part of it."""
        return self.image if self.part is None else f"{self.image}[{self.part}]"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a file that a person should know.

    Attributes:
        kind: "missing mask", "missing image", "size", "label", "unreadable", "duplicate", "split", ...
        path: The file, relative to the source.
        text: What was expected and what came.
    """

    kind: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Index:
    """All cases of a tree, and what did not fit together."""

    cases: tuple[CaseFiles, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One image with what is known about each concept in it.

    Attributes:
        image: As published.
        image_file: The file that ``image`` was read from, where it can be used as it is.
        masks_kji: Concept name to uint16 ``(K, J, I)`` on the image's grid: 0 outside; numbers tell
            objects apart where the data set does.
        known: Concept name to bool ``(K,)``: the slices on which somebody looked for it.
        unexpected: Labels that the dictionary does not name, as text.
    """

    image: Volume
    image_file: Path | None
    masks_kji: Mapping[str, np.ndarray]
    known: Mapping[str, np.ndarray]
    unexpected: tuple[str, ...] = field(default=())


def case_ids(paths: Sequence[tuple[str, str]]) -> list[str]:
    """File names for images: their paths joined, without suffix and without what a file name may not hold.

    The folders that a tree was unpacked into are left out, so that ids do not depend on them, unless two images
    would have the same id then.

    Args:
        paths: (path, the part of it that stands before the pattern).

    Raises:
        InputError: Two images differ in their suffix only.
    """
    ids = [_joined(path[len(root) :] if path.startswith(root) else path) for path, root in paths]
    count = Counter(one.casefold() for one in ids)
    ids = [_joined(path) if count[one.casefold()] > 1 else one for one, (path, _) in zip(ids, paths, strict=True)]
    count = Counter(one.casefold() for one in ids)
    twice = next((path for one, (path, _) in zip(ids, paths, strict=True) if count[one.casefold()] > 1), None)
    if twice is not None:
        raise InputError(f"Expected images with names of their own, got {twice} and another like it; move one.")
    return ids


def _joined(path: str) -> str:
    stem = path
    for suffix in (".nii.gz", ".seg.nrrd"):
        stem = stem.removesuffix(suffix)
    folder, _, name = stem.rpartition("/")
    name = name.rpartition(".")[0] or name if stem == path else name
    parts = [*folder.split("/"), name]
    return "_".join("".join(c if c.isalnum() or c in "-." else "_" for c in part) for part in parts if part)
