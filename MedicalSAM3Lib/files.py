"""The front door for files: read a volume or picture, and say early whether a result can be written.

read_volume("ct.nii.gz")                  NIfTI, NRRD, MetaImage
read_volume("study/", series=4)           a DICOM folder; ``list_series`` says what is in it
read_volume("tile.tif", frame=3)          PNG, JPEG, TIFF, a single DICOM file
write_segmentation("out.seg.nrrd", segmentation, volume)
write_segmentation("out.seg.dcm", segmentation, volume)       a DICOM series only; see below for the suffixes
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from MedicalSAM3Lib import dicom, dicom_source, images, itk_files, nifti, outputs, seg_nrrd
from MedicalSAM3Lib.atomic import check_writable
from MedicalSAM3Lib.dicom_stack import without_tilt
from MedicalSAM3Lib.errors import GeometryError, InputError, OutputError
from MedicalSAM3Lib.geometry import check_affine
from MedicalSAM3Lib.guards import check_finite
from MedicalSAM3Lib.structures import Segmentation, Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DICOM_SUFFIX = ".dcm"
SUFFIXES = (*outputs.SUFFIXES, DICOM_SUFFIX)
"""Of results."""

OnNotice = Callable[[str], None]


def read_volume(
    path: str | Path,
    *,
    series: int | str | None = None,
    frame: int | None = None,
    tilted: bool = False,
    on_notice: OnNotice | None = None,
) -> Volume:
    """Read a volume or a picture. Its voxels come as stored: no resampling, no flip, no rotation.

    Args:
        path: A file, or a folder that holds a DICOM series.
        series: Which series of a folder: its number (4), or its place in ``list_series`` ("#1").
        frame: Which frame of a 4D image or page of a TIFF, 0-based.
        tilted: Take a DICOM series with a gantry tilt, too: its slices are seen as they are, and the result can only
            be written as DICOM.
        on_notice: Called with one line for whatever was put right; the log gets it if None.

    Returns:
        The volume: float32, finite, its affine at right angles. NIfTI, NRRD and MetaImage files hold no
        modality; it is "" then.

    Raises:
        InputError: The input cannot be read or used; the message says what to do.
        GeometryError: Its axes are sheared, singular or not finite.
    """
    notice = on_notice or logging.getLogger("MedicalSAM3Lib").warning
    path = Path(path)
    return _checked(_straightened(_read(path, series, frame, notice), tilted, notice), notice)


def read_series(series: dicom.Series, *, frame: int | None = None, on_notice: OnNotice | None = None) -> Volume:
    """Read a series of ``dicom.scan_folder``, whose headers are not read again; as ``read_volume``.

    Raises:
        InputError, GeometryError: It cannot be read or used; the message says what to do.
    """
    notice = on_notice or logging.getLogger("MedicalSAM3Lib").warning
    return _checked(_straightened(dicom.read_series(series, frame, notice), False, notice), notice)


def read_series_files(paths: Sequence[Path], *, on_notice: OnNotice | None = None) -> Volume:
    """Read the files of one DICOM series, wherever they lie; as ``read_volume``."""
    series = dicom.choose_series(dicom.sort_into_series(paths), None)
    if len(series.headers) < len(paths):
        raise InputError(f"Expected {len(paths)} DICOM images, got {len(series.headers)}; copy the series again.")
    return read_series(series, on_notice=on_notice)


def _checked(volume: Volume, notice: OnNotice) -> Volume:
    """A volume that was read, its affine at right angles and its values finite."""
    affine, repaired = check_affine(volume.ijk_to_lps)
    if repaired:
        notice(repaired)
    check_finite(volume.array)
    return replace(volume, ijk_to_lps=affine)


def list_series(folder: str | Path) -> tuple[dicom.SeriesInfo, ...]:
    """What a DICOM folder holds: a line per series, without patient data, in order of number.

    Raises:
        InputError: The folder is missing or holds no DICOM image.
    """
    return tuple(series.info for series in dicom.scan_folder(Path(folder)))


def write_segmentation(path: str | Path, segmentation: Segmentation, volume: Volume, model: str = "") -> None:
    """Write a segmentation on the grid of its volume, in the format that the suffix names.

    ``.seg.nrrd`` is 3D Slicer's; ``.nii`` and ``.nii.gz`` are label maps and ``.png`` is a mask for a
    picture, both with a sidecar ``<stem>.labels.json``. Masks that overlap lie in further layers, and the
    last two keep each further layer in a file ``<stem>_layer2...`` of its own. For a DICOM series, ``.rtstruct.dcm``
    is its contours, ``.labelmap.dcm`` a DICOM Segmentation in the newer form LABELMAP, and any other ``.dcm`` one in
    the form BINARY; they hold the patient's data, as the series does.

    Args:
        path: The file to be.
        segmentation: On the grid of ``volume``.
        volume: What was segmented.
        model: Name of the model, which DICOM objects tell.

    Raises:
        OutputError: It cannot be written there. Nothing half-written is left behind.
    """
    path = Path(path)
    check_output(path, volume=volume)
    for layer in segmentation.layers:
        if layer.shape != volume.shape_kji:
            raise OutputError(f"Expected masks of {volume.shape_kji} voxels, got {layer.shape}; segment it again.")
    name = path.name.lower()
    if name.endswith(".seg.nrrd"):
        seg_nrrd.write_seg_nrrd(path, segmentation)
    elif is_dicom_result(path):
        from MedicalSAM3Lib import dicom_rtstruct, dicom_seg

        write = dicom_rtstruct.write_rtstruct if name.endswith(".rtstruct.dcm") else dicom_seg.write_dicom_seg
        write(path, segmentation, volume, model)
    else:
        outputs.write_label_files(path, segmentation)


def is_dicom_result(path: Path) -> bool:
    """Whether a result of this name is a DICOM object."""
    return path.name.lower().endswith(DICOM_SUFFIX)


def check_output(path: str | Path, suffixes: Sequence[str] = SUFFIXES, *, volume: Volume | None = None) -> None:
    """Check, before anything is computed, that a file can be written there.

    Args:
        path: The file to be.
        suffixes: What it may end in; those of ``write_segmentation`` unless given.
        volume: What is to be segmented, where it is known: a PNG mask is for one picture.

    Raises:
        OutputError: Unknown suffix, no such folder, folder not writable, PNG for a 3D ``volume``, or DICOM where
            ``volume`` was not, or without the packages that it needs.
    """
    path = Path(path)
    check_writable(path, suffixes)
    if is_dicom_result(path):
        dicom_source.require_packages()
        if volume is not None:
            dicom_source.check_source(volume)
    elif volume is not None and volume.is_tilted:
        raise OutputError(
            "Expected a DICOM result (.seg.dcm or .rtstruct.dcm) for a series with a gantry tilt, got "
            f"{path.name}, which cannot hold slices that do not lie straight above each other; rename the output."
        )
    if path.name.lower().endswith(".png") and volume is not None and not volume.is_2d:
        raise OutputError("Expected .seg.nrrd or .nii.gz for a 3D volume, got .png; a PNG mask is for one picture.")


def _straightened(volume: Volume, tilted: bool, notice: OnNotice) -> Volume:
    """A DICOM series without its gantry tilt, where that is wanted; anything else as it is.

    Raises:
        GeometryError: It has one, and that is not wanted.
    """
    if len(volume.dicom) < 2:
        return volume
    affine, degrees = without_tilt(volume.ijk_to_lps)
    if not degrees:
        return volume
    if not tilted:
        raise GeometryError(
            f"Expected slices straight above each other, got a stack sheared by {degrees:.2f} degrees (a gantry tilt); "
            "write the result as DICOM (-o out.seg.dcm or out.rtstruct.dcm), which lies on the slices as they are, or "
            "resample the series to a rectangular grid first."
        )
    notice(f"The slices are tilted by {degrees:.2f} degrees (a gantry tilt): each was looked at as it is.")
    return replace(volume, ijk_to_lps=affine, is_tilted=True)


def _read(path: Path, series: int | str | None, frame: int | None, notice: OnNotice) -> Volume:
    """Find the reader for a path; the affine and the values are checked later, for all alike."""
    if path.is_dir():
        return dicom.read_folder(path, series, frame, notice)
    if not path.is_file():
        raise InputError(f"Expected an image file or a DICOM folder, got a path that does not exist: {path}.")
    if dicom.is_dicom(path):
        return dicom.read_file(path, series, frame, notice)
    if series is not None:
        raise InputError("Expected a folder with series=, got a file; leave series= (--series) out.")
    if path.stat().st_size == 0:
        raise InputError(f"Expected an image, got an empty file: {path.name}; copy or export it again.")
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        volume, has_orientation = nifti.read_nifti(path, frame)
        if not has_orientation:
            notice("The NIfTI header holds no orientation: left and right, front and back may be swapped.")
        return volume
    if name.endswith(ITK_SUFFIXES):
        return itk_files.read_itk(path, frame)
    if name.endswith(images.SUFFIXES):
        return images.read_image(path, frame, notice)
    known = ", ".join((*NIFTI_SUFFIXES, *ITK_SUFFIXES, *images.SUFFIXES))
    raise InputError(f"Expected {known} or DICOM, got {path.name}; convert the image to one of these.")
