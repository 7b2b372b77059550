"""What a folder holds that can be segmented: files that Slicer loads, and DICOM series, which the library reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error

from .task import Progress, ThreadTask, UserError
from .volume_input import LPS_OF_RAS

if TYPE_CHECKING:
    from MedicalSAM3Lib.dicom import Series
    from MedicalSAM3Lib.structures import Volume

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
RESULTS = (".seg.nrrd", ".seg.nhdr")
"""Segmentations that people keep beside their images."""


@dataclass(frozen=True)
class FolderImage:
    """An image of a folder, not loaded yet.

    Attributes:
        name: Where it lies in the folder, and of a DICOM series its number; what a header says of a patient is not
            in it.
        source: A file, or the headers of a series.
    """

    name: str
    source: Path | Series


def lookThrough(task: ThreadTask, folder: Path) -> list[FolderImage]:
    """The images of a folder and of those below it, in order of name. In the thread of a task.

    Raises:
        UserError: There is none.
        TaskCancelled: Meanwhile.
    """
    task.report(Progress(_("Looking through the folder")))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    images = [FolderImage(path.relative_to(folder).as_posix(), path) for path in files if _isImage(path)]
    images += _seriesOf(folder)
    if not images:
        raise UserError(_("The folder holds no image that can be read (NIfTI, NRRD, MetaImage, DICOM)."))
    return images


class SeriesTask(ThreadTask):
    """Reads a DICOM series in its thread, by the reader of the engine; ``result`` is its node in the scene."""

    def __init__(self, image: FolderImage) -> None:
        super().__init__(self._read, _explain)
        self._image = image

    def finish(self, value: Volume) -> Any:
        """Bring the volume into the scene."""
        return addVolume(self._image.name, value)

    def _read(self, task: ThreadTask) -> Volume:
        from MedicalSAM3Lib.files import read_series

        task.report(Progress(_("Reading the DICOM series")))
        assert not isinstance(self._image.source, Path)
        return read_series(self._image.source, on_notice=_ignore)


def addVolume(name: str, volume: Volume) -> Any:
    """A volume node with the voxels of a volume of the library, where they lie in the patient, and its modality."""
    array = volume.array
    kind = "vtkMRMLVectorVolumeNode" if array.ndim == 4 else "vtkMRMLScalarVolumeNode"
    whole = np.uint8 if array.ndim == 4 else np.int16
    limits = np.iinfo(whole)
    if array.size and limits.min <= array.min() and array.max() <= limits.max:
        exact = array.astype(whole)
        array = exact if np.array_equal(exact, array) else array
    node = slicer.mrmlScene.AddNewNodeByClass(kind, slicer.mrmlScene.GenerateUniqueName(name))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(LPS_OF_RAS @ volume.ijk_to_lps))
    slicer.util.updateVolumeFromArray(node, array)
    node.CreateDefaultDisplayNodes()
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(node) if tree else 0
    if item and volume.modality:
        tree.SetItemAttribute(item, "DICOM.Modality", volume.modality)
    return node


def _isImage(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(RESULTS) and not name.startswith(".")


def _seriesOf(folder: Path) -> list[FolderImage]:
    """The DICOM series of a folder; none where it holds none.

    Raises:
        UserError: There are some, and what reads them is not there.
    """
    from MedicalSAM3Lib.dicom import scan_folder

    try:
        found = scan_folder(folder)
    except InputError:  # no DICOM image at all
        return []
    except ImportError as error:
        raise UserError(_withoutDicom()) from error
    return [FolderImage(_seriesName(folder, series), series) for series in found]


def _seriesName(folder: Path, series: Series) -> str:
    place = series.headers[0].path.parent.relative_to(folder).as_posix()
    info = series.info
    text = _("{modality} series {number}, {count} images").format(
        modality=info.modality or _("Image"), number=info.position if info.number is None else info.number,
        count=info.num_images,
    )  # fmt: skip
    return text if place == "." else f"{place}: {text}"


def _explain(error: BaseException) -> str:
    if isinstance(error, (UserError, MedicalSAM3Error)):
        return str(error)
    if isinstance(error, ImportError):
        return _withoutDicom()
    if isinstance(error, MemoryError):
        return _("There is not enough memory in this computer; close other volumes or programs and try again.")
    return _("The DICOM series could not be read ({kind}).").format(kind=type(error).__name__)


def _withoutDicom() -> str:
    return _(
        "This Slicer lacks what reads DICOM here (pydicom, SimpleITK). Load the series in the DICOM module and press "
        "Add loaded volumes."
    )


def _ignore(notice: str) -> None:
    """What was put right while it was read."""
