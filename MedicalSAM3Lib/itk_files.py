"""Read NRRD and MetaImage volumes, and the pixels of DICOM files, through SimpleITK."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.guards import pick_frame, require_memory
from MedicalSAM3Lib.quiet import quiet
from MedicalSAM3Lib.structures import Volume

if TYPE_CHECKING:
    import SimpleITK


def read_itk(path: Path, frame: int | None = None) -> Volume:
    """Read one volume of an NRRD or MetaImage file; the affine is not yet checked.

    Args:
        path: A ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file.
        frame: Which volume of a 4D image, or which value of a voxel that holds several; 0-based.

    Raises:
        InputError: Damaged, truncated, too large for memory, complex, or a frame must be picked.
    """
    if path.suffix.lower() in (".mha", ".mhd"):
        _check_dimensions(path)
    reader = open_reader(path)
    if "complex" in pixel_type(reader):
        raise InputError(f"Expected real voxels, got complex ones ({path.name}); save the magnitude image first.")
    size = [*reader.GetSize(), 1, 1, 1][: max(3, reader.GetDimension())]
    channels = reader.GetNumberOfComponents()
    is_colour = channels in (3, 4) and "8-bit unsigned" in pixel_type(reader) and frame is None
    num_times = int(np.prod(size[3:], dtype=object))
    if num_times > 1 and channels > 1:
        raise InputError(f"Expected one value per voxel, got {channels} in each of {num_times} frames; save one frame.")
    chosen = 0 if is_colour else pick_frame(frame, max(num_times, channels))
    require_memory((*size[:3], channels), max(1, pixel_bytes(reader)))
    if num_times > 1:
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
        reader.SetExtractIndex([0, 0, 0, *(int(at) for at in np.unravel_index(chosen, size[3:], order="F"))])
    array = pixels(reader, path.name)
    if channels > 1:
        array = array[..., :3] if is_colour else array[..., chosen]
    if reader.GetDimension() == 2:
        array = array[None]
    return Volume(array, _affine(reader), is_2d=reader.GetDimension() == 2, name=path.stem)


def open_reader(path: Path, image_io: str = "", name: str = "") -> SimpleITK.ImageFileReader:
    """A SimpleITK reader that has read the header and nothing more.

    Raises:
        InputError: The header cannot be read.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(image_io)
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(name or path.name) from error
    return reader


def pixels(reader: SimpleITK.ImageFileReader, name: str) -> np.ndarray:
    """Voxels of an opened file as float32, in array order, colours last.

    Raises:
        InputError: The voxels are missing, damaged or compressed in an unknown way.
    """
    import SimpleITK

    try:
        with quiet():
            image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(name) from error
    with np.errstate(over="ignore"):
        return SimpleITK.GetArrayViewFromImage(image).astype(np.float32)


def pixel_type(reader: SimpleITK.ImageFileReader) -> str:
    """Name of the stored voxel type, such as "16-bit signed integer"."""
    import SimpleITK

    return SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())


def pixel_bytes(reader: SimpleITK.ImageFileReader) -> int:
    """Bytes of one stored value."""
    return int("".join(filter(str.isdigit, pixel_type(reader).split("-bit")[0])) or 32) // 8


def _check_dimensions(path: Path) -> None:
    """Refuse a MetaImage without a usable number of dimensions, on which the MetaIO library crashes the process."""
    with path.open("rb") as file:
        stated = re.search(rb"^NDims\s*=\s*(\S+)", file.read(4096), re.MULTILINE)
    if stated is None or stated[1] not in (b"2", b"3", b"4", b"5"):
        raise _damaged(path.name)


def _affine(reader: SimpleITK.ImageFileReader) -> np.ndarray:
    """float64 ``(4, 4)`` of the first three axes; a 2D image lies in the plane z = 0."""
    rank = reader.GetDimension()
    used = min(rank, 3)
    axes = np.array(reader.GetDirection()).reshape(rank, rank) * reader.GetSpacing()
    affine = np.eye(4)
    affine[:used, :used] = axes[:used, :used]
    affine[:used, 3] = reader.GetOrigin()[:used]
    return affine


def _damaged(name: str) -> InputError:
    return InputError(
        f"Expected a complete image, got one that is truncated, damaged or compressed in an unknown way ({name}); "
        "copy or export it again."
    )
