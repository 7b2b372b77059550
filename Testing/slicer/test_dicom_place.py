"""Slicer's own reader puts each voxel of a DICOM series where ours does, and so where our results refer to.

``slicer-core`` has no reader of DICOM SEG or RTSTRUCT (they are extensions of Slicer): what is checked is the series
that they refer to, slice by slice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from MedicalSAM3Lib.files import write_segmentation
from MedicalSAM3Lib.structures import Volume
from Testing.lib.dicom_worlds import known_segmentation, masks_of, series_at
from Testing.lib.file_worlds import RAS_TO_LPS, rotation
from Testing.lib.test_dicom_orientations import ORIENTATIONS, seg_masks


def read_by_slicer(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Array ``(K, J, I)`` and IJK to LPS ``(4, 4)`` of the series, as Slicer's storage node reads its files."""
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    scene.AddNode(storage)
    storage.SetFileName(str(volume.dicom[0].path))
    for source in volume.dicom:
        storage.AddFileName(str(source.path))
    storage.SetSingleFile(0)
    assert storage.ReadData(node)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    to_ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    i, j, k = node.GetImageData().GetDimensions()
    array = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).reshape(k, j, i)
    return array, RAS_TO_LPS @ to_ras


AXES = [*ORIENTATIONS[::5], rotation(0), rotation(1)]


@pytest.mark.parametrize("axes", AXES, ids=range(len(AXES)))
def test_voxels_of_a_seg_lie_where_slicer_has_the_series(tmp_path: Path, axes: np.ndarray) -> None:
    volume = series_at(tmp_path / "in", axes)
    array, to_lps = read_by_slicer(volume)
    assert sorted(array.ravel().tolist()) == list(range(array.size))  # each voxel has a value of its own
    segmentation = known_segmentation(volume)
    write_segmentation(tmp_path / "a.seg.dcm", segmentation, volume)
    shared = pydicom.dcmread(tmp_path / "a.seg.dcm").SharedFunctionalGroupsSequence[0]
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(mm) for mm in shared.PixelMeasuresSequence[0].PixelSpacing)
    for found, mask in zip(seg_masks(tmp_path / "a.seg.dcm"), masks_of(segmentation), strict=True):
        lps = np.array(
            [
                np.array(place) / 1000 + i * column_mm * row + j * row_mm * column
                for place, voxels in found.items()
                for i, j in voxels
            ]
        )
        ijk = (lps - to_lps[:3, 3]) @ np.linalg.inv(to_lps[:3, :3]).T
        np.testing.assert_allclose(ijk, ijk.round(), atol=0.01)
        i, j, k = ijk.round().astype(int).T
        assert sorted(array[k, j, i].tolist()) == sorted(volume.array[mask].tolist())
