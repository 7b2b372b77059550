"""Read NIfTI-1 and NIfTI-2 (``.nii``, ``.nii.gz``): header, affine and voxels of one frame.

SimpleITK reads all other volume formats. It is not used here, because ITK 5.4 fills the missing half
of a truncated file with garbage without a word, straightens a slightly sheared sform in silence,
and refuses a somewhat larger shear without saying by how much. Writing goes through SimpleITK.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.guards import pick_frame, require_memory
from MedicalSAM3Lib.structures import Volume

DATATYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
"""NIfTI datatype code to NumPy; 128 (RGB) is dealt with apart."""

RGB = 128

ByteOrder = Literal["<", ">"]
ORDERS: tuple[ByteOrder, ...] = ("<", ">")

UNIT_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Low three bits of ``xyzt_units``: metres, millimetres, micrometres."""

# Offsets and formats of the fields in use: NIfTI-1 (348 bytes), NIfTI-2 (540 bytes).
FIELDS = {
    348: {
        "dim": (40, "i2", 8), "datatype": (70, "i2", 1), "pixdim": (76, "f4", 8), "vox_offset": (108, "f4", 1),
        "slope": (112, "f4", 1), "intercept": (116, "f4", 1), "units": (123, "u1", 1), "qform": (252, "i2", 1),
        "sform": (254, "i2", 1), "quaternion": (256, "f4", 3), "q_offset": (268, "f4", 3), "s_rows": (280, "f4", 12),
    },
    540: {
        "dim": (16, "i8", 8), "datatype": (12, "i2", 1), "pixdim": (104, "f8", 8), "vox_offset": (168, "i8", 1),
        "slope": (176, "f8", 1), "intercept": (184, "f8", 1), "units": (500, "i4", 1), "qform": (344, "i4", 1),
        "sform": (348, "i4", 1), "quaternion": (352, "f8", 3), "q_offset": (376, "f8", 3), "s_rows": (400, "f8", 12),
    },
}  # fmt: skip

MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0")}


class SeekableBytes(Protocol):
    """A plain or a gzip file, opened for reading."""

    def seek(self, offset: int, /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class NiftiHeader:
    """What the header of a NIfTI file promises.

    Attributes:
        shape_ijk: Voxels along i, j, k.
        num_frames: Number of volumes: the product of all further dimensions.
        dtype: Of a stored value, with its byte order.
        num_channels: 1, or 3 for RGB.
        offset: Byte at which the voxels begin.
        slope, intercept: ``value = slope * stored + intercept``.
        ijk_to_lps: float64 ``(4, 4)``, from the sform, else the qform, else the voxel sizes.
        has_orientation: False when the voxel sizes were all there was.
        is_2d: The header says two dimensions.
    """

    shape_ijk: tuple[int, int, int]
    num_frames: int
    dtype: np.dtype
    num_channels: int
    offset: int
    slope: float
    intercept: float
    ijk_to_lps: np.ndarray
    has_orientation: bool
    is_2d: bool


def read_nifti(path: Path, frame: int | None = None) -> tuple[Volume, bool]:
    """Read one volume of a NIfTI file.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.
        frame: Which volume of a series in time, 0-based.

    Returns:
        The volume, its affine not yet checked, and whether the header held an orientation.

    Raises:
        InputError: Not NIfTI, truncated, damaged, too large for memory, or a frame must be picked.
    """
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            header = parse_header(file.read(540))
            index = pick_frame(frame, header.num_frames)
            array = _read_voxels(file, header, index)
            # Only at its end does a gzip stream tell whether what came before is intact.
            while opener is gzip.open and file.read(1 << 20):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"Expected a complete NIfTI file, got one that is truncated or damaged ({path.name}); "
            "copy or export it again."
        ) from error
    name = path.name.removesuffix(path.suffix) if opener is open else Path(path.stem).stem
    return Volume(array, header.ijk_to_lps, is_2d=header.is_2d, name=name), header.has_orientation


