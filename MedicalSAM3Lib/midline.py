"""Where the middle of the patient lies between left and right, or why that cannot be told.

The outline of the body is looked at across head-foot. Its middle is the middle of the patient where the whole width is
in the picture, with air on both sides. That holds for a trunk and for a head, not for one leg or for a shoulder
from close by, and the width tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from MedicalSAM3Lib.geometry import canonical_of
from MedicalSAM3Lib.structures import Volume

STEP_MM = 4.0
"""How finely the body is looked at."""

BODY_HU = -300.0

BODY_OF_BRIGHT = 0.1
"""Without Hounsfield units: share of the 99th percentile, above the darkest, from which on it is no air."""

LEAST_DEPTH_MM = 40.0
"""From front to back, of a column that is body: a table is thinner."""

TRUNK_MM, HEAD_MM = 250.0, 110.0
"""Least width of a trunk and of a head. Between the two lie heads, small children and single legs."""

MOST_SPREAD_MM = 30.0
"""Between the middles of slices (10th to 90th percentile), of a patient who lies straight."""


@dataclass(frozen=True, slots=True)
class Midline:
    """The plane between left and right.

    Attributes:
        x_lps: Where it lies, in mm towards the patient's left; None where that is not known.
        is_trunk: Whether what is seen is as wide as a trunk; otherwise it may be a head or one limb.
        reason: Why it is not known, as the end of a sentence.
    """

    x_lps: float | None
    is_trunk: bool = False
    reason: str = ""


def find_midline(volume: Volume, modality: str) -> Midline:
    """Find the middle of the body.

    Args:
        volume: With patient axes; of a picture nothing is known.
        modality: As the volume says it, or as its values do ("CT", "MR", ...).
    """
    if volume.is_2d or modality in ("RGB", "GREY") or volume.array.ndim != 3:
        return Midline(None, reason="a picture does not say where the patient's left is")
    canonical = canonical_of(volume.ijk_to_lps)
    spacing = canonical.spacing_mm(volume.spacing_mm)
    steps = [max(1, round(STEP_MM / mm)) for mm in reversed(spacing)]
    every = tuple(slice(None, None, step) for step in steps)
    body = _body(canonical.to_canonical(volume.array)[every], modality)
    x_of = np.sum([canonical.to_canonical(part)[every] for part in parts_of_x(volume)], axis=0)
    column_mm, depth_mm = spacing[0] * steps[2], body.sum(axis=1) * (spacing[1] * steps[1])

    middles, widths, seen = [], [], 0
    for k, inside in enumerate(depth_mm >= LEAST_DEPTH_MM):
        columns = np.flatnonzero(inside)
        seen += columns.size > 0
        if columns.size and columns[0] > 0 and columns[-1] < inside.size - 1:
            rows = np.flatnonzero(body[k].any(axis=1))
            across = x_of[k, (rows[0] + rows[-1]) // 2]
            middles.append((across[columns[0]] + across[columns[-1]]) / 2)
            widths.append(columns.size * column_mm)
    return _judge(np.array(middles), np.array(widths), seen)


def parts_of_x(volume: Volume, sign: float = 1.0) -> tuple[np.ndarray, ...]:
    """How far to the patient's left each voxel lies, in mm and times ``sign``, as three arrays ``(K, J, I)`` to add up.

    They are views that take no memory, and can be turned and cut like the voxels.
    """
    shape, row = volume.shape_kji, sign * volume.ijk_to_lps[0]
    parts = []
    for axis, size in enumerate(shape):
        along = row[2 - axis] * np.arange(size) + (row[3] if axis == 0 else 0.0)
        parts.append(np.broadcast_to(along.reshape([-1 if one == axis else 1 for one in range(3)]), shape))
    return tuple(parts)


def _body(view: np.ndarray, modality: str) -> np.ndarray:
    if modality == "CT":
        return view > BODY_HU
    low, high = np.percentile(view, [1, 99])
    return view > low + BODY_OF_BRIGHT * (high - low)


def _judge(middles: np.ndarray, widths: np.ndarray, seen: int) -> Midline:
    if 2 * len(middles) < seen or not len(middles):
        return Midline(None, reason="the image does not show the whole width of the body")
    low, high = np.percentile(middles, [10, 90])
    width = float(np.median(widths))
    if width < HEAD_MM:
        return Midline(None, reason="what the image shows is no trunk and no head")
    if high - low > MOST_SPREAD_MM:
        return Midline(None, reason="the patient does not lie straight")
    return Midline(float(np.median(middles)), is_trunk=width >= TRUNK_MM)
