"""What a radiologist measures of a finding: its diameters, where it is, and how bright.

Diameters run from voxel corner to voxel corner, since a mask covers whole voxels: a box of voxels has its exact
diagonal, a single voxel its own, and of a round thing they are too large by up to one voxel's diagonal, never too
small. They are those of the convex hull: of parts that lie apart they run from one to the other, so ask for
``instances`` where each is to be measured by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist, squareform

from MedicalSAM3Lib.geometry import canonical_of, input_axis
from MedicalSAM3Lib.structures import Finding, Measures, Volume, mask_of

HEAD_FOOT = 2

ROUNDING_MM = 1e-6
"""Lengths that differ by less are equal."""

Box = tuple[slice, slice, slice]
"""Part of an array ``(K, J, I)``."""


def measured(findings: Sequence[Finding], layers: Sequence[np.ndarray], volume: Volume) -> tuple[Finding, ...]:
    """Add the measures to all findings that were found, and to each of their objects.

    Args:
        findings: In the order asked.
        layers: Label maps ``(K, J, I)``, as in ``Segmentation.layers``.
        volume: The input. Of one with a gantry tilt nothing is measured: its axes say not where a voxel is.
    """
    if volume.is_tilted:
        return tuple(findings)
    boxes = [ndimage.find_objects(layer) for layer in layers]
    return tuple(
        _measured(finding, layers[finding.layer], boxes[finding.layer], volume) if finding.state == "found" else finding
        for finding in findings
    )


def measure(mask_kji: np.ndarray, volume: Volume, box: Box | None = None) -> Measures:
    """Measure a mask.

    Args:
        mask_kji: Boolean, of the volume's shape or of the box's; at least one voxel is True.
        volume: The input.
        box: Where in the volume the mask lies; None takes all of it.

    Raises:
        ValueError: No voxel is True.
    """
    if not mask_kji.any():
        raise ValueError("expected a mask with a voxel in it, got an empty one")
    box = box or (slice(0, mask_kji.shape[0]), slice(0, mask_kji.shape[1]), slice(0, mask_kji.shape[2]))
    corner_kji = np.array([side.start for side in box])
    axial = input_axis(canonical_of(volume.ijk_to_lps), HEAD_FOOT) if not volume.is_2d else 0
    others = [axis for axis in range(3) if axis != axial]
    outlines = _outlines(mask_kji.transpose(axial, *others))
    spacing_kji = np.array(volume.spacing_mm[::-1])
    number, long_mm, short_mm = _axial(outlines, spacing_kji[others])
    mean, deviation = _intensity(mask_kji, volume.array[box])
    return Measures(
        axial_long_mm=long_mm,
        axial_short_mm=short_mm,
        axial_slice=int(corner_kji[axial] + number),
        largest_mm=None if volume.is_2d else _largest(outlines, spacing_kji[[axial, *others]]),
        centroid_lps_mm=_centroid(mask_kji, corner_kji, volume.ijk_to_lps),
        intensity_mean=mean,
        intensity_sd=deviation,
    )


def _measured(finding: Finding, layer: np.ndarray, boxes: Sequence[Box | None], volume: Volume) -> Finding:
    parts = tuple(replace(part, measures=_of_labels((part.label,), layer, boxes, volume)) for part in finding.objects)
    whole = parts[0].measures if len(parts) == 1 else _of_labels(finding.labels, layer, boxes, volume)
    return replace(finding, measures=whole, objects=parts)


def _of_labels(labels: Sequence[int], layer: np.ndarray, boxes: Sequence[Box | None], volume: Volume) -> Measures:
    """Measures of all voxels that have one of some labels."""
    around = [box for label in labels if (box := boxes[label - 1]) is not None]
    k, j, i = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*around, strict=True)
    )
    box = (k, j, i)
    return measure(mask_of(layer[box], labels), volume, box)


def _outlines(mask_nhw: np.ndarray) -> dict[int, np.ndarray]:
    """Convex outline of each slice that is not empty: corners (row, column) in order; voxels lie at whole numbers."""
    rows = np.asarray(mask_nhw.any(2))
    first = mask_nhw.argmax(2)
    last = mask_nhw.shape[2] - 1 - mask_nhw[:, :, ::-1].argmax(2)
    outlines = {}
    for n in np.flatnonzero(rows.any(1)).tolist():
        row = np.flatnonzero(rows[n])
        sides = (first[n, row] - 0.5, last[n, row] + 0.5)
        corners = np.concatenate([np.stack((row + half, side), 1) for half in (-0.5, 0.5) for side in sides])
        outlines[n] = corners[ConvexHull(corners).vertices]
    return outlines


def _axial(outlines: dict[int, np.ndarray], spacing_mm: np.ndarray) -> tuple[int, float, float]:
    """Slice with the longest diameter, that diameter, and the longest chord at right angles to it on that slice.

    Of diameters of the same length, such as the two of a rectangle, it is the one with the longest chord across, and
    then that of the first slice, so that rounding decides nothing.
    """
    apart = {n: squareform(pdist(outline * spacing_mm)) for n, outline in outlines.items()}
    long_mm = max(float(distances.max()) for distances in apart.values())
    candidates = [
        (_across(outlines[n] * spacing_mm, start, end), n)
        for n, distances in apart.items()
        for start, end in np.argwhere(np.triu(distances) >= long_mm - ROUNDING_MM).tolist()
    ]
    widest = max(short_mm for short_mm, _ in candidates)
    short_mm, number = next(one for one in candidates if one[0] >= widest - ROUNDING_MM)
    return number, long_mm, short_mm


def _across(outline: np.ndarray, start: int, end: int) -> float:
    """Longest chord of a convex outline at right angles to its diameter between two of its corners."""
    from_start = np.roll(outline, -start, axis=0) - outline[start]
    turn = (end - start) % len(outline)
    along = from_start[turn] / np.linalg.norm(from_start[turn])
    t, s = from_start @ along, from_start @ (-along[1], along[0])
    there, back = np.arange(turn + 1), np.arange(len(t), turn - 1, -1) % len(t)
    # Between corners the chord's length changes linearly, so that the longest one lies at a corner.
    return float(np.abs(np.interp(t, t[there], s[there]) - np.interp(t, t[back], s[back])).max())


def _largest(outlines: dict[int, np.ndarray], spacing_mm: np.ndarray) -> float:
    """Largest distance between two corners of voxels, in 3D; spacing between slices, rows and columns."""
    corners = np.concatenate(
        [np.insert(outline, 0, n + half, axis=1) for n, outline in outlines.items() for half in (-0.5, 0.5)]
    )
    corners = corners[ConvexHull(corners).vertices] * spacing_mm
    # A long pair first. An end of a longer one is farther from its middle than the rest of that length; of anything
    # but a sphere few corners are.
    start = corners[_far_from(corners, corners[0]).argmax()]
    from_start = _far_from(corners, start)
    from_middle = _far_from(corners, (start + corners[from_start.argmax()]) / 2)
    ends = corners[from_middle >= from_start.max() - from_middle.max() - ROUNDING_MM]
    return float(pdist(ends).max())


def _far_from(points: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - point, axis=1)


def _centroid(mask_kji: np.ndarray, corner_kji: np.ndarray, ijk_to_lps: np.ndarray) -> tuple[float, float, float]:
    """Mean of the voxels' centres in mm."""
    counts = [np.count_nonzero(mask_kji, axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    kji = corner_kji + [float(np.arange(len(count)) @ count / count.sum()) for count in counts]
    left, posterior, superior = (ijk_to_lps @ [*kji[::-1], 1.0])[:3].tolist()
    return left, posterior, superior


def _intensity(mask_kji: np.ndarray, values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the voxels' values; None of colours, which have no unit."""
    if values.ndim == 4:
        return None, None
    inside = values[mask_kji]
    mean = float(inside.mean(dtype=np.float64))
    # In pieces: the squares of a whole body in float64 would take more memory than the volume.
    pieces = np.array_split(inside, len(inside) // 1_000_000 + 1)
    squares = sum(float(np.square(piece - mean, dtype=np.float64).sum()) for piece in pieces)
    return mean, float(np.sqrt(squares / len(inside)))
