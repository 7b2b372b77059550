"""Read what the header of a DICOM file says of its slices: one for an image, one for each frame of an enhanced object.

An enhanced object keeps position, orientation, spacing and the kind of image (time, b-value, echo) of each frame in
"functional groups", its own or those that all frames share.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.dicom_stack import SliceHeader

TAGS = [
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SeriesNumber", "Modality", "Rows", "Columns",
    "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices", "NumberOfFrames", "SamplesPerPixel",
    "PhotometricInterpretation", "ImageOrientationPatient", "ImagePositionPatient", "TemporalPositionIdentifier",
    "DiffusionBValue", "EchoTime", "TriggerTime", "AcquisitionNumber", "InstanceNumber",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

NOT_IMAGES = ("SEG", "PR", "SR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE")
"""Modalities of objects that describe images and may lie in the same folder."""

Find = Callable[[str], Any]
"""Value of an attribute by name, or None."""


def read_headers(path: Path) -> list[SliceHeader] | None:
    """Headers of the slices of a file; an empty list for a DICOM object that is no image, None for a damaged one."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
            if "Rows" not in data or "Columns" not in data or data.get("Modality") in NOT_IMAGES:
                return []
            frames = data.get("PerFrameFunctionalGroupsSequence") or ()
            shared = (data.get("SharedFunctionalGroupsSequence") or [None])[0]
            own = [_header(path, data, _in_groups(data, groups, shared), at) for at, groups in enumerate(frames)]
            if own and all(header.position and header.orientation for header in own):
                return own
            return [_header(path, data, data.get, None)]
        # pydicom parses values on first use; a damaged one raises whatever its converter does.
        except Exception:
            return None


def group_value(groups: Any, shared: Any, sequence: str, name: str) -> Any:
    """Value from a functional group of a frame, else of the group that all share, else None."""
    for place in (groups, shared):
        if place is not None and place.get(sequence):
            return place[sequence].value[0].get(name)
    return None


def _in_groups(data: Any, groups: Any, shared: Any) -> Find:
    """Find attributes of a frame by the names that they have at the top of a file of one image."""
    places = {
        "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
        "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
        "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
        "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
        "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
        "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
        "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
        "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
        "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    }

    def find(name: str) -> Any:
        return group_value(groups, shared, *places[name]) if name in places else data.get(name)

    return find


def _header(path: Path, data: Any, find: Find, frame: int | None) -> SliceHeader:
    """Typed header from a pydicom data set; raises ValueError or TypeError on values out of shape."""
    spacing = find("PixelSpacing") or find("ImagerPixelSpacing") or (1.0, 1.0)
    orientation, position = _numbers(find("ImageOrientationPatient"), 6), _numbers(find("ImagePositionPatient"), 3)
    number = data.get("SeriesNumber")
    return SliceHeader(
        path=path,
        sop_uid=str(data.get("SOPInstanceUID", "")),
        series_uid=str(data.get("SeriesInstanceUID", "")),
        number=None if number is None else int(number),
        modality=str(data.get("Modality", "")),
        shape=(int(data.Rows), int(data.Columns)),
        # Readers look the colours of a palette up.
        is_colour=int(data.get("SamplesPerPixel") or 1) == 3
        or data.get("PhotometricInterpretation") == "PALETTE COLOR",
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=abs(float(find("SpacingBetweenSlices") or find("SliceThickness") or 1.0)),
        num_frames=1 if frame is not None else int(data.get("NumberOfFrames") or 1),
        time=int(find("TemporalPositionIdentifier") or 0),
        b_value=float(find("DiffusionBValue") or 0.0),
        echo_ms=round(float(find("EchoTime") or 0.0), 2),
        taken=(
            float(find("TriggerTime") or 0.0),
            int(find("AcquisitionNumber") or 0),
            frame or int(data.get("InstanceNumber") or 0),
        ),
        # Cosines of length 0 are what some converters write for "none".
        orientation=orientation if orientation and any(orientation[:3]) and any(orientation[3:]) else None,
        position=position,
        frame=frame,
        study_uid=str(data.get("StudyInstanceUID", "")),
    )


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Finite numbers, or None where there are none; raises ValueError where they are not ``count``."""
    if not values:
        return None
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"expected {count} finite numbers")
    return numbers
