"""Three slice views and a 3D view of a volume and its segments, drawn with numpy and VTK: for pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

WINDOW_HU = (-160.0, 240.0)
Rgb = np.ndarray
BARS = {"axial": (230, 60, 60), "sagittal": (230, 200, 60), "coronal": (70, 190, 90)}
"""Colours of Slicer's slice views."""


class Turn:
    """From the axes of a volume to those of the patient, by order and flips alone.

    Attributes:
        spacing_mm: Of the axes superior, anterior, right.
    """

    def __init__(self, node: Any) -> None:
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        affine = np.array([[matrix.GetElement(row, column) for column in range(3)] for row in range(3)])
        axes = [int(np.argmax(np.abs(affine[row]))) for row in (2, 1, 0)]
        self._order = [2 - axis for axis in axes]
        self._flips = tuple(
            slice(None, None, -1 if affine[row, axis] < 0 else 1) for row, axis in zip((2, 1, 0), axes, strict=True)
        )
        self.spacing_mm = [float(np.linalg.norm(affine[:, axis])) for axis in axes]

    def __call__(self, array_kji: np.ndarray) -> np.ndarray:
        """The array as ``(S, A, R)``: running to superior, anterior, right."""
        return np.transpose(array_kji, self._order)[self._flips]


def slice_picture(
    name: str, image: np.ndarray, masks: list[tuple[np.ndarray, tuple[int, ...]]],
    spacing: tuple[float, float], size: tuple[int, int],
) -> Rgb:  # fmt: skip
    """One slice as ``(height, width, 3)`` uint8: the image, each mask tinted and outlined, a bar on top."""
    width, height = size
    low, high = WINDOW_HU
    grey = np.clip((image - low) / (high - low), 0, 1) * 255
    scale = 0.97 * min((height - 6) / (image.shape[0] * spacing[0]), width / (image.shape[1] * spacing[1]))
    rows = sampled(image.shape[0], spacing[0] * scale, height - 6)
    columns = sampled(image.shape[1], spacing[1] * scale, width)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
    picture = np.repeat(np.where(inside, bilinear(grey, rows, columns), 0.0)[:, :, None], 3, axis=2)
    for mask, colour in masks:
        shown = (bilinear(mask.astype(np.float32), rows, columns) > 0.5) & inside
        edge = shown & ~(np.roll(shown, 1, 0) & np.roll(shown, -1, 0) & np.roll(shown, 1, 1) & np.roll(shown, -1, 1))
        picture[shown] = 0.62 * picture[shown] + 0.38 * np.array(colour)
        picture[edge] = colour
    bar = np.full((6, width, 3), BARS[name], dtype=np.float64)
    return np.concatenate([bar, picture]).astype(np.uint8)


def sampled(count: int, pitch: float, size: int) -> np.ndarray:
    """Places along an axis, in voxels, of ``size`` pixels that show it in their middle; -1 outside."""
    places = (np.arange(size) - (size - count * pitch) / 2) / pitch - 0.5
    return np.where((places >= -0.5) & (places <= count - 0.5), np.clip(places, 0, count - 1), -1)


def bilinear(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values between voxels."""
    rows, columns = np.maximum(rows, 0), np.maximum(columns, 0)
    r0, c0 = rows.astype(int), columns.astype(int)
    r1, c1 = np.minimum(r0 + 1, image.shape[0] - 1), np.minimum(c0 + 1, image.shape[1] - 1)
    fr, fc = (rows - r0)[:, None], (columns - c0)[None, :]
    top = image[np.ix_(r0, c0)] * (1 - fc) + image[np.ix_(r0, c1)] * fc
    bottom = image[np.ix_(r1, c0)] * (1 - fc) + image[np.ix_(r1, c1)] * fc
    return top * (1 - fr) + bottom * fr


def slice_pictures(volume: Any, segmentation: Any, size: tuple[int, int]) -> dict[str, Rgb]:
    """Axial, sagittal and coronal slice through the largest segment, the patient's right on the left."""
    turn, inner = Turn(volume), segmentation.GetSegmentation()
    voxels, (ds, da, dr) = turn(slicer.util.arrayFromVolume(volume)), turn.spacing_mm
    masks = []
    for segment_id in inner.GetSegmentIDs():
        mask = turn(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume)) > 0
        masks.append((mask, tuple(round(255 * part) for part in inner.GetSegment(segment_id).GetColor())))
    largest = max((mask for mask, _ in masks), key=lambda mask: int(mask.sum()))
    s, a, r = (int(np.median(places)) for places in np.nonzero(largest))
    cuts = {
        "axial": (lambda x: x[s, ::-1, ::-1], (da, dr)),
        "sagittal": (lambda x: x[::-1, ::-1, r], (ds, da)),
        "coronal": (lambda x: x[::-1, a, ::-1], (ds, dr)),
    }
    return {
        name: slice_picture(name, cut(voxels), [(cut(mask), colour) for mask, colour in masks], pitch, size)
        for name, (cut, pitch) in cuts.items()
    }


def surface_picture(segmentation: Any, size: tuple[int, int]) -> Rgb:
    """The closed surfaces of all segments, seen from the front, ``(height, width, 3)`` uint8."""
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(0.76, 0.76, 0.91)
    renderer.SetBackground2(0.46, 0.47, 0.75)
    renderer.GradientBackgroundOn()
    inner = segmentation.GetSegmentation()
    for segment_id in inner.GetSegmentIDs():
        surface = vtk.vtkPolyData()
        segmentation.GetClosedSurfaceRepresentation(segment_id, surface)
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputData(surface)
        mapper.ScalarVisibilityOff()
        actor = vtk.vtkActor()
        actor.SetMapper(mapper)
        actor.GetProperty().SetColor(inner.GetSegment(segment_id).GetColor())
        renderer.AddActor(actor)
    camera = renderer.GetActiveCamera()
    camera.SetPosition(0.25, 1, 0.45)
    camera.SetViewUp(0, 0, 1)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(8)
    window.SetSize(*size)
    window.AddRenderer(renderer)
    renderer.ResetCamera()
    camera.Zoom(1.1)
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    width, height, _depth = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()
