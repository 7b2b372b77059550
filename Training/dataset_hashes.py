"""Find pictures that are the same: byte for byte, or to the eye after scaling and compression."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.model_folder import sha256_of
from MedicalSAM3Lib.structures import Volume
from Training.adapters.case import CaseFiles, Problem

SIDE = 16
FLAT = 1.0
"""Spread (0..255) below which a picture has nothing to be recognised by."""

ALIKE = 0.9
"""Correlation of two pictures' fields from which they are one picture; it parts plain pictures whose bits agree."""


@dataclass(frozen=True, slots=True)
class Print:
    """Finger prints of one image.

    Attributes:
        sha256: Of the file; "" where a file holds several images, or an image is a folder.
        look: Brightness of 16 x 17 fields of the middle slice, hexadecimal; "" for a flat picture.
    """

    dataset: str
    path: str
    sha256: str
    look: str


def print_of(dataset: str, source: Path, files: CaseFiles, image: Volume) -> Print:
    """The finger prints of an image of a data set."""
    path = source / files.image
    single = files.part is None and path.is_file()
    return Print(dataset, files.name, sha256_of(path) if single else "", look_of(image))


def look_of(image: Volume) -> str:
    """The middle slice in 16 x 17 fields, as ``Print`` keeps it.

    Which of two neighbours is brighter survives scaling, compression and a change of brightness.
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
    return fields.astype(np.uint8).tobytes().hex()


def duplicates(prints: Iterable[Print]) -> list[tuple[str, Problem]]:
    """(data set, problem) for every image that is there twice: copies anywhere, look-alikes across data sets.

    Neighbouring frames of one film look alike, so that within a data set only copies count.
    """
    prints = list(prints)
    copies: dict[str, list[Print]] = defaultdict(list)
    for one in prints:
        if one.sha256:
            copies[one.sha256].append(one)
    found = []
    for group in copies.values():
        for one in group[1:]:
            found.append((one.dataset, Problem("duplicate", one.path, f"the same file as {_name(group[0])}")))
    for one, other in look_alikes([one for one in prints if one.look]):
        if not one.sha256 or one.sha256 != other.sha256:
            found.append((one.dataset, Problem("duplicate", one.path, f"looks like {_name(other)}")))
    return found


def look_alikes(prints: Sequence[Print]) -> list[tuple[Print, Print]]:
    """Each image that looks like an earlier one of another data set, with that one.

    The difference hash has 256 bits: whether a field is brighter than its left neighbour. At most 15 may differ, so
    that one of 16 bands of 16 bits is the same: only images that share a band are compared. Bands take their bits
    from all over the picture, as edges are black in most.
    """
    if not prints:
        return []
    fields = np.array([list(bytes.fromhex(one.look)) for one in prints], np.uint8).reshape(-1, SIDE, SIDE + 1)
    bits = (fields[:, :, 1:] > fields[:, :, :-1]).reshape(len(fields), -1)
    mixed = np.packbits(bits[:, np.random.default_rng(0).permutation(SIDE * SIDE)], axis=1)
    bands = np.ascontiguousarray(mixed).view(np.uint16)
    datasets = np.array([one.dataset for one in prints])
    found: dict[int, int] = {}
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            if len(set(datasets[group])) > 1:
                _compare(np.sort(group), bits, fields, datasets, found)
    return [(prints[one], prints[other]) for one, other in sorted(found.items())]


def _compare(
    group: np.ndarray, bits: np.ndarray, fields: np.ndarray, datasets: np.ndarray, found: dict[int, int]
) -> None:
    for place, one in enumerate(group):
        earlier = group[:place]
        near = (bits[earlier] != bits[one]).sum(axis=1) < SIDE
        near &= datasets[earlier] != datasets[one]
        for other in earlier[near]:
            if np.corrcoef(fields[one].ravel(), fields[other].ravel())[0, 1] > ALIKE:
                found.setdefault(int(one), int(other))
                break


def _name(one: Print) -> str:
    return f"{one.path} of {one.dataset}"
