"""Write an NRRD file to the last bit: voxels as they are, axes in as many digits as it takes to read them back.

NumPy and the standard library only: 3D Slicer's own Python uploads volumes with it. What SimpleITK writes has rounded
axes, and calls an axis of layers a vector.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import IO, Literal

import numpy as np

COMPRESSION = 4
"""Of gzip, 1 to 9: label maps get hardly smaller beyond this, only slower."""

_TYPES = {
    "|u1": "unsigned char",
    "|i1": "signed char",
    "<u2": "unsigned short",
    "<i2": "short",
    "<u4": "unsigned int",
    "<i4": "int",
    "<u8": "unsigned long long",
    "<i8": "long long",
    "<f4": "float",
    "<f8": "double",
}
"""NumPy's name of a number format to that of NRRD."""

_PIECE = 1 << 24
"""Bytes that are compressed at once: the whole would be copied."""

InnerKind = Literal["", "list", "RGB-color"]


def write_nrrd(
    file: IO[bytes],
    array: np.ndarray,
    ijk_to_lps: np.ndarray,
    *,
    inner: InnerKind = "",
    keys: Mapping[str, str] | None = None,
    compression: int = COMPRESSION,
) -> None:
    """Write a volume, compressed. Equal volumes give equal files.

    Args:
        file: Open for writing.
        array: ``(K, J, I)``; with ``inner`` ``(K, J, I, C)``. Truth values become 0 and 1, float16 becomes float32.
        ijk_to_lps: ``(4, 4)``, voxel index to mm in LPS.
        inner: What the last axis is: layers ("list") or colours; empty for one value a voxel.
        keys: Further key/value pairs of the header, one line each.
        compression: Of gzip, 1 to 9.

    Raises:
        ValueError: NRRD has no such voxels, or the array has another number of axes.
    """
    array = storable(array)
    if array.ndim != 3 + bool(inner):
        raise ValueError(f"expected an array of {3 + bool(inner)} axes, got {array.ndim}")
    fields = {**_grid(array, np.asarray(ijk_to_lps, np.float64), inner), "encoding": "gzip"}
    lines = ["NRRD0004", *(f"{name}: {value}" for name, value in fields.items())]
    lines += [f"{key}:={_escaped(value)}" for key, value in (keys or {}).items()]
    file.write(("\n".join(lines) + "\n\n").encode("utf-8"))
    # Without a time stamp, equal volumes are equal files.
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=compression, mtime=0, filename="") as compressed:
        view = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(view), _PIECE):
            compressed.write(view[start : start + _PIECE])


def storable(array: np.ndarray) -> np.ndarray:
    """The array in C order and in a number format that NRRD has; itself where it is so already.

    Raises:
        ValueError: There is none, as for complex numbers.
    """
    formats = {"b": np.uint8, "f2": np.float32}
    wanted = formats.get(array.dtype.kind) or formats.get(array.dtype.str[1:]) or array.dtype.newbyteorder("<")
    array = np.ascontiguousarray(array, dtype=wanted)
    if array.dtype.newbyteorder("<").str not in _TYPES:
        raise ValueError(f"expected whole or real numbers of 8 to 64 bits, got {array.dtype}")
    return array


def _grid(array: np.ndarray, ijk_to_lps: np.ndarray, inner: str) -> dict[str, str]:
    """The fields of NRRD that describe the array; axes in order of the file, fastest first."""
    has_inner = bool(inner)
    columns = [_vector(ijk_to_lps[:3, axis]) for axis in range(3)]
    return {
        "type": _TYPES[array.dtype.newbyteorder("<").str],
        "dimension": str(array.ndim),
        "space": "left-posterior-superior",
        "sizes": " ".join(str(size) for size in array.shape[::-1]),
        "space directions": " ".join(["none"] * has_inner + columns),
        "kinds": " ".join([inner] * has_inner + ["domain"] * 3),
        "endian": "little",
        "space origin": _vector(ijk_to_lps[:3, 3]),
    }


def _vector(values: np.ndarray) -> str:
    """In as many digits as it takes to read the very same numbers back."""
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\")
