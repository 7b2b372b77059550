"""A mask on its way to a client: cropped to its box, a bit a voxel, gzip. NumPy and the standard library only."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass

import numpy as np

Box = tuple[int, int, int, int, int, int]
"""Half-open ``(k0, k1, j0, j1, i0, i1)`` in voxels of the whole volume."""

_LEVEL = 6


@dataclass(frozen=True, slots=True)
class PackedMask:
    """A mask as it travels.

    Attributes:
        box_kji: Where it lies; None for a mask without a voxel, whose data is empty.
        voxels: How many are set.
        data: gzip of the box's bits, in array order, the first voxel in the lowest bit of the first byte.
    """

    box_kji: Box | None
    voxels: int
    data: bytes


def pack(mask_kji: np.ndarray) -> PackedMask:
    """Crop a boolean mask ``(K, J, I)`` to its box and pack it."""
    box = box_of(mask_kji)
    if box is None:
        return PackedMask(None, 0, b"")
    k0, k1, j0, j1, i0, i1 = box
    crop = mask_kji[k0:k1, j0:j1, i0:i1]
    bits = np.packbits(np.ascontiguousarray(crop, dtype=bool).ravel(), bitorder="little")
    # Without a time stamp, so that the same mask is the same bytes.
    return PackedMask(box, int(np.count_nonzero(crop)), gzip.compress(bits.tobytes(), _LEVEL, mtime=0))


def unpack(packed: PackedMask, shape_kji: tuple[int, int, int]) -> np.ndarray:
    """The boolean mask ``(K, J, I)`` on the whole volume.

    Raises:
        ValueError: The box does not fit the volume, the bits do not fit the box, or not as many voxels are set as
            announced: the mask was damaged on its way.
    """
    mask = np.zeros(shape_kji, dtype=bool)
    if packed.box_kji is None:
        return mask
    k0, k1, j0, j1, i0, i1 = packed.box_kji
    ends = zip(packed.box_kji[::2], packed.box_kji[1::2], shape_kji, strict=True)
    if not all(0 <= low < high <= size for low, high, size in ends):
        raise ValueError(f"expected a box inside {shape_kji}, got {packed.box_kji}")
    crop = (k1 - k0, j1 - j0, i1 - i0)
    count = crop[0] * crop[1] * crop[2]
    bits = np.frombuffer(_gunzip(packed.data, (count + 7) // 8), dtype=np.uint8)
    mask[k0:k1, j0:j1, i0:i1] = np.unpackbits(bits, count=count, bitorder="little").reshape(crop)
    if int(np.count_nonzero(mask)) != packed.voxels:
        raise ValueError(f"expected a mask of {packed.voxels} voxels, got {int(np.count_nonzero(mask))}")
    return mask


def box_of(mask_kji: np.ndarray) -> Box | None:
    """The smallest box that holds all of a mask; None where it has no voxel."""
    if not mask_kji.any():
        return None
    ends: list[int] = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = np.flatnonzero(mask_kji.any(axis=others))
        ends += [int(places[0]), int(places[-1]) + 1]
    return (ends[0], ends[1], ends[2], ends[3], ends[4], ends[5])


def _gunzip(data: bytes, expected: int) -> bytes:
    """Expand to exactly the expected size; no more is ever held, whatever the data claim."""
    expander = zlib.decompressobj(wbits=31)
    try:
        expanded = expander.decompress(data, expected + 1)
    except zlib.error as error:
        raise ValueError("expected a gzip stream, got a damaged one") from error
    if len(expanded) != expected or not expander.eof:
        raise ValueError(f"expected {expected} bytes of bits, got {'more' if len(expanded) > expected else 'fewer'}")
    return expanded
