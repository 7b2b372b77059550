"""Where voxels lie in the patient: affines, the canonical view, and slices cut out of it.

The library computes on a *canonical view*: the input's voxels with axes permuted and flipped, never
resampled, so that i runs closest to Left, j closest to Posterior and k closest to Superior. Going
there and back is exact, whatever the input's orientation; left-handed input becomes right-handed.

A slice axis is named by the patient: 0 across left-right (sagittal), 1 across front-back (coronal),
2 across head-foot (axial). Pictures are oriented as a radiologist expects:

    axial      rows to the back (front at top),   columns to the left (patient's right at left)
    coronal    rows to the feet (head at top),    columns to the left
    sagittal   rows to the feet (head at top),    columns to the back (front at left)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from MedicalSAM3Lib.errors import GeometryError
from MedicalSAM3Lib.structures import Volume

EXACT_COSINE = 1e-5
"""Up to here the cosine between two axes is float32 noise, and the affine is left alone."""

ROUNDING_COSINE = 2e-3
"""Direction cosines written with three decimals are off by up to this: under 1 mm over half a metre."""

THICK_SLICE_RATIO = 1.5
"""From here on, in-plane detail is worth more than the plane that the model was trained on."""


@dataclass(frozen=True, slots=True)
class Canonical:
    """How to get from the input's array to the canonical view and back.

    Attributes:
        permutation: For each canonical array axis (k to Superior, j to Posterior, i to Left) the
            axis of the input array ``(k, j, i)`` that lies closest to it.
        flips: For each canonical array axis, whether the input runs the other way.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def to_canonical(self, array: np.ndarray) -> np.ndarray:
        """View an input array ``(K, J, I[, C])`` in canonical order. No copy."""
        return self._flip(array.transpose(*self.permutation, *range(3, array.ndim)))

    def to_input(self, array: np.ndarray) -> np.ndarray:
        """View a canonical array ``(K, J, I[, C])`` in the input's order. No copy."""
        inverse = tuple(int(axis) for axis in np.argsort(self.permutation))
        return self._flip(array).transpose(*inverse, *range(3, array.ndim))

    def spacing_mm(self, input_spacing_mm: tuple[float, float, float]) -> tuple[float, float, float]:
        """Spacing along canonical i, j, k, from the input's spacing along its own i, j, k."""
        k, j, i = (input_spacing_mm[2 - axis] for axis in self.permutation)
        return i, j, k

    def _flip(self, array: np.ndarray) -> np.ndarray:
        return array[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]


