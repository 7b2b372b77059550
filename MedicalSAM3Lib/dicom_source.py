"""The DICOM headers behind a volume's slices: what an object that is written as DICOM refers to and inherits.

They hold the patient's data, which goes into the written object and nowhere else: not into a message, a log or a
warning. pydicom quotes values in its warnings and errors, so both stay here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.codes import Codes
from MedicalSAM3Lib.dicom_headers import group_value
from MedicalSAM3Lib.errors import MedicalSAM3Error, NothingFound, OutputError
from MedicalSAM3Lib.segments import Segment, segments_of
from MedicalSAM3Lib.structures import Segmentation, Volume

NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
"""Without these there is nothing to refer to."""

MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Must be there by the standard, if empty; removing personal data often removes them."""

MAKER = "MedicalSAM3"
"""Manufacturer, model and algorithm of written objects."""

PRIVATE_SCHEME = "99MSAM3"
"""Coding scheme of concepts that have no SNOMED CT code: their value is the concept's own name."""

LOGGERS = ("pydicom", "highdicom", "dicomweb_client.web", "retrying", "urllib3.connectionpool")
"""Of the packages that quote headers or addresses."""

PLACE_TOLERANCE = 0.1
"""Of a voxel: how far a slice may lie from where the volume says; positions are rounded, and steps a little uneven."""


@dataclass(frozen=True, slots=True)
class SourceSlice:
    """One slice of the source.

    Attributes:
        header: Data set of its file, without pixels; frames of one file share it.
        frame: Its frame number, from 1, in a file of several; None in a file of one image.
        position: Centre of its first voxel, mm in LPS, float64 ``(3,)``.
        axes: Millimetres from voxel to voxel along a row and along a column, float64 ``(3, 2)``.
    """

    header: Any
    frame: int | None
    position: np.ndarray
    axes: np.ndarray

    @property
    def key(self) -> tuple[str, int | None]:
        """What a reference to it names: the instance, and the frame of an enhanced one, 1-based."""
        return str(self.header.SOPInstanceUID), self.frame

    def to_lps(self, points_ij: np.ndarray) -> np.ndarray:
        """Points ``(N, 2)`` in voxels along row and column, to mm in LPS ``(N, 3)``."""
        return self.position + points_ij @ self.axes.T

    def to_ij(self, points_lps: np.ndarray) -> np.ndarray:
        """The way back; a part across the slice is left out."""
        return (points_lps - self.position) @ np.linalg.pinv(self.axes).T


