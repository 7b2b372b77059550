"""Read DICOM: what a folder holds, one series of it as a volume, one file as a picture.

Headers come through pydicom, pixels through SimpleITK (GDCM), which decodes RLE, JPEG, lossless JPEG,
JPEG-LS and JPEG 2000, applies each slice's own rescale slope and intercept, and shows MONOCHROME1 with
bright as high. No name, date or identifier of a patient leaves this file.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.dicom_stack import SliceHeader, affine_of, order_slices
from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.guards import pick_frame, require_memory
from MedicalSAM3Lib.structures import Volume

TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "Modality", "Rows", "Columns", "PixelSpacing",
    "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames", "SamplesPerPixel",
    "ImageOrientationPatient", "ImagePositionPatient", "TemporalPositionIdentifier", "AcquisitionNumber",
    "InstanceNumber", "StudyInstanceUID",
]  # fmt: skip

NOT_IMAGES = ("SEG", "PR", "SR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE")
"""Modalities of objects that describe images and may lie in the same folder."""

MOST_LISTED = 12
"""Series named in an error message; ``list_series`` gives all."""

OnNotice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SeriesInfo:
    """A series of a folder, without patient data.

    Attributes:
        position: Its place in the list, from 1: ask for it with ``series="#1"``.
        number: Its DICOM series number: ask for it with ``series=number``. None if it has none.
        modality: DICOM code ("CT", "MR", ...).
        num_images: Files in it.
        rows, columns: Size of each image.
        spacing_mm: Between rows, columns and slices; the last is None for a single image or without positions.
    """

    position: int
    number: int | None
    modality: str
    num_images: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float | None]

    def __str__(self) -> str:
        number = "without number" if self.number is None else f"number {self.number}"
        images = "1 image" if self.num_images == 1 else f"{self.num_images} images"
        spacing = " x ".join(f"{length:.2f}" for length in self.spacing_mm if length is not None)
        modality = self.modality or "unknown modality,"
        return f"#{self.position} {number}: {modality} {images} {self.rows} x {self.columns}, {spacing} mm"


@dataclass(frozen=True, slots=True)
class Series:
    """Headers of the images that belong together, and their description."""

    info: SeriesInfo
    headers: tuple[SliceHeader, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM mark after its preamble of 128 bytes."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def scan_folder(folder: Path) -> tuple[Series, ...]:
    """Read the headers of all DICOM images under a folder and sort them into series.

    A series whose images differ in orientation, size or spacing (a scout with its stack) counts as several.

    Raises:
        InputError: The folder is missing or holds no DICOM image.
    """
    if not folder.is_dir():
        raise InputError("Expected a folder with a DICOM series, got a path that is not a folder; check it.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = sort_into_series(path for path in files if is_dicom(path))
    if not found:
        raise InputError(
            f"Expected a folder with DICOM images, got {len(files)} files and none is one; check the path."
        )
    return found


def sort_into_series(files: Iterable[Path]) -> tuple[Series, ...]:
    """Read the headers of DICOM files and sort them into series, as ``scan_folder``; those without an image are left
    out."""
    groups: dict[tuple[Any, ...], list[SliceHeader]] = defaultdict(list)
    for path in files:
        header = _read_header(path)
        if header is not None:
            groups[header.stack_key].append(header)
    ordered = sorted(groups.values(), key=lambda group: (group[0].number or 0, -len(group), group[0].stack_key))
    return tuple(Series(_describe(place, group), tuple(group)) for place, group in enumerate(ordered, start=1))


def read_folder(folder: Path, series: int | str | None, frame: int | None, notice: OnNotice) -> Volume:
    """Read one series of a folder as a volume; its affine is not yet checked.

    Args:
        folder: Searched with all folders below it.
        series: Series number, or "#1" for the first of the list; None if there is only one.
        frame: Which one, where a series holds several images at each position.
        notice: Called with what was put right.

    Raises:
        InputError: No such series or several; slices missing, twice or unevenly spaced; damaged pixels.
    """
    return read_series(choose_series(scan_folder(folder), series), frame, notice)


def read_series(series: Series, frame: int | None, notice: OnNotice) -> Volume:
    """Read a series of ``scan_folder`` as a volume; as ``read_folder``.

    Raises:
        InputError: Slices missing, twice or unevenly spaced; damaged pixels.
    """
    headers = list(series.headers)
    unique = {header.sop_uid or str(header.path): header for header in headers}
    if len(unique) < len(headers):
        notice(f"{len(headers) - len(unique)} files are copies of others in the series and were left out.")
    headers = list(unique.values())
    if len(headers) == 1:
        return read_file(headers[0].path, frame)
    frames, uneven = order_slices(headers)
    if uneven:
        notice(uneven)
    stack = frames[pick_frame(frame, len(frames))]
    first = stack[0]
    shape = (len(stack), *first.shape, *((3,) if first.is_colour else ()))
    require_memory(shape, 4)
    array = np.empty(shape, np.float32)
    for k, header in enumerate(stack):
        array[k] = _read_pixels(header.path, 0)
    return Volume(array, affine_of(stack), modality=first.modality, name=_name(first.modality))


def read_file(path: Path, frame: int | None = None) -> Volume:
    """Read one DICOM file as a picture, with its place in the patient where it has one.

    Raises:
        InputError: Not an image, several frames and none chosen, or damaged pixels.
    """
    header = _read_header(path)
    if header is None:
        raise InputError("Expected a DICOM image, got a DICOM file without one (or a damaged header); choose another.")
    index = pick_frame(frame, header.num_frames, "frames in one file (to have them as a volume, convert it to NIfTI)")
    array = _read_pixels(path, index)
    return Volume(array[None], affine_of([header]), header.modality, is_2d=True, name=_name(header.modality))


def choose_series(found: Sequence[Series], wanted: int | str | None) -> Series:
    """Pick the series that the user asked for.

    Raises:
        InputError: Lists what is there, when nothing fits, several do, or no choice was made.
    """
    if wanted is None and len(found) == 1:
        return found[0]
    text = "" if wanted is None else str(wanted).strip()
    if text.startswith("#"):
        fitting = [series for series in found if f"#{series.info.position}" == text]
    else:
        fitting = [series for series in found if text == str(series.info.number)]
    if len(fitting) == 1:
        return fitting[0]
    listing = "; ".join(str(series.info) for series in found[:MOST_LISTED])
    if len(found) > MOST_LISTED:
        listing += f"; and {len(found) - MOST_LISTED} more"
    got = f"got {len(found)}" if wanted is None else f"got {len(fitting)} for '{text}' of {len(found)}"
    raise InputError(
        f"Expected one DICOM series, {got}; choose with series= (--series) by number (4) or place (#1). "
        f"Found {listing}."
    )


def _read_header(path: Path) -> SliceHeader | None:
    """Header of an image; None for a DICOM object that is none, or that cannot be parsed."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
            if "Rows" not in data or "Columns" not in data or data.get("Modality") in NOT_IMAGES:
                return None
            return _header_of(path, data)
        # pydicom parses values on first use; a damaged one raises whatever its converter does.
        except Exception:
            return None


