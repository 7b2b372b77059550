"""Slicer's scene and logics without the application, from the ``slicer-core`` wheel; volumes and what is read back."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

import slicer
import vtk

if "slicer.i18n" not in sys.modules:  # a part of the application that every file of the module imports
    _i18n = types.ModuleType("slicer.i18n")
    _i18n.tr = lambda text: text  # type: ignore[attr-defined]
    sys.modules["slicer.i18n"] = _i18n

LOGICS = {
    "Colors": "ColorLogic",
    "Units": "UnitsLogic",
    "Volumes": "VolumesLogic",
    "Terminologies": "TerminologiesModuleLogic",
    "SubjectHierarchy": "SubjectHierarchyModuleLogic",
    "Segmentations": "SegmentationsModuleLogic",
    "Sequences": "SequencesLogic",
}
"""Name of a logic in the application, and its class; in the order in which they need each other."""


def boot() -> Any:
    """Give ``slicer`` a scene and logics, once a process; what others gave it stays. The scene."""
    if getattr(slicer, "mrmlScene", None) is not None:
        return slicer.mrmlScene
    home = Path(tempfile.mkdtemp(prefix="slicer-home-"))
    colours = home / "share" / "ColorFiles"
    colours.mkdir(parents=True)
    (colours / "GenericColors.txt").write_text("# Color table file\n0 Background 0 0 0 0\n1 tissue 128 174 128 255\n")
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetHomeDirectory(str(home))
    application.SetTemporaryPath(str(home))
    application.SetShareDirectory("share")
    modules = {}
    for name, kind in LOGICS.items():
        logic = getattr(slicer, f"vtkSlicer{kind}")()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name, logic)
        modules[name.lower()] = types.SimpleNamespace(logic=lambda logic=logic: logic)
    application.SetSliceLogics(vtk.vtkCollection())
    application.SetViewLogics(vtk.vtkCollection())
    slicer.modules = types.SimpleNamespace(**modules)
    slicer.kept_alive = application
    return scene


OBLIQUE = np.array([
    [0.8 * 0.7, -0.6 * 0.9, 0.0, 12.5], [0.6 * 0.7, 0.8 * 0.9, 0.0, -33.25], [0.0, 0.0, 2.5, 101.0], [0, 0, 0, 1.0],
])  # fmt: skip
"""IJK to RAS: turned by 37 degrees, spacing 0.7 x 0.9 x 2.5 mm."""

FLIPPED = OBLIQUE @ np.array([[-1, 0, 0, 7.0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""The same, left-handed, the second and third axes exchanged."""


def volume(array: np.ndarray, ijkToRas: np.ndarray = OBLIQUE, name: str = "CT") -> Any:
    """A volume node in the scene: scalar ``(K, J, I)`` or colours ``(K, J, I, 3)``."""
    kind = "vtkMRMLVectorVolumeNode" if array.ndim == 4 else "vtkMRMLScalarVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    slicer.util.updateVolumeFromArray(node, array)
    return node


def written(path: Path, array: np.ndarray, ijkToRas: np.ndarray = OBLIQUE) -> Path:
    """An image file of any format that SimpleITK writes; the path."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim == 4)
    toLps = np.diag([-1.0, -1, 1, 1]) @ ijkToRas
    spacing = np.linalg.norm(toLps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((toLps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(toLps[:3, 3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))
    return path


def transform(matrix: np.ndarray) -> Any:
    """A linear transform node."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def maskOf(node: Any, segmentId: str, shapeKji: tuple[int, int, int]) -> np.ndarray:
    """The mask of a segment on the grid of its reference volume, by Slicer's own resampling."""
    text = node.GetSegmentation().GetConversionParameter("Reference image geometry")
    reference, out = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    assert slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, reference, True)
    assert reference.GetDimensions()[::-1] == shapeKji
    image = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segmentId, image)
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, reference, out, False)
    return vtk.util.numpy_support.vtk_to_numpy(out.GetPointData().GetScalars()).reshape(shapeKji) > 0


def contents(node: Any) -> list[tuple[str, str, tuple[float, ...], str, bytes]]:
    """All of a segmentation, in its order: ID, name, colour, code and the bytes of the mask with its place."""
    found = []
    for segmentId in node.GetSegmentation().GetSegmentIDs():
        segment, image = node.GetSegmentation().GetSegment(segmentId), slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentId, image)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        voxels = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).astype(np.uint8).tobytes()
        mask = repr((image.GetExtent(), slicer.util.arrayFromVTKMatrix(matrix).round(9).tolist())).encode() + voxels
        found.append((segmentId, segment.GetName(), segment.GetColor(), segment.GetTerminology(), mask))
    return found


def tag(node: Any, segmentId: str, name: str) -> str:
    """A tag of a segment, "" where it has none."""
    value = vtk.reference("")
    node.GetSegmentation().GetSegment(segmentId).GetTag(name, value)
    return str(value)


def addSegment(node: Any, name: str, mask: np.ndarray, ijkToRas: np.ndarray = OBLIQUE) -> str:
    """Add a segment as a person would draw it, sharing a layer where it can."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*mask.shape[::-1])
    image.SetImageToWorldMatrix(slicer.util.vtkMatrixFromArray(ijkToRas))
    scalars = vtk.util.numpy_support.numpy_to_vtk(mask.astype(np.uint8).ravel(), deep=True)
    image.GetPointData().SetScalars(scalars)
    segmentId = node.GetSegmentation().AddEmptySegment("", name, (0.1, 0.2, 0.3))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(image, node, segmentId, logic.MODE_REPLACE)
    return str(segmentId)


def nodes() -> list[tuple[str, str]]:
    """(class, name) of every node that a run could add or remove."""
    kinds = ("vtkMRMLSegmentationNode", "vtkMRMLVolumeNode", "vtkMRMLTableNode", "vtkMRMLSequenceNode")
    kinds += ("vtkMRMLSegmentationDisplayNode", "vtkMRMLStorageNode", "vtkMRMLSequenceBrowserNode")
    return [(node.GetClassName(), node.GetName()) for kind in kinds for node in slicer.util.getNodesByClass(kind)]
