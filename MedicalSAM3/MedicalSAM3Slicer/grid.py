"""Masks on the grid of a volume, and the label maps of a segmentation: from one to the other, to the voxel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from .task import UserError
from .volume_input import ijkToRas, toWorld

LABELMAP = "Binary labelmap"
GEOMETRY = "Reference image geometry"
FEW = 8
"""Up to so many labels it is quicker to look for each of them."""

SAME_AXES, SAME_PLACE = 1e-4, 1e-2
"""Up to here, in voxels, two grids are one: float32 headers hold no more."""

Box = tuple[int, int, int, int, int, int]
"""Half-open ``(k0, k1, j0, j1, i0, i1)`` in voxels of the volume."""


def ijkToSegmentation(volume: Any, segmentation: Any) -> np.ndarray:
    """``(4, 4)``, voxel index of a volume to mm in the frame of a segmentation node, both with their transforms."""
    if volume.GetParentTransformNode() is segmentation.GetParentTransformNode():
        return ijkToRas(volume)
    return np.linalg.inv(toWorld(segmentation)) @ toWorld(volume) @ ijkToRas(volume)


def checkGrid(segmentation: Any, volume: Any) -> None:
    """Check that a segmentation node takes masks on the grid of a volume.

    Raises:
        UserError: It holds segments of another grid, or surfaces instead of masks.
    """
    inner = segmentation.GetSegmentation()
    if inner.GetNumberOfSegments() == 0:
        return
    if inner.GetSourceRepresentationName() != LABELMAP:
        raise UserError(
            _("'{name}' holds surfaces instead of masks; choose another segmentation, or none for a new one.").format(
                name=segmentation.GetName()
            )
        )
    geometry = _gridOf(inner)
    if geometry is not None and offset(geometry, ijkToSegmentation(volume, segmentation)) is None:
        raise UserError(
            _(
                "'{name}' belongs to another volume: its voxels are not those of '{volume}'. Choose another "
                "segmentation, or none for a new one."
            ).format(name=segmentation.GetName(), volume=volume.GetName())
        )


def imageOf(crop: np.ndarray, box: Box, ijkToFrame: np.ndarray) -> Any:
    """A vtkOrientedImageData with a boolean mask of a box; 1 inside."""
    k0, k1, j0, j1, i0, i1 = box
    image = slicer.vtkOrientedImageData()
    image.SetExtent(i0, i1 - 1, j0, j1 - 1, k0, k1 - 1)
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToFrame))
    scalars = vtk.vtkUnsignedCharArray()
    scalars.SetNumberOfValues(crop.size)
    vtk_to_numpy(scalars).reshape(crop.shape)[...] = crop  # numpy_to_vtk takes several times as long
    image.GetPointData().SetScalars(scalars)
    return image


def trim(crop: np.ndarray, box: Box) -> tuple[np.ndarray, Box] | None:
    """A mask without its empty margins, and its box; None where it is empty."""
    if not crop.any():
        return None
    ends: list[int] = []
    for axis in range(3):
        places = np.flatnonzero(crop.any(axis=tuple({0, 1, 2} - {axis})))
        ends += [int(places[0]), int(places[-1]) + 1]
    k0, k1, j0, j1, i0, i1 = ends
    k, j, i = box[::2]
    return crop[k0:k1, j0:j1, i0:i1], (k + k0, k + k1, j + j0, j + j1, i + i0, i + i1)


def occupied(segmentation: Any, segmentIds: Iterable[str], box: Box, ijkToFrame: np.ndarray) -> np.ndarray:
    """Which voxels of a box belong to one of some segments: boolean, of the box's shape."""
    found = np.zeros(tuple(high - low for low, high in zip(box[::2], box[1::2], strict=True)), dtype=bool)
    layers: dict[Any, list[int]] = {}
    for segmentId in segmentIds:
        segment = segmentation.GetSegmentation().GetSegment(segmentId)
        layer = segment.GetRepresentation(LABELMAP)
        if layer is not None and not layer.IsEmpty():
            layers.setdefault(layer, []).append(segment.GetLabelValue())
    for layer, labels in layers.items():
        shift = offset(matrixOf(layer), ijkToFrame)
        if shift is None:
            found |= _isOneOf(_resampled(layer, box, ijkToFrame), labels)
        else:
            _mark(found, layer, labels, box, shift)
    return found


def offset(gridToFrame: np.ndarray, ijkToFrame: np.ndarray) -> tuple[int, int, int] | None:
    """What to add to a volume's index (i, j, k) for that of another grid; None where their voxels are not the same."""
    relative = np.linalg.inv(gridToFrame) @ ijkToFrame
    shift = np.rint(relative[:3, 3])
    if np.abs(relative[:3, :3] - np.eye(3)).max() > SAME_AXES or np.abs(relative[:3, 3] - shift).max() > SAME_PLACE:
        return None
    return int(shift[0]), int(shift[1]), int(shift[2])


def matrixOf(image: Any) -> np.ndarray:
    """``(4, 4)``, voxel index of a vtkOrientedImageData to mm."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def arrayOf(image: Any) -> np.ndarray:
    """View of the voxels ``(K, J, I)`` of a vtkOrientedImageData, from the start of its extent on."""
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _mark(found: np.ndarray, layer: Any, labels: list[int], box: Box, shift: tuple[int, int, int]) -> None:
    """Set what a layer on the same grid has in a box, where both overlap."""
    extent = layer.GetExtent()
    here, there = [], []
    for axis in range(3):  # k, j, i
        start = box[2 * axis] + shift[2 - axis]
        first, last = extent[2 * (2 - axis)], extent[2 * (2 - axis) + 1]
        low, high = max(start, first), min(box[2 * axis + 1] + shift[2 - axis], last + 1)
        if low >= high:
            return
        here.append(slice(low - start, high - start))
        there.append(slice(low - first, high - first))
    found[tuple(here)] |= _isOneOf(arrayOf(layer)[tuple(there)], labels)


def _isOneOf(values: np.ndarray, labels: list[int]) -> np.ndarray:
    """``np.isin`` for the usual case: few labels, many voxels."""
    if len(labels) > FEW:
        return np.isin(values, labels)
    found = values == labels[0]
    for label in labels[1:]:
        found |= values == label
    return found


def _resampled(layer: Any, box: Box, ijkToFrame: np.ndarray) -> np.ndarray:
    shape = tuple(high - low for low, high in zip(box[::2], box[1::2], strict=True))
    reference, out = imageOf(np.zeros(shape, dtype=bool), box, ijkToFrame), slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        layer, reference, out, False, False
    )
    return arrayOf(out)


def _gridOf(inner: Any) -> np.ndarray | None:
    """``(4, 4)`` of the reference geometry of a vtkSegmentation, else of its first label map."""
    image = slicer.vtkOrientedImageData()
    text = inner.GetConversionParameter(GEOMETRY)
    if text and slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        return matrixOf(image)
    for segmentId in inner.GetSegmentIDs():
        image = inner.GetSegment(segmentId).GetRepresentation(LABELMAP)
        if image is not None and not image.IsEmpty():
            return matrixOf(image)
    return None