def check_affine(ijk_to_lps: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Accept an affine whose axes are at right angles, and repair one that is so but for rounding.

    Args:
        ijk_to_lps: ``(4, 4)``, voxel index to mm in LPS. Left-handed axes are fine.

    Returns:
        The affine as float64, and a notice for the user when it had to be repaired. A repair keeps
        the origin and the spacing and turns the axes to the nearest orthonormal ones.

    Raises:
        GeometryError: not 4x4, not finite, not affine, an axis without length, or sheared.
    """
    affine = np.array(ijk_to_lps, dtype=np.float64)
    if affine.shape != (4, 4) or not np.array_equal(affine[3], (0.0, 0.0, 0.0, 1.0)):
        raise GeometryError("Expected a 4x4 affine with last row 0 0 0 1; check the image's header.")
    # Beyond this a number is no place in a room, and its square may not be one either.
    if not (np.abs(affine) < 1e9).all():
        raise GeometryError("Expected finite axes, got NaN or infinity in the image's affine; export the image again.")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.min() < 1e-9:
        lengths = " x ".join(f"{length:g}" for length in spacing)
        raise GeometryError(f"Expected a spacing above 0 mm on every axis, got {lengths}; export the image again.")
    axes = affine[:3, :3] / spacing
    cosine = np.abs(axes.T @ axes - np.eye(3)).max()
    if cosine <= EXACT_COSINE:
        return affine, None
    off_degrees = float(np.degrees(np.arcsin(min(cosine, 1.0))))
    if cosine > ROUNDING_COSINE:
        raise GeometryError(
            f"Expected image axes at right angles, got axes sheared by {off_degrees:.2f} degrees "
            "(a gantry tilt or a sheared affine); resample the image to a rectangular grid first."
        )
    left, _, right = np.linalg.svd(axes)
    affine[:3, :3] = (left @ right) * spacing
    return affine, f"The image's axes were {off_degrees:.3f} degrees off right angles by rounding and were repaired."


def canonical_of(ijk_to_lps: np.ndarray) -> Canonical:
    """Find the permutation and flips that bring an image's axes closest to Left, Posterior, Superior.

    Args:
        ijk_to_lps: ``(4, 4)``, as ``check_affine`` returned it.
    """
    axes = ijk_to_lps[:3, :3] / np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    # The best of all six assignments: picking per axis could take one axis twice when oblique.
    best = max(permutations(range(3)), key=lambda ijk: sum(abs(axes[lps, ijk[lps]]) for lps in range(3)))
    order = (2, 1, 0)
    return Canonical(
        permutation=tuple(2 - best[lps] for lps in order),  # type: ignore[arg-type]
        flips=tuple(bool(axes[lps, best[lps]] < 0) for lps in order),  # type: ignore[arg-type]
    )


def slices_along(canonical_array: np.ndarray, axis: int) -> np.ndarray:
    """Cut a canonical array ``(K, J, I[, C])`` into pictures ``(N, H, W[, C])`` across an axis. No copy.

    Slices come in order of rising canonical index: to Left (0), to Posterior (1) or to Superior (2).
    """
    if axis == 2:
        return canonical_array
    return np.flip(np.moveaxis(canonical_array, 2 - axis, 0), axis=1)


def volume_from_slices(slices: np.ndarray, axis: int) -> np.ndarray:
    """Put pictures ``(N, H, W[, C])`` back into a canonical array ``(K, J, I[, C])``. No copy."""
    if axis == 2:
        return slices
    return np.moveaxis(np.flip(slices, axis=1), 0, 2 - axis)


def pixel_mm(spacing_canonical: tuple[float, float, float], axis: int) -> tuple[float, float]:
    """Height and width in mm of a picture's pixel, from the canonical spacing along i, j, k."""
    i, j, k = spacing_canonical
    return ((k, j), (k, i), (j, i))[axis]


def input_axis(canonical: Canonical, axis: int) -> int:
    """Axis of the input's array ``(k, j, i)`` that the slices across a patient axis run along."""
    return canonical.permutation[2 - axis]


def input_slice_index(canonical: Canonical, axis: int, n_slices: int) -> np.ndarray:
    """Slice number in the input, 0-based along ``input_axis``, of each slice of a stack: int64 ``(N,)``."""
    numbers = np.arange(n_slices)
    return numbers[::-1].copy() if canonical.flips[2 - axis] else numbers


def choose_axis(volume: Volume, preferred: int) -> int:
    """Slice axis for "auto": across thick slices where there are any, else the model's preferred one.

    A picture, or a volume that is one slice thin, has only one plane worth looking at.
    """
    canonical = canonical_of(volume.ijk_to_lps)
    of_input = {array_axis: 2 - position for position, array_axis in enumerate(canonical.permutation)}
    thin = [array_axis for array_axis, size in enumerate(volume.shape_kji) if size == 1]
    if volume.is_2d or (thin and max(volume.shape_kji) > 1):
        return of_input[0 if volume.is_2d or 0 in thin else thin[0]]
    spacing = canonical.spacing_mm(volume.spacing_mm)
    thickest = int(np.argmax(spacing))
    others = max(length for axis, length in enumerate(spacing) if axis != thickest)
    return thickest if spacing[thickest] >= THICK_SLICE_RATIO * others else preferred
