"""Find pictures that are the same: byte for byte, or to the eye after scaling and compression."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.model_folder import sha256_of
from MedicalSAM3Lib.structures import Volume
from Training.adapters.case import Problem

SIDE = 16
FLAT = 1.0
"""Spread (0..255) below which a picture has nothing to be recognised by."""


@dataclass(frozen=True, slots=True)
class Print:
    """Finger prints of one image.

    Attributes:
        sha256: Of the file; "" where a file holds several images, or an image is a folder.
        look: Bits of the difference hash, "" for a flat picture.
    """

    dataset: str
    path: str
    sha256: str
    look: str


def print_of(dataset: str, source: Path, path: str, image: Volume, part: int | None) -> Print:
    """The finger prints of an image of a data set."""
    single = part is None and (source / path).is_file()
    name = path if part is None else f"{path}[{part}]"
    return Print(dataset, name, sha256_of(source / path) if single else "", look_of(image))


def look_of(image: Volume) -> str:
    """Difference hash of the middle slice: whether each of 16 x 16 fields is brighter than its left neighbour.

    It survives scaling, compression and a change of brightness; 256 bits, hexadecimal.
    """
    from PIL import Image

    array = image.array[len(image.array) // 2]
    grey = array.mean(axis=-1) if array.ndim == 3 else array
    low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return ""
    scaled = Image.fromarray(((grey - low) / (high - low) * 255).astype(np.uint8))
    fields = np.asarray(scaled.resize((SIDE + 1, SIDE), Image.Resampling.BOX), np.int16)
    if fields.std() < FLAT:
        return ""
    return np.packbits(fields[:, 1:] > fields[:, :-1]).tobytes().hex()


def duplicates(prints: Iterable[Print]) -> list[tuple[str, Problem]]:
    """(data set, problem) for every image that is there twice: copies anywhere, look-alikes across data sets.

    Neighbouring frames of one film look alike, so that within a data set only copies count.
    """
    copies: dict[str, list[Print]] = defaultdict(list)
    alike: dict[str, list[Print]] = defaultdict(list)
    for one in prints:
        if one.sha256:
            copies[one.sha256].append(one)
        if one.look:
            alike[one.look].append(one)
    found = []
    for group in copies.values():
        for one in group[1:]:
            found.append((one.dataset, Problem("duplicate", one.path, f"the same file as {_name(group[0])}")))
    for group in alike.values():
        for one in group[1:]:
            if one.dataset != group[0].dataset and (not one.sha256 or one.sha256 != group[0].sha256):
                found.append((one.dataset, Problem("duplicate", one.path, f"looks like {_name(group[0])}")))
    return found


def _name(one: Print) -> str:
    return f"{one.path} of {one.dataset}"
