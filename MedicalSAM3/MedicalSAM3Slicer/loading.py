"""An image of a folder becomes a volume node: read in a thread by Slicer's own readers, put into the scene at once.

Readers are no part of the scene, so they may work in a thread, and they let go of Python's lock meanwhile. What they
give goes into the node as it is; the voxels are not copied on the main thread.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import get_vtk_array_type, vtk_to_numpy

from MedicalSAM3Lib.errors import MedicalSAM3Error

from .folder import FolderImage, withoutDicom
from .task import Progress, ThreadTask, UserError
from .volume_input import LPS_OF_RAS

if TYPE_CHECKING:
    from MedicalSAM3Lib.structures import Volume

READER = "vtkITKArchetypeImageSeriesScalarReader"
"""The one that Slicer's loader has for volumes of one value a voxel."""

SAMPLES = 1_000_000
"""So many voxels say how bright an image is; Slicer counts all of them, on the main thread, for seconds."""

SHOWN = (0.1, 99.9)
"""Percentiles of the voxels between which an image is shown from black to white."""


@dataclass(frozen=True)
class ReadImage:
    """What was read of an image.

    Attributes:
        image: A vtkImageData with spacing 1 and origin 0, as volume nodes want it.
        ijkToRas: ``(4, 4)``, voxel index to mm in RAS.
        shown: Values that are shown black and white.
        modality: DICOM code, "" if unknown.
    """

    image: Any
    ijkToRas: np.ndarray
    shown: tuple[float, float]
    modality: str = ""


class LoadTask(ThreadTask):
    """Loads an image of a folder; ``result`` is its node in the scene.

    Attributes:
        note: A sentence where Slicer had to wait for the loading.
    """

    def __init__(self, image: FolderImage) -> None:
        super().__init__(self._read, _explain)
        self._image, self._turns = image, turnsLeftHanded()
        self.note = ""

    def finish(self, value: ReadImage | None) -> Any:
        """Bring it into the scene."""
        from MedicalSAM3Lib.batch_tree import without_suffix

        source, name = self._image.source, self._image.name
        if value is not None:
            return addVolume(without_suffix(source.name) if isinstance(source, Path) else name, value)
        assert isinstance(source, Path)
        self.note = _("Slicer's window waited while this was loaded: only its own loader knows this kind of image.")
        return loadVolume(source)

    def _read(self, task: ThreadTask) -> ReadImage | None:
        source = self._image.source
        if isinstance(source, Path):
            task.report(Progress(_("Loading the image")))
            return readFile(source, self._turns)
        from MedicalSAM3Lib.files import read_series

        task.report(Progress(_("Reading the DICOM series")))
        return imageOfVolume(read_series(source, on_notice=_ignore))


def turnsLeftHanded() -> bool:
    """Whether this Slicer turns round the slices of an image whose axes are a left hand's. On the main thread."""
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    return bool(getattr(storage, "GetForceRightHandedIJKCoordinateSystem", bool)())


def readFile(path: Path, turns: bool) -> ReadImage | None:
    """Read a file as Slicer's loader would, in any thread; None where it holds what only the loader itself knows.

    Args:
        path: Of the file.
        turns: What ``turnsLeftHanded`` says.

    Raises:
        UserError: It is no image.
    """
    kind = _readerClass()
    if kind is None:
        return None
    reader = kind()
    reader.SetArchetype(str(path))
    reader.SetSingleFile(1)
    reader.SetUseOrientationFromFile(1)
    reader.SetUseNativeOriginOn()
    reader.SetOutputScalarTypeToNative()
    reader.SetDesiredCoordinateOrientationToNative()
    reader.UpdateInformation()
    if reader.GetNumberOfComponents() > 1:
        return None
    reader.Update()
    image = vtk.vtkImageData()
    image.ShallowCopy(reader.GetOutput())
    if reader.GetErrorCode() or image.GetPointData().GetScalars() is None:
        raise _notLoaded(path)
    image.SetSpacing(1.0, 1.0, 1.0)
    image.SetOrigin(0.0, 0.0, 0.0)
    ijkToRas = np.linalg.inv(slicer.util.arrayFromVTKMatrix(reader.GetRasToIjkMatrix()))
    if turns and np.linalg.det(ijkToRas) < 0:
        image, ijkToRas = _turned(image, ijkToRas)
    return ReadImage(image, ijkToRas, _shown(vtk_to_numpy(image.GetPointData().GetScalars())))


