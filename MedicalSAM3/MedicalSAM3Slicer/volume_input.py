"""A volume node as the engine gets it: its voxels, and where they lie in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from MedicalSAM3Lib.errors import GeometryError
from MedicalSAM3Lib.geometry import check_affine

from .task import UserError

LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
CROSS_SECTIONAL = ("CT", "MR", "PT", "NM")
"""Of these a single slice is a slice, of all others a picture."""


@dataclass(frozen=True)
class VolumeInput:
    """What goes to the engine of one volume, or of one frame of a sequence.

    Attributes:
        view: Its voxels where Slicer has them: ``(K, J, I)``, or ``(K, J, I, 3)`` for colours. They outlive the node.
        ijkToLps: ``(4, 4)``, voxel index to mm in LPS, with all transforms of the volume applied.
        modality: DICOM code, "" if unknown.
        isPicture: It is one picture instead of a volume.
        key: Equal for equal content: what was sent already is not sent again.
        image: The vtkImageData of the view.
    """

    view: np.ndarray
    ijkToLps: np.ndarray
    modality: str
    isPicture: bool
    key: tuple[Any, ...]
    image: Any

    @property
    def shapeKji(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        k, j, i = self.view.shape[:3]
        return k, j, i

    def copy(self) -> np.ndarray:
        """The voxels as they were when the run began. In the thread of a task: a large volume takes its time.

        Raises:
            UserError: They were changed since.
        """
        array = np.array(self.view)
        if self.key[:2] != timesOf(self.image):
            raise UserError(_("The volume was changed while it was being sent; nothing was added. Try again."))
        return array


def whyNotVolume(node: Any) -> str:
    """Why a node cannot be segmented, in a sentence; "" where it can. Looks at no voxel."""
    if node is None or not node.IsA("vtkMRMLScalarVolumeNode"):
        return _("Choose a volume first.")
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("Choose an image; '{name}' is a label map.").format(name=node.GetName())
    image = node.GetImageData()
    if image is None or min(image.GetDimensions()) < 1 or image.GetPointData().GetScalars() is None:
        return _("Choose a volume with voxels; '{name}' is empty.").format(name=node.GetName())
    if image.GetNumberOfScalarComponents() not in (1, 3, 4):
        return _("Choose a volume with one value or one colour a voxel; '{name}' has {count} values.").format(
            name=node.GetName(), count=image.GetNumberOfScalarComponents()
        )
    return ""


def readVolume(node: Any, modality: str = "", transformed: Any = None) -> VolumeInput:
    """What goes to the engine of a volume.

    Args:
        node: A vtkMRMLScalarVolumeNode or vtkMRMLVectorVolumeNode.
        modality: DICOM code; "" = what the scene knows.
        transformed: Node whose parent transforms count, for a frame of a sequence; None = the node itself.

    Raises:
        UserError: It cannot be segmented.
    """
    if reason := whyNotVolume(node):
        raise UserError(reason)
    modality = modality or modalityOf(transformed or node)
    ijkToWorld = toWorld(transformed or node) @ ijkToRas(node)
    try:
        ijkToLps, _notice = check_affine(LPS_OF_RAS @ ijkToWorld)
    except GeometryError as error:
        raise UserError(str(error)) from error
    view = slicer.util.arrayFromVolume(node)
    if isColour(node):
        view = view[..., :3]
        if view.dtype != np.uint8 and (view.min() < 0 or view.max() > 255):
            message = _("Choose a volume with colours from 0 to 255; those of '{name}' go beyond.")
            raise UserError(message.format(name=node.GetName()))
    isPicture = view.shape[0] == 1 and (isColour(node) or modality not in CROSS_SECTIONAL)
    key = (*timesOf(node.GetImageData()), ijkToLps.tobytes(), modality, isPicture)
    return VolumeInput(view, ijkToLps, modality, isPicture, key, node.GetImageData())


def timesOf(image: Any) -> tuple[int, int]:
    """When an image was last changed. The counter runs over all of Slicer: no other image has the same."""
    return image.GetMTime(), image.GetPointData().GetScalars().GetMTime()


def isColour(node: Any) -> bool:
    """Whether its voxels are colours."""
    return node.GetImageData().GetNumberOfScalarComponents() >= 3


def ijkToRas(node: Any) -> np.ndarray:
    """``(4, 4)``, voxel index of a volume to mm in RAS, without its transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def toWorld(node: Any) -> np.ndarray:
    """``(4, 4)``, what all parent transforms of a node do together.

    Raises:
        UserError: One of them bends space.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise UserError(
            _(
                "'{name}' lies under a transform that bends it; harden the transform first (Transforms module), or "
                "take the volume out of it."
            ).format(name=node.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def modalityOf(node: Any) -> str:
    """The DICOM code that the subject hierarchy holds for a volume, "" where it holds none."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(node) if tree else 0
    code = tree.GetItemAttribute(item, "DICOM.Modality") if item else ""
    return code if code.isascii() and code.isalpha() and code.isupper() and len(code) <= 16 else ""
