"""What a folder holds that can be segmented: files that Slicer loads, and DICOM series, which the library reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from MedicalSAM3Lib.errors import InputError

from .task import Progress, ThreadTask, UserError

if TYPE_CHECKING:
    from MedicalSAM3Lib.dicom import Series

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
        raise UserError(withoutDicom()) from error
    return [FolderImage(_seriesName(folder, series), series) for series in found]


def _seriesName(folder: Path, series: Series) -> str:
    place = series.headers[0].path.parent.relative_to(folder).as_posix()
    info = series.info
    text = _("{modality} series {number}, {count} images").format(
        modality=info.modality or _("Image"), number=info.position if info.number is None else info.number,
        count=info.num_images,
    )  # fmt: skip
    return text if place == "." else f"{place}: {text}"


def withoutDicom() -> str:
    """What to do in a Slicer that lacks what reads DICOM here."""
    return _(
        "This Slicer lacks what reads DICOM here (pydicom, SimpleITK). Load the series in the DICOM module and press "
        "Add loaded volumes."
    )