def imageOfVolume(volume: Volume) -> ReadImage:
    """A volume of the library, whole numbers as such; in any thread."""
    array = volume.array
    limits = np.iinfo(np.uint8 if array.ndim == 4 else np.int16)
    if array.size and limits.min <= array.min() and array.max() <= limits.max:
        whole = array.astype(limits.dtype)
        array = whole if np.array_equal(whole, array) else array
    scalars = vtk.vtkDataArray.CreateDataArray(get_vtk_array_type(array.dtype))
    scalars.SetName("ImageScalars")
    scalars.SetNumberOfComponents(array.shape[3] if array.ndim == 4 else 1)
    scalars.SetNumberOfTuples(int(np.prod(array.shape[:3])))
    vtk_to_numpy(scalars).reshape(array.shape)[...] = array
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    image.GetPointData().SetScalars(scalars)
    return ReadImage(image, LPS_OF_RAS @ volume.ijk_to_lps, _shown(array), volume.modality)


def addVolume(name: str, read: ReadImage) -> Any:
    """A volume node with what was read. On the main thread, which it keeps for some milliseconds."""
    isColour = read.image.GetNumberOfScalarComponents() > 1
    kind = "vtkMRMLVectorVolumeNode" if isColour else "vtkMRMLScalarVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GenerateUniqueName(name))
    node.CreateDefaultDisplayNodes()  # before there are voxels: with them Slicer would count them all
    if not isColour:
        node.GetDisplayNode().SetAutoWindowLevel(False)
        node.GetDisplayNode().SetWindowLevelMinMax(*read.shown)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(read.ijkToRas))
    node.SetAndObserveImageData(read.image)
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(node) if tree else 0
    if item and read.modality:
        tree.SetItemAttribute(item, "DICOM.Modality", read.modality)
    return node


def loadVolume(path: Path) -> Any:
    """Load a file as a volume node by Slicer's own loader, on the main thread.

    Raises:
        UserError: It is no image.
    """
    try:
        return slicer.util.loadVolume(str(path))
    except Exception as error:
        raise _notLoaded(path) from error


def _readerClass() -> Any:
    """Slicer's reader; None where this Slicer keeps it elsewhere."""
    for name in ("slicer", "vtkITK"):
        try:
            found = getattr(importlib.import_module(name), READER, None)
        except ImportError:
            continue
        if found is not None:
            return found
    return None


def _turned(image: Any, ijkToRas: np.ndarray) -> tuple[Any, np.ndarray]:
    """The slices in the other order, each where it was in the patient."""
    flip = vtk.vtkImageFlip()
    flip.SetInputData(image)
    flip.SetFilteredAxis(2)
    flip.Update()
    other = np.diag([1.0, 1.0, -1.0, 1.0])
    other[2, 3] = image.GetDimensions()[2] - 1
    return flip.GetOutput(), ijkToRas @ other


def _shown(array: np.ndarray) -> tuple[float, float]:
    flat = array.reshape(-1)
    some = flat[:: max(1, flat.size // SAMPLES)]
    some = some[np.isfinite(some)]
    if not some.size:
        return 0.0, 1.0
    low, high = np.percentile(some, SHOWN)
    return float(low), float(max(high, low + 1.0))


def _notLoaded(path: Path) -> UserError:
    return UserError(_("'{file}' could not be loaded as a volume.").format(file=path.name))


def _explain(error: BaseException) -> str:
    if isinstance(error, (UserError, MedicalSAM3Error)):
        return str(error)
    if isinstance(error, ImportError):
        return withoutDicom()
    if isinstance(error, MemoryError):
        return _("There is not enough memory in this computer; close other volumes or programs and try again.")
    return _("The image could not be read ({kind}).").format(kind=type(error).__name__)


def _ignore(notice: str) -> None:
    """What was put right while it was read."""
