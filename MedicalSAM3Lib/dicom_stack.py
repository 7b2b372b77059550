"""Put the slices of a DICOM series in order by where they lie in the patient, and find their affine.

File names, instance numbers and slice locations are not trusted for this: only ImageOrientationPatient
and ImagePositionPatient say where a slice is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.geometry import ROUNDING_COSINE

SAME_PLACE_MM = 0.01
"""Slices closer than this lie at one position: another phase, echo or direction of the same place."""

SAME_COSINE = 0.01
"""Direction cosines within this of each other are those of one orientation, written with few decimals."""

MOST_LISTED = 12
"""Times or b-values named in an error message."""

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
        num_frames: Pictures in this one file, where nothing says where each lies.
        time, b_value, echo_ms: What sets images at one position apart: temporal position, diffusion weighting in
            s/mm2, echo time; 0 where there is none. All slices of a volume have the same.
        taken: Trigger time, acquisition and instance, which order them further.
        orientation: Direction cosines of a row, then of a column, in LPS; None if not given.
        position: Centre of the first voxel in mm, LPS; None if not given.
        frame: Which frame of an enhanced object this is, 0-based; None in a file of another kind.
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
    time: int
    b_value: float
    echo_ms: float
    taken: tuple[float, ...]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    frame: int | None = None
    study_uid: str = ""

    @property
    def stack_key(self) -> tuple[object, ...]:
        """Equal for images that can lie in one volume, if they are parallel, too."""
        spacing = tuple(round(length, 3) for length in self.spacing_mm)
        return (self.series_uid, self.shape, spacing, self.is_colour, self.num_frames, self.frame is None)

    @property
    def kind(self) -> tuple[float, ...]:
        """Equal for the slices of one volume among several at the same place."""
        return (self.time, self.b_value, self.echo_ms)


def stacks_of(headers: Iterable[SliceHeader]) -> list[list[SliceHeader]]:
    """Sort images into stacks of one series, size, spacing and orientation, in order of their first image.

    Orientations are compared and not rounded: rounding would part slices whose cosines jitter about a half.
    """
    stacks: dict[tuple[object, ...], list[list[SliceHeader]]] = {}
    for header in headers:
        alike = stacks.setdefault(header.stack_key, [])
        stack = next((stack for stack in alike if _is_parallel(stack[0], header)), None)
        if stack is None:
            alike.append([header])
        else:
            stack.append(header)
    return [stack for alike in stacks.values() for stack in alike]


def _is_parallel(one: SliceHeader, other: SliceHeader) -> bool:
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return float(np.abs(np.subtract(one.orientation, other.orientation)).max()) <= SAME_COSINE


def order_slices(headers: Sequence[SliceHeader]) -> tuple[list[list[SliceHeader]], str | None]:
    """Sort the images of a series along their normal, and apart by frame where places repeat.

    Args:
        headers: At least two images of one stack, in any order.

    Returns:
        The frames, each a list of slices in order along row x column; and a notice when the
        positions are uneven by rounding.

    Raises:
        InputError: No positions, multi-frame files, positions missing, repeated here and there, or uneven; or images
            of several times, b-values or echoes that do not make whole volumes.
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
    if any(header.kind != frame[0].kind for frame in frames for header in frame):
        raise InputError(
            "Expected the same times, b-values and echoes at each slice position, got others here and there; "
            "keep those in the folder that are whole."
        )
    return frames, max((_check_even(frame) or "" for frame in frames), key=len) or None


def frames_in_words(frames: Sequence[Sequence[SliceHeader]]) -> str:
    """What the volumes at one place are, for a person who has to choose: "frames (b-value 0, 800)"."""
    for name, values in (
        ("b-value", [frame[0].b_value for frame in frames]),
        ("echo time in ms", [frame[0].echo_ms for frame in frames]),
        ("time", [float(frame[0].time) for frame in frames]),
    ):
        if len(set(values)) > 1:
            return f"frames ({name} {', '.join(f'{value:g}' for value in values[:MOST_LISTED])}" + (
                ", ...)" if len(values) > MOST_LISTED else ")"
            )
    return "frames"


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


def without_tilt(ijk_to_lps: np.ndarray) -> tuple[np.ndarray, float]:
    """An affine whose slices lie straight on each other, and by how many degrees they did not.

    Args:
        ijk_to_lps: As ``affine_of`` gave it. It comes back as it is, with 0.0, where only rounding is off.
    """
    i, j, k = ijk_to_lps[:3, :3].T
    normal = np.cross(i, j)
    length = float(np.linalg.norm(normal))
    if length == 0.0:
        return ijk_to_lps, 0.0  # no plane at all, which is refused elsewhere
    straight = normal / length * float(k @ normal / length)
    sine = float(np.linalg.norm(k - straight) / np.linalg.norm(k))
    if sine <= ROUNDING_COSINE:
        return ijk_to_lps, 0.0
    affine = ijk_to_lps.copy()
    affine[:3, 2] = straight
    return affine, float(np.degrees(np.arcsin(min(sine, 1.0))))


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
    return [sorted(place, key=lambda header: (header.kind, header.taken)) for place in places]


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
