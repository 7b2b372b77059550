"""Small volumes with a known answer."""

from __future__ import annotations

import numpy as np

from MedicalSAM3Lib.structures import Volume

RADIUS_MM = 22.0


def oblique_affine(
    spacing_mm: tuple[float, float, float] = (2.0, 2.5, 4.0),
    degrees: tuple[float, float, float] = (12.0, -7.0, 20.0),
    order: tuple[int, int, int] = (1, 0, 2),
    signs: tuple[int, int, int] = (-1, 1, 1),
) -> np.ndarray:
    """Voxel to mm: rotated about x, y and z, axes permuted and flipped. The defaults are left- or right-handed
    as ``order`` and ``signs`` say; the origin is somewhere else than 0."""
    a, b, c = np.radians(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (rz @ ry @ rx)[:, list(order)] * signs * spacing_mm
    affine[:3, 3] = (31.0, -57.0, 112.0)
    return affine


def sphere_mask(
    affine: np.ndarray,
    shape_kji: tuple[int, int, int],
    centre: tuple[float, float, float],
    radius_mm: float = RADIUS_MM,
) -> np.ndarray:
    """Voxels within a radius in mm of the point at a fraction (i, j, k) of the grid."""
    k, j, i = np.indices(shape_kji)
    points = np.stack([i, j, k], -1) @ affine[:3, :3].T
    middle = affine[:3, :3] @ (np.array(centre) * (np.array(shape_kji[::-1]) - 1))
    return np.linalg.norm(points - middle, axis=-1) <= radius_mm


def spheres(
    values: dict[float, tuple[float, float, float]],
    affine: np.ndarray | None = None,
    shape_kji: tuple[int, int, int] = (24, 34, 46),
    modality: str = "GREY",
) -> tuple[Volume, dict[float, np.ndarray]]:
    """A volume of 0 with a sphere for each grey value, and the mask of each; later ones lie on top."""
    affine = oblique_affine() if affine is None else affine
    array = np.zeros(shape_kji, np.float32)
    for value, centre in values.items():
        array[sphere_mask(affine, shape_kji, centre)] = value
    masks = {value: array == value for value in values}
    return Volume(array, affine, modality, name="phantom"), masks
