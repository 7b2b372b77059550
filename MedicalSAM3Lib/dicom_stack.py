"""Put the slices of a DICOM series in order by where they lie in the patient, and find their affine.

File names, instance numbers and slice locations are not trusted for this: only ImageOrientationPatient
and ImagePositionPatient say where a slice is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError

SAME_PLACE_MM = 0.01
"""Slices closer than this lie at one position: another phase, echo or direction of the same place."""

UNEVEN_FRACTION = 0.05
"""A slice farther than this part of a step from its place in an even stack is not harmless."""

ROUNDING_FRACTION = 0.01
"""Up to this part of a step, uneven positions are the rounding of decimals in the header."""


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """What the header of one DICOM image says, without patient data.

    Attributes:
        path: The file.
        sop_uid, series_uid, study_uid: Identifiers, for telling images and series apart; never shown.
        number: Series number.
        modality: DICOM code.
        shape: Rows, columns.
        is_colour: Three values a pixel.
        spacing_mm: Between rows, between columns.
        thickness_mm: Between slices as the header says; used for a single image only.
        num_frames: Frames in this one file.
        time_key: Orders the images at one position: temporal position, acquisition, instance.
        orientation: Direction cosines of a row, then of a column, in LPS; None if not given.
        position: Centre of the first voxel in mm, LPS; None if not given.
    """

    path: Path
    sop_uid: str
    series_uid: str
    number: int | None
    modality: str
    shape: tuple[int, int]
    is_colour: bool
    spacing_mm: tuple[float, float]
    thickness_mm: float
    num_frames: int
    time_key: tuple[int, ...]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    study_uid: str = ""

    @property
    def stack_key(self) -> tuple[object, ...]:
        """Equal for images that can lie in one volume."""
        cosines = tuple(round(cosine, 2) + 0.0 for cosine in self.orientation or ())
        spacing = tuple(round(length, 3) for length in self.spacing_mm)
        return (self.series_uid, cosines, self.shape, spacing, self.is_colour, self.num_frames)


def order_slices(headers: Sequence[SliceHeader]) -> tuple[list[list[SliceHeader]], str | None]:
    """Sort the images of a series along their normal, and apart by frame where places repeat.

    Args:
        headers: At least two images of one stack, in any order.

    Returns:
        The frames, each a list of slices in order along row x column; and a notice when the
        positions are uneven by rounding.

    Raises:
        InputError: No positions, multi-frame files, positions missing, repeated here and there, or uneven.
    """
    if any(header.num_frames > 1 for header in headers):
        raise InputError(
            f"Expected single-frame DICOM slices, got {len(headers)} multi-frame files; give one file and a frame, "
            "or convert the series to NIfTI first."
        )
    if any(header.position is None or header.orientation is None for header in headers):
        raise InputError(
            f"Expected slices with a position in the patient, got {len(headers)} images without; give one file of them."
        )
    places = _group_by_place(headers)
    counts = {len(place) for place in places}
    if len(counts) > 1:
        repeated = sum(len(place) > min(counts) for place in places)
        raise InputError(
            f"Expected each slice position equally often, got {repeated} of {len(places)} more than once; "
            "keep one acquisition in the folder."
        )
    frames = [list(frame) for frame in zip(*places, strict=True)]
    return frames, max((_check_even(frame) or "" for frame in frames), key=len) or None


def affine_of(stack: Sequence[SliceHeader]) -> np.ndarray:
    """Voxel index (i, j, k) to mm in LPS, float64 ``(4, 4)``, of ordered slices.

    A step from slice to slice that is not along the normal (gantry tilt) stays in the affine as the
    shear that it is. An image without a position gets the identity and its pixel spacing.
    """
    first, last = stack[0], stack[-1]
    row_mm, column_mm = first.spacing_mm
    affine = np.eye(4)
    if first.orientation is None or first.position is None:
        affine[[0, 1, 2], [0, 1, 2]] = column_mm, row_mm, first.thickness_mm
        return affine
    along_row, along_column, normal = _axes(first)
    affine[:3, 0] = along_row * column_mm
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = normal * first.thickness_mm
    if len(stack) > 1:
        affine[:3, 2] = (np.array(last.position) - first.position) / (len(stack) - 1)
    affine[:3, 3] = first.position
    return affine


def _axes(header: SliceHeader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, along a column, and across the slice."""
    row, column = (np.array(header.orientation[at : at + 3]) for at in (0, 3))  # type: ignore[index]
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def _group_by_place(headers: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Images at one position together, in order of time; positions in order along the normal."""
    normal = _axes(headers[0])[2]
    heights = [float(np.dot(header.position, normal)) for header in headers]  # type: ignore[arg-type]
    places: list[list[SliceHeader]] = []
    previous = -np.inf
    for at in np.argsort(heights, kind="stable"):
        if heights[at] - previous > SAME_PLACE_MM:
            places.append([])
        places[-1].append(headers[at])
        previous = heights[at]
    return [sorted(place, key=lambda header: header.time_key) for place in places]


def _check_even(stack: Sequence[SliceHeader]) -> str | None:
    """Raise InputError unless the slices lie in even steps on a line; a notice if only rounding is off."""
    if len(stack) == 1:
        return None
    positions = np.array([header.position for header in stack])
    even = np.linspace(positions[0], positions[-1], len(stack))
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    step = float(np.median(steps))
    off = float(np.linalg.norm(positions - even, axis=1).max())
    if off <= ROUNDING_FRACTION * step:
        return None
    if off <= UNEVEN_FRACTION * step:
        return f"Slice positions are uneven by up to {off:.3f} mm of {step:.2f} mm; they were read as even."
    widest = int(steps.argmax())
    if steps[widest] > 1.5 * step:
        raise InputError(
            f"Expected slices every {step:.2f} mm, got a gap of {steps[widest]:.2f} mm after slice {widest + 1} of "
            f"{len(stack)}: slices are missing; export the whole series."
        )
    raise InputError(
        f"Expected evenly spaced slices, got steps from {steps.min():.2f} to {steps.max():.2f} mm; "
        "resample the series to even slices first."
    )