@contextmanager
def private() -> Iterator[None]:
    """Silence warnings and log lines of the DICOM packages meanwhile: they quote values of headers, and addresses."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


def require_packages() -> None:
    """Check that DICOM objects can be written here.

    Raises:
        OutputError: The optional packages are not installed.
    """
    missing = [name for name in ("contourpy", "highdicom") if find_spec(name) is None]
    if missing:
        raise OutputError(
            f"Expected the packages for DICOM results, '{missing[0]}' is missing; pip install 'medical-sam3[dicom]'."
        )


def check_source(volume: Volume) -> None:
    """Check, before anything is computed, that a DICOM object can be written for a volume.

    Raises:
        OutputError: It was not read from DICOM, or has no place in a patient.
    """
    if not volume.dicom:
        raise OutputError(
            "Expected a DICOM series as input for a DICOM result, which refers to it, got an image of another format; "
            "give the DICOM folder, or write .seg.nrrd or .nii.gz."
        )
    _slice_of(_read(volume.dicom[0].path), volume.dicom[0].frame)


def read_sources(volume: Volume) -> list[SourceSlice]:
    """Read the headers of all slices of a volume, in its order, and check that they still say where it lies.

    Raises:
        OutputError: A file is gone or changed, or lacks an identifier or a position.
    """
    headers: dict[Path, Any] = {}
    sources = []
    for source in volume.dicom:
        if source.path not in headers:
            headers[source.path] = _read(source.path)
        sources.append(_slice_of(headers[source.path], source.frame))
    if len({source.key for source in sources}) < len(sources):
        raise OutputError(
            "Expected an identifier (SOPInstanceUID) of its own for each slice, to which a DICOM result refers, some "
            "have the same; have it put right, or write .seg.nrrd or .nii.gz."
        )
    _check_place(sources, volume)
    return sources


def segments_to_write(segmentation: Segmentation) -> list[Segment]:
    """The segments of a DICOM object.

    Raises:
        NothingFound: There is none, and the standard knows no empty object.
    """
    segments = segments_of(segmentation.findings)
    if not segments or not any(layer.any() for layer in segmentation.layers):
        raise NothingFound(
            "Expected at least one concept that was found for a DICOM result, which cannot be empty; none was, so "
            "nothing is written. Write .seg.nrrd, or see --report."
        )
    return segments


def coded(codes: Codes, name: str) -> tuple[Any, Any, Any]:
    """Category, type and modifier (or None) as pydicom codes; what has no code gets a private one with its name."""
    from pydicom.sr.coding import Code

    def code(text: str) -> Any:
        scheme, value, meaning = text.split("^", 2)
        return Code(value, scheme, meaning[:64])

    named = short(name) or "concept"
    category = code(codes.category) if codes.category else Code("CONCEPT", PRIVATE_SCHEME, "Concept")
    own_type = code(codes.type) if codes.type else Code(named, PRIVATE_SCHEME, named)
    return category, own_type, code(codes.modifier) if codes.type and codes.modifier else None


def short(name: str) -> str:
    """A name as DICOM takes it: 64 characters at most, in one line."""
    return " ".join(name.split())[:64]


def described(segment: Segment) -> str:
    """How sure the model was of a segment, and which slices a person should look at, in a sentence or three."""
    finding = segment.finding
    sentences = [] if finding.presence is None else [f"Presence {finding.presence:.3f}."]
    if segment.part.confidence is not None:
        sentences.append(f"Mean confidence {segment.part.confidence:.3f}.")
    numbers = ", ".join(str(number) for number in finding.review_slices[:100])
    more = f" and {len(finding.review_slices) - 100} more" if len(finding.review_slices) > 100 else ""
    sentences.append(f"Review slices (from 0): {numbers}{more}." if numbers else "No slice needs a review.")
    return " ".join(sentences)


def written_or_refused(write: Callable[[], None]) -> None:
    """Call a writer; whatever the headers make pydicom or highdicom raise becomes one sentence without their values.

    Raises:
        OutputError: The writer failed. What is of our own, the disk's or the memory's goes on as it is.
    """
    try:
        with private():
            write()
    except (MedicalSAM3Error, OSError, MemoryError):
        raise
    except Exception as error:
        # The text of their errors may quote a header, and so may the traceback's last line: neither goes on.
        raise OutputError(
            f"Expected headers from which a DICOM object can be made, the series' are not ({type(error).__name__}); "
            "write .seg.nrrd or .nii.gz instead."
        ) from None


def _read(path: Path) -> Any:
    import pydicom

    with private():
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            missing = [name for name in NEEDED if not header.get(name)]
            header.walk(lambda *_: None)  # values are parsed at first use: now, where it is caught
        except Exception:
            raise OutputError(
                "Expected the DICOM files that the volume was read from, one is gone or damaged; keep them in place."
            ) from None
    if missing:
        raise OutputError(
            f"Expected a DICOM series with {', '.join(missing)} for a DICOM result, which refers to it; "
            "write .seg.nrrd or .nii.gz instead."
        )
    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, "")
    return header


def _slice_of(header: Any, frame: int) -> SourceSlice:
    """Place of one frame; a file of one image has it at its top, one of several in its functional groups."""
    several = "PerFrameFunctionalGroupsSequence" in header
    try:
        if several:
            own, shared = header.PerFrameFunctionalGroupsSequence[frame], header.SharedFunctionalGroupsSequence[0]
            position = group_value(own, shared, "PlanePositionSequence", "ImagePositionPatient")
            orientation = group_value(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient")
            spacing = group_value(own, shared, "PixelMeasuresSequence", "PixelSpacing")
        else:
            position, orientation = header.ImagePositionPatient, header.ImageOrientationPatient
            spacing = header.PixelSpacing
        row, column = np.array(orientation, float).reshape(2, 3)
        row_mm, column_mm = (float(length) for length in spacing)
    except (AttributeError, IndexError, TypeError, ValueError):
        raise OutputError(
            "Expected slices with a position in the patient for a DICOM result, got a picture without; "
            "write .png, .seg.nrrd or .nii.gz instead."
        ) from None
    axes = np.stack((row / np.linalg.norm(row) * column_mm, column / np.linalg.norm(column) * row_mm), axis=1)
    return SourceSlice(header, frame + 1 if several else None, np.array(position, float), axes)


def _check_place(sources: list[SourceSlice], volume: Volume) -> None:
    """Slices must lie where the volume's affine has them, but for a shift within their plane (a gantry tilt)."""
    affine, spacing = volume.ijk_to_lps, np.array(volume.spacing_mm)
    normal = affine[:3, 2] / spacing[2]
    for k, source in enumerate(sources):
        across = float((source.position - affine[:3, 3]) @ normal) - k * spacing[2]
        turned = float(np.abs(source.axes - affine[:3, :2]).max())
        if abs(across) > PLACE_TOLERANCE * spacing[2] or turned > PLACE_TOLERANCE * spacing[:2].min():
            raise OutputError(
                "Expected the DICOM files as they were read, they say another place now; leave them as they are."
            )