def _header_of(path: Path, data: Any) -> SliceHeader:
    """Typed header from a pydicom data set; raises ValueError or TypeError on values out of shape."""
    spacing = data.get("PixelSpacing") or data.get("ImagerPixelSpacing") or (1.0, 1.0)
    orientation, position = data.get("ImageOrientationPatient"), data.get("ImagePositionPatient")
    number = data.get("SeriesNumber")
    times = (data.get(name) for name in ("TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber"))
    return SliceHeader(
        path=path,
        sop_uid=str(data.get("SOPInstanceUID", "")),
        series_uid=str(data.get("SeriesInstanceUID", "")),
        study_uid=str(data.get("StudyInstanceUID", "")),
        number=None if number is None else int(number),
        modality=str(data.get("Modality", "")),
        shape=(int(data.Rows), int(data.Columns)),
        is_colour=int(data.get("SamplesPerPixel") or 1) == 3,
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=float(data.get("SpacingBetweenSlices") or data.get("SliceThickness") or 1.0),
        num_frames=int(data.get("NumberOfFrames") or 1),
        time_key=tuple(int(time or 0) for time in times),
        orientation=tuple(float(cosine) for cosine in orientation) if orientation else None,
        position=tuple(float(mm) for mm in position) if position else None,
    )


def _describe(place: int, headers: Sequence[SliceHeader]) -> SeriesInfo:
    first = headers[0]
    gap = None
    if first.position and first.orientation:
        normal = np.cross(first.orientation[:3], first.orientation[3:])
        heights = sorted({round(float(np.dot(header.position, normal)), 2) for header in headers if header.position})
        gaps = Counter(np.diff(heights).round(2).tolist())
        gap = gaps.most_common(1)[0][0] if gaps else None
    return SeriesInfo(place, first.number, first.modality, len(headers), *first.shape, (*first.spacing_mm, gap))


def _read_pixels(path: Path, frame: int) -> np.ndarray:
    """float32 ``(J, I[, 3])`` of one frame, rescaled; colour as RGB, 0..255."""
    from MedicalSAM3Lib.itk_files import open_reader, pixel_bytes, pixels

    # A DICOM file is often named after its patient: messages call it what it is.
    name = "a DICOM file"
    reader = open_reader(path, "GDCMImageIO", name)
    size = reader.GetSize()
    require_memory((size[1], size[0], reader.GetNumberOfComponents()), pixel_bytes(reader))
    if len(size) == 3 and size[2] > 1:
        reader.SetExtractSize([size[0], size[1], 1])
        reader.SetExtractIndex([0, 0, frame])
    array = pixels(reader, name)
    if reader.GetNumberOfComponents() == 3:
        array *= 255.0 / (256 ** pixel_bytes(reader) - 1)
    return array[0] if len(size) == 3 else array


def _name(modality: str) -> str:
    return f"{modality} series" if modality else "DICOM series"
