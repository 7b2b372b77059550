"""Read DICOM: what a folder holds, one series of it as a volume, one file as a picture.

Headers come through pydicom (``dicom_headers.py``), pixels through SimpleITK (GDCM), which decodes RLE, JPEG,
lossless JPEG, JPEG-LS and JPEG 2000, applies each slice's own rescale slope and intercept, and shows MONOCHROME1
with bright as high; those of enhanced objects come through pydicom (``dicom_frames.py``). No name, date or identifier
of a patient leaves these files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.dicom_frames import read_frames
from MedicalSAM3Lib.dicom_headers import read_headers
from MedicalSAM3Lib.dicom_stack import SliceHeader, affine_of, frames_in_words, order_slices, stacks_of
from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.guards import pick_frame, require_memory
from MedicalSAM3Lib.structures import DicomFrame, Volume

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


def scan_folder(folder: Path, notice: OnNotice | None = None) -> tuple[Series, ...]:
    """Read the headers of all DICOM images under a folder and sort them into series.

    A series whose images differ in orientation, size or spacing (a scout with its stack) counts as several.

    Raises:
        InputError: The folder is missing or holds no DICOM image.
    """
    if not folder.is_dir():
        raise InputError("Expected a folder with a DICOM series, got a path that is not a folder; check it.")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = sort_into_series((path for path in files if is_dicom(path)), notice)
    if not found:
        raise InputError(
            f"Expected a folder with DICOM images, got {len(files)} file{'s' * (len(files) != 1)}, and none "
            "is one; check the path."
        )
    return found


def sort_into_series(files: Iterable[Path], notice: OnNotice | None = None) -> tuple[Series, ...]:
    """Read the headers of DICOM files and sort them into series, as ``scan_folder``; those without an image are left
    out."""
    found = [read_headers(path) for path in files]
    stacks = stacks_of(header for headers in found for header in headers or ())
    if notice and stacks and None in found:
        notice(f"{found.count(None)} DICOM files have a damaged header and were left out.")
    return _as_series(stacks)


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
    return read_series(choose_series(scan_folder(folder, notice), series), frame, notice)


def read_file(path: Path, series: int | str | None, frame: int | None, notice: OnNotice) -> Volume:
    """Read one DICOM file: an enhanced object as a volume, any other as a picture, with its place in the patient.

    Args:
        path: The file.
        series: Which stack of an enhanced object that holds several, as in ``read_folder``.
        frame: Which one, where it holds several images at each position, or pictures without any.
        notice: Called with what was put right.

    Raises:
        InputError: Not an image, several frames and none chosen, or damaged pixels.
    """
    headers = read_headers(path)
    if not headers:
        raise InputError("Expected a DICOM image, got a DICOM file without one (or a damaged header); choose another.")
    return read_series(choose_series(_as_series(stacks_of(headers)), series), frame, notice)


def _as_series(stacks: Iterable[list[SliceHeader]]) -> tuple[Series, ...]:
    """Stacks in order of their series' number; of one series the largest first."""
    ordered = sorted(stacks, key=lambda stack: (stack[0].number or 0, -len(stack), stack[0].series_uid))
    return tuple(Series(_describe(place, stack), tuple(stack)) for place, stack in enumerate(ordered, start=1))


def read_series(series: Series, frame: int | None, notice: OnNotice) -> Volume:
    """Read a series of ``scan_folder`` as a volume, or its only image as a picture; as ``read_folder``.

    Raises:
        InputError: Slices missing, twice or unevenly spaced; damaged pixels.
    """
    headers: Sequence[SliceHeader] = series.headers
    # Files that carry one identifier and lie at different places are different all the same.
    unique = {(header.sop_uid or str(header.path), header.frame, header.position): header for header in headers}
    if len(unique) < len(headers):
        notice(f"{len(headers) - len(unique)} files are copies of others in the series and were left out.")
    headers = list(unique.values())
    first = headers[0]
    if len(headers) == 1 and first.frame is None:
        return _read_picture(first, frame)
    frames, uneven = order_slices(headers)
    if uneven:
        notice(uneven)
    stack = frames[pick_frame(frame, len(frames), frames_in_words(frames))]
    shape = (len(stack), *first.shape, *((3,) if first.is_colour else ()))
    require_memory(shape, 4)
    array = np.empty(shape, np.float32)
    for path, slices in _by_file(stack).items():
        for k, pixels in zip(slices, _pixels_of(path, [stack[k].frame for k in slices]), strict=True):
            array[k] = pixels
    return Volume(
        array,
        affine_of(stack),
        modality=first.modality,
        is_2d=len(stack) == 1,
        name=_name(first.modality),
        dicom=tuple(DicomFrame(header.path, header.frame or 0) for header in stack),
    )


def _read_picture(header: SliceHeader, frame: int | None) -> Volume:
    """A file that is one picture, or several of which nothing says where each lies."""
    index = pick_frame(frame, header.num_frames, "frames in one file (to have them as a volume, convert it to NIfTI)")
    array = _read_pixels(header.path, index)
    source = DicomFrame(header.path, index)
    name = _name(header.modality)
    return Volume(array[None], affine_of([header]), header.modality, is_2d=True, name=name, dicom=(source,))


def _by_file(stack: Sequence[SliceHeader]) -> dict[Path, list[int]]:
    """The slices of a stack that lie in each file."""
    files: dict[Path, list[int]] = {}
    for k, header in enumerate(stack):
        files.setdefault(header.path, []).append(k)
    return files


def _pixels_of(path: Path, frames: Sequence[int | None]) -> Iterator[np.ndarray]:
    """Pixels of frames of an enhanced object, or of a file's only image."""
    chosen = [frame for frame in frames if frame is not None]
    return read_frames(path, chosen) if chosen else iter([_read_pixels(path, 0)])


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
