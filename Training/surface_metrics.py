"""How far apart the surfaces of two masks lie, in mm: NSD and HD95, by MONAI

Definitions, both with the true spacing; a mask at the edge of the image ends there.

- NSD (Nikolov et al., 2018; DeepMind's ``surface-distance``): surface elements lie between voxels, one for each
  2 x 2 x 2 of them that is not all inside or all outside, and weigh their area (in a slice: 2 x 2, and length). NSD is
  the weight of the elements of both masks that have one of the other within the tolerance, over the weight of all.
- HD95: of each mask's border voxels, those inside that touch the outside by a face (in a slice: an edge), the distance
  of their centres to the nearest border voxel of the other mask; the 95th percentile of each way, linearly
  interpolated and unweighted; the larger of the two. Others pool both ways (smaller) or weigh by area.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from MedicalSAM3Lib.evidence import box_of
from Training.metrics import mean_of

PERCENTILE = 95.0
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class Surfaces:
    """``nsd`` 0 (apart) to 1 (within tolerance everywhere) and ``hd95_mm``; NaN where there is no value."""

    nsd: float
    hd95_mm: float


def compare_surfaces(
    predicted: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> Surfaces:
    """Compare two masks.

    Args:
        predicted, reference: Boolean arrays of one shape, of two or three axes. An axis of length 1 is left out:
            a single slice has an outline, no surface.
        spacing_mm: Between pixels along each axis of the arrays.
        tolerance_mm: Up to this distance a surface counts as the same (0 or more).

    Returns:
        Both NaN where both masks are empty. Where one is empty, NSD is 0 and HD95, which would be infinite, NaN.

    Raises:
        ValueError: The shapes, the spacing or the tolerance do not fit.
    """
    if predicted.shape != reference.shape or predicted.ndim != len(spacing_mm) or predicted.ndim not in (2, 3):
        shapes = f"{predicted.shape}, {reference.shape} and {len(spacing_mm)} spacings"
        raise ValueError(f"expected two masks of one shape in two or three axes and their spacing, got {shapes}")
    if not tolerance_mm >= 0.0 or not all(mm > 0.0 for mm in spacing_mm):
        raise ValueError(f"expected a tolerance of 0 or more and spacings above 0, got {tolerance_mm}, {spacing_mm}")
    box = box_of(predicted | reference)
    if box is None:
        return Surfaces(math.nan, math.nan)
    if not predicted.any() or not reference.any():
        return Surfaces(0.0, math.nan)
    return _by_monai(predicted[box], reference[box], *_flat(predicted.shape, spacing_mm), tolerance_mm)


def compare_outlines(
    predicted: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float, axis: int
) -> Surfaces:
    """As ``compare_surfaces``, slice by slice along an axis: for masks that are cut off there; cut ends are no surface.

    Returns:
        The mean NSD over slices where either mask is, and the mean HD95 over those where both are.
    """
    pairs = [(np.take(predicted, [n], axis), np.take(reference, [n], axis)) for n in range(predicted.shape[axis])]
    each = [compare_surfaces(one, other, spacing_mm, tolerance_mm) for one, other in pairs]
    return Surfaces(mean_of(one.nsd for one in each).value, mean_of(one.hd95_mm for one in each).value)


def _flat(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[tuple[int, ...], list[float]]:
    """The axes that have no extent, never so many that fewer than two are left, and the spacing along the others."""
    thin = tuple(axis for axis, length in enumerate(shape) if length == 1)[: len(shape) - 2]
    return thin, [float(mm) for axis, mm in enumerate(spacing_mm) if axis not in thin]


def _by_monai(
    predicted: np.ndarray, reference: np.ndarray, thin: tuple[int, ...], spacing_mm: list[float], tolerance_mm: float
) -> Surfaces:
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pair = [np.pad(mask.squeeze(thin), _MARGIN)[None, None] for mask in (predicted, reference)]
    one, other = (torch.from_numpy(mask) for mask in pair)
    spacing = tuple(spacing_mm)
    with warnings.catch_warnings():
        # MONAI 1.6 passes its own function an argument that it gave up itself.
        warnings.filterwarnings("ignore", r"(?s).*always_return_as_numpy", FutureWarning)
        nsd = compute_surface_dice(
            one, other, [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True
        )
        hd95 = compute_hausdorff_distance(one, other, include_background=True, percentile=PERCENTILE, spacing=spacing)
    return Surfaces(float(nsd), float(hd95))
