"""Closed surfaces of the segments in patient coordinates: STL, OBJ, VTP and GLB (extra ``surface``: VTK, trimesh).

Each connected part of a mask is a closed surface whose triangles face outward, also where it reaches the border of the
volume. It is smoothed as much as leaves its volume alone, and what that still took is given back evenly along the
normals, so that a surface holds what the report says in millilitres.

    .stl  binary, mm in LPS ("SPACE=LPS" in the header, as 3D Slicer reads and writes it); one file a segment:
          an STL knows neither names nor colours, and 3D Slicer exports segments so, too
    .obj  mm in LPS (the same words in a comment), a named object a segment; colours in ``<stem>.mtl``
    .vtp  mm in LPS (field "SPACE"); of each triangle "SegmentId" and "Color", names in the field "SegmentName"
    .glb  metres, +X to the patient's left, +Y up to the head, +Z to the front, as glTF demands; named and coloured
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from MedicalSAM3Lib.atomic import check_writable
from MedicalSAM3Lib.errors import OutputError, SettingsError
from MedicalSAM3Lib.segments import Rgb, segments_of
from MedicalSAM3Lib.separate import connected_parts
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume

SUFFIXES = (".stl", ".obj", ".vtp", ".glb")

SMOOTHINGS = ((40, 0.01), (30, 0.03), (20, 0.1))
"""Iterations and pass band of the windowed sinc filter, the strongest (that of 3D Slicer) first."""

MOST_CHANGE = 0.02
"""A smoothing that changes the volume by more than this part is too strong: it eats what is thin."""

CLOSE_ENOUGH = 1e-4
MOST_STEPS = 20


@dataclass(frozen=True, slots=True)
class Surface:
    """The surface of a segment.

    Attributes:
        name: Of the segment.
        colour: RGB, 0..255.
        points_lps_mm: float64 ``(V, 3)``.
        triangles: int64 ``(T, 3)``, corners in counter-clockwise order as seen from outside.
    """

    name: str
    colour: Rgb
    points_lps_mm: np.ndarray
    triangles: np.ndarray


def check_surface(path: Path, volume: Volume | None = None) -> None:
    """Check, before anything is computed, that a surface can be made and written there.

    Args:
        path: The file to be.
        volume: What is to be segmented, where it is known.

    Raises:
        OutputError: Unknown suffix, no such folder, folder not writable, or the volume is a picture.
        SettingsError: VTK or trimesh is not installed.
    """
    check_writable(path, SUFFIXES)
    if volume is not None and volume.is_2d:
        raise OutputError("Expected a volume for a surface, got a picture, which has none; leave --surface out.")
    try:
        import trimesh  # noqa: F401
        from vtkmodules import vtkFiltersCore  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"Expected the packages for surfaces, '{error.name}' is missing; pip install 'medical-sam3[surface]'."
        ) from error


def check_found(path: Path, findings: Sequence[Finding]) -> None:
    """Check that there is something of which to make a surface.

    Raises:
        OutputError: Nothing was found.
    """
    if not any(finding.state == "found" for finding in findings):
        raise OutputError(f"Expected a found concept for a surface, got none: {path.name} was not written.")


def surfaces_of(segmentation: Segmentation) -> list[Surface]:
    """A surface for each segment, in the order of ``segments.segments_of``."""
    boxes = [ndimage.find_objects(layer) for layer in segmentation.layers]
    surfaces = []
    for segment in segments_of(segmentation.findings):
        label, layer = segment.part.label, segment.finding.layer
        box = boxes[layer][label - 1]
        corner_kji = [side.start for side in box]
        points, triangles = surface_of(segmentation.layers[layer][box] == label, corner_kji, segmentation.ijk_to_lps)
        surfaces.append(Surface(segment.name, segment.colour, points, triangles))
    return surfaces


def surface_of(
    mask_kji: np.ndarray, corner_kji: Sequence[int], ijk_to_lps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Points in LPS mm ``(V, 3)`` and triangles ``(T, 3)`` of a mask whose first voxel is a given one of a grid."""
    parts, _ = connected_parts(mask_kji)
    all_points, all_triangles, count = [], [], 0
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[box] == number
        start_kji = [side.start + corner for side, corner in zip(box, corner_kji, strict=True)]
        points, triangles = _of_part(part, start_kji, ijk_to_lps)
        all_points.append(points)
        all_triangles.append(triangles + count)
        count += len(points)
    return np.concatenate(all_points), np.concatenate(all_triangles)