def parse_header(data: bytes) -> NiftiHeader:
    """Read the first 540 bytes of a NIfTI file (348 are enough for NIfTI-1).

    Raises:
        InputError: Not a single-file NIfTI, or values that cannot be used.
    """
    raw, order = _fields(data)
    dim, code = raw["dim"].astype(int), int(raw["datatype"][0])
    rank = int(dim[0])
    offset = float(raw["vox_offset"][0])
    if not 1 <= rank <= 7 or (dim[1 : rank + 1] < 1).any() or not 348 <= offset < 2**62:
        raise InputError("Expected a NIfTI header with sizes of at least 1, got a damaged one; export the image again.")
    if code != RGB and code not in DATATYPES:
        raise InputError(
            f"Expected integer, real or RGB voxels, got NIfTI datatype {code}; convert the image to float32 first."
        )
    sizes = [int(size) for size in dim[1 : rank + 1]] + [1] * (7 - rank)
    slope, intercept = float(raw["slope"][0]), float(raw["intercept"][0])
    if slope == 0 or not np.isfinite([slope, intercept]).all() or code == RGB:
        slope, intercept = 1.0, 0.0
    affine, has_orientation = _affine(raw)
    affine[:3] *= UNIT_TO_MM.get(int(raw["units"][0]) & 7, 1.0)
    affine[:2] *= -1.0  # RAS to LPS
    return NiftiHeader(
        shape_ijk=(sizes[0], sizes[1], sizes[2]),
        num_frames=int(np.prod(sizes[3:], dtype=object)),
        dtype=np.dtype("u1" if code == RGB else DATATYPES[code]).newbyteorder(order),
        num_channels=3 if code == RGB else 1,
        offset=int(offset),
        slope=slope,
        intercept=intercept,
        ijk_to_lps=affine,
        has_orientation=has_orientation,
        is_2d=rank <= 2,
    )


def _fields(data: bytes) -> tuple[dict[str, np.ndarray], ByteOrder]:
    """Values of all fields in use, and the byte order of the file."""
    for order in ORDERS:
        size = int(np.frombuffer(data[:4].ljust(4, b"\0"), f"{order}i4")[0])
        if size in FIELDS and len(data) >= size:
            start, magic = MAGIC[size]
            if data[start : start + 4] == magic:
                fields = {
                    name: np.frombuffer(data, np.dtype(kind).newbyteorder(order), count, offset)
                    for name, (offset, kind, count) in FIELDS[size].items()
                }
                return fields, order
    raise InputError(
        "Expected a NIfTI file (.nii or .nii.gz), got another format or a damaged header; export it again."
    )


def _affine(raw: dict[str, np.ndarray]) -> tuple[np.ndarray, bool]:
    """Voxel index to RAS in the header's unit, and whether the header held an orientation."""
    affine = np.eye(4)
    if raw["sform"][0] > 0:
        affine[:3] = raw["s_rows"].astype(float).reshape(3, 4)
        return affine, True
    pixdim = raw["pixdim"].astype(float)
    if raw["qform"][0] > 0:
        b, c, d = raw["quaternion"].astype(float)
        a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
        rotation = np.array([
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ])  # fmt: skip
        handedness = -1.0 if pixdim[0] < 0 else 1.0
        affine[:3, :3] = rotation * pixdim[1:4] * (1.0, 1.0, handedness)
        affine[:3, 3] = raw["q_offset"]
        return affine, True
    affine[:3, :3] = np.diag(np.where(pixdim[1:4] > 0, pixdim[1:4], 1.0))
    return affine, False


def _read_voxels(file: SeekableBytes, header: NiftiHeader, frame: int) -> np.ndarray:
    """float32 ``(K, J, I[, 3])`` of one frame; raises EOFError where the file ends too early."""
    i, j, k = header.shape_ijk
    shape = (k, j, i, 3) if header.num_channels == 3 else (k, j, i)
    require_memory(shape, header.dtype.itemsize)
    num_bytes = int(np.prod(shape)) * header.dtype.itemsize
    file.seek(header.offset + frame * num_bytes)
    data = file.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError
    stored = np.frombuffer(data, header.dtype).reshape(shape)
    # What does not fit float32 becomes infinite here, and is counted and refused with the rest.
    with np.errstate(over="ignore", invalid="ignore"):
        if header.slope == 1.0 and header.intercept == 0.0:
            return stored.astype(np.float32)
        return (stored * header.slope + header.intercept).astype(np.float32)