def write_surface(path: Path, segmentation: Segmentation) -> list[Path]:
    """Write the surfaces of all segments, in the format that the suffix names.

    Returns:
        The files that were written: one, for STL one for each segment, for OBJ also its colours.

    Raises:
        OutputError: No concept was found, so that there is no surface; or a file cannot be written. Nothing is left
            half-written.
        SettingsError: VTK or trimesh is not installed.
    """
    check_surface(path)
    check_found(path, segmentation.findings)
    from MedicalSAM3Lib import surface_files

    surfaces = surfaces_of(segmentation)
    return surface_files.write(path, surfaces, is_alone=len(segmentation.findings) == len(surfaces) == 1)


def _of_part(mask: np.ndarray, corner_kji: Sequence[int], ijk_to_lps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Surface of a connected part: points in LPS mm and triangles."""
    raw = _extracted(mask)
    points, triangles = _arrays(raw)
    enclosed = _volume(points, triangles)
    for iterations, pass_band in SMOOTHINGS:
        smooth, _ = _arrays(_smoothed(raw, iterations, pass_band))
        if abs(_volume(smooth, triangles) / enclosed - 1) <= MOST_CHANGE:
            points = smooth
            break
    points = (points + corner_kji[::-1]) @ ijk_to_lps[:3, :3].T + ijk_to_lps[:3, 3]
    determinant = np.linalg.det(ijk_to_lps[:3, :3])
    if determinant < 0:  # a mirror turns what faced outward inward
        triangles = triangles[:, ::-1]
    return _inflated(points, triangles, np.count_nonzero(mask) * abs(determinant)), triangles


def _extracted(mask: np.ndarray) -> Any:
    """Where a mask ends, half way between voxel centres, as vtkPolyData in (i, j, k)."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonDataModel import vtkImageData
    from vtkmodules.vtkFiltersCore import vtkFlyingEdges3D

    padded = np.pad(mask, 1).astype(np.uint8)  # by one voxel of nothing, so that the surface is closed
    image = vtkImageData()
    image.SetDimensions(padded.shape[::-1])
    image.SetOrigin(-1, -1, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
    edges = vtkFlyingEdges3D()
    edges.SetInputData(image)
    edges.SetValue(0, 0.5)
    edges.ComputeNormalsOff()
    edges.ComputeScalarsOff()
    edges.Update()
    return edges.GetOutput()


def _smoothed(surface: Any, iterations: int, pass_band: float) -> Any:
    """The same triangles without the steps between voxels. The filter knows no lengths: in (i, j, k) it is as in mm."""
    from vtkmodules.vtkFiltersCore import vtkWindowedSincPolyDataFilter

    sinc = vtkWindowedSincPolyDataFilter()
    sinc.SetInputData(surface)
    sinc.SetNumberOfIterations(iterations)
    sinc.SetPassBand(pass_band)
    sinc.FeatureEdgeSmoothingOff()
    sinc.BoundarySmoothingOff()
    sinc.NonManifoldSmoothingOn()
    sinc.NormalizeCoordinatesOn()
    sinc.Update()
    return sinc.GetOutput()


def _arrays(surface: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points, float64, and triangles of vtkPolyData that has nothing else, as copies."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    triangles = vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).astype(np.int64).reshape(-1, 3)
    return points, triangles


def _volume(points: np.ndarray, triangles: np.ndarray) -> float:
    """Signed volume of a closed surface, in the cube of the points' unit; positive if the triangles face outward."""
    a, b, c = (points - points[0])[triangles].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def _inflated(points: np.ndarray, triangles: np.ndarray, volume: float) -> np.ndarray:
    """Points moved evenly along their normals until the surface encloses a volume (Newton's steps)."""
    for _ in range(MOST_STEPS):
        missing = volume - _volume(points, triangles)
        if abs(missing) <= CLOSE_ENOUGH * volume:
            break
        corners = points[triangles]
        areas = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
        around = np.stack(
            [np.bincount(triangles.ravel(), np.repeat(areas[:, axis], 3), len(points)) for axis in range(3)], axis=1
        )
        lengths = np.linalg.norm(around, axis=1, keepdims=True)
        # A point that moves by d along its normal adds d times a third of the area around it.
        points = points + missing / (lengths.sum() / 3) * around / np.maximum(lengths, np.finfo(float).tiny)
    return points
