"""Write a segmentation as a DICOM RT Structure Set (RTSTRUCT): closed contours on the source's own slices, in mm, LPS.

A region of interest for each found concept, or each of its objects. Holes are joined to their outer contour by a
keyhole (``contours.py``); parts of one slice are contours of their own. Filled again, they are the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.contours import fill, trace
from MedicalSAM3Lib.dicom_source import (
    MAKER,
    SourceSlice,
    coded,
    described,
    private,
    read_sources,
    segments_to_write,
    short,
    written_or_refused,
)
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.segments import Segment
from MedicalSAM3Lib.structures import Segmentation, Volume

ORGAN_CATEGORIES = ("123037004", "85756007")
"""SNOMED CT anatomical structure and tissue: what a treatment planner calls ORGAN. The rest has no type of ours."""

CONTOUR_DATA = 0x30060050

INHERITED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber",
    "ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip
"""Of the patient and the study, copied from the source."""


def write_rtstruct(path: Path, segmentation: Segmentation, volume: Volume, model: str = "") -> None:
    """Write the contours of the segments that were found, read the file again, and keep it only if it says the same.

    Args:
        path: The file to be.
        segmentation: On the grid of ``volume``.
        volume: Read from DICOM; patient and study are copied from its headers into the file.
        model: Name of the weights, for the description.

    Raises:
        OutputError: Nothing was found, the source has no identifiers or place, or the file cannot be written or does
            not hold the masks. Nothing is left behind then.
    """
    segments, sources = segments_to_write(segmentation), read_sources(volume)
    with replacing(path) as (partial,):
        written_or_refused(
            lambda: _make(segmentation, segments, sources, model).save_as(partial, enforce_file_format=True)
        )
        check_rtstruct(partial, segmentation, segments, sources)


def check_rtstruct(
    path: Path, segmentation: Segmentation, segments: Sequence[Segment], sources: Sequence[SourceSlice]
) -> None:
    """Read an RTSTRUCT, fill its contours on the slices they refer to, and compare each voxel.

    Raises:
        OutputError: It cannot be read, or differs.
    """
    import pydicom

    wrong = OutputError("Expected contours that hold the masks as they are, read again they differ; report this.")
    by_place = {source.key: k for k, source in enumerate(sources)}
    try:
        with private():
            rois = list(pydicom.dcmread(path).ROIContourSequence)
            for segment, roi in zip(segments, rois, strict=True):
                polygons: dict[int, list[np.ndarray]] = {}
                for contour in roi.get("ContourSequence", ()):
                    image = contour.ContourImageSequence[0]
                    k = by_place[str(image.ReferencedSOPInstanceUID), image.get("ReferencedFrameNumber")]
                    points = np.array(contour.get_item(CONTOUR_DATA).value.split(b"\\"), float).reshape(-1, 3)
                    flat = sources[k].to_ij(points)
                    if np.abs(sources[k].to_lps(flat) - points).max() > 0.01 * _pixel_mm(sources[k]):
                        raise wrong  # off the plane of its slice
                    polygons.setdefault(k, []).append(flat)
                layer = segmentation.layers[segment.finding.layer]
                for k in range(len(layer)):
                    mask = layer[k] == segment.part.label
                    if (k in polygons) != bool(mask.any()) or not np.array_equal(
                        fill(polygons.get(k, []), mask.shape), mask
                    ):
                        raise wrong
    except Exception:
        raise wrong from None


def _make(segmentation: Segmentation, segments: Sequence[Segment], sources: Sequence[SourceSlice], model: str) -> Any:
    data, first = _frame(sources[0].header), sources[0].header
    data.ReferencedFrameOfReferenceSequence = [_referenced(sources)]
    data.StructureSetROISequence, data.ROIContourSequence, data.RTROIObservationsSequence = [], [], []
    for number, segment in enumerate(segments, start=1):
        category, own_type, modifier = coded(segment.finding.codes, segment.finding.phrase)
        name = short(segment.name)
        layer, label = segmentation.layers[segment.finding.layer], segment.part.label
        data.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=first.FrameOfReferenceUID,
                ROIName=name,
                ROIDescription=described(segment)[:1024],
                ROIGenerationAlgorithm="AUTOMATIC",
                ROIGenerationDescription=f"{MAKER} {__version__} {model}".strip()[:64],
            )
        )
        contours = [
            contour
            for k, source in enumerate(sources)
            for contour in _contours(layer[k] == label, source)
        ]  # fmt: skip
        data.ROIContourSequence.append(
            _item(ReferencedROINumber=number, ROIDisplayColor=list(segment.colour), ContourSequence=contours)
        )
        data.RTROIObservationsSequence.append(
            _item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                ROIObservationLabel=name[:16],
                RTROIIdentificationCodeSequence=[_code_item(own_type, modifier)],
                RTROIInterpretedType="ORGAN" if category.value in ORGAN_CATEGORIES else "",
                ROIInterpreter="",
            )
        )
    return data


def _frame(source: Any) -> Any:
    """The object without its regions: patient, study, series, equipment, and who made it when."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    now, data = datetime.now(), Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"  # phrases come in any script; patient data is written anew in this one
    for name in INHERITED:
        if name in source:
            setattr(data, name, source[name].value)
    values = {
        "SOPClassUID": RTStructureSetStorage,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "SeriesNumber": 2000 + max(0, int(source.get("SeriesNumber") or 0)) % 100_000,
        "InstanceNumber": 1,
        "Modality": "RTSTRUCT",
        "OperatorsName": "",
        "SeriesDescription": f"Contours by {MAKER}",
        "Manufacturer": MAKER,
        "ManufacturerModelName": MAKER,
        "SoftwareVersions": __version__,
        "PositionReferenceIndicator": source.get("PositionReferenceIndicator", ""),
        "InstanceCreationDate": f"{now:%Y%m%d}",
        "InstanceCreationTime": f"{now:%H%M%S}",
        "StructureSetLabel": MAKER,
        "StructureSetDate": f"{now:%Y%m%d}",
        "StructureSetTime": f"{now:%H%M%S}",
        "ApprovalStatus": "UNAPPROVED",
    }
    for name, value in values.items():
        setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit, no value may have over 64 kB
    return data


def _referenced(sources: Sequence[SourceSlice]) -> Any:
    """The frame of reference, and under it study, series and images that the contours were drawn on."""
    header = sources[0].header
    series = _item(
        SeriesInstanceUID=header.SeriesInstanceUID, ContourImageSequence=[_image(source) for source in sources]
    )
    study = _item(
        # The class of a study as retired, which this place of the standard still asks for.
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=header.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=header.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _contours(mask: np.ndarray, source: SourceSlice) -> Iterator[Any]:
    """A contour item for each part of a mask ``(J, I)`` on a slice."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    # A thousandth of a voxel, and at least a micrometre: decimal strings hold 16 characters.
    decimals = max(3, int(np.ceil(3 - np.log10(_pixel_mm(source)))))
    for polygon in trace(mask):
        points = source.to_lps(polygon)
        contour = _item(
            ContourImageSequence=[_image(source)],
            ContourGeometricType="CLOSED_PLANAR",
            NumberOfContourPoints=len(points),
        )
        text = "\\".join(f"{mm:.{decimals}f}" for mm in points.ravel().tolist()).encode("ascii")
        text += b" " * (len(text) % 2)
        # As the file has them: pydicom would check each number on its own, at five times the time of all the rest.
        contour[CONTOUR_DATA] = RawDataElement(Tag(CONTOUR_DATA), "DS", len(text), text, 0, True, True)
        yield contour


def _image(source: SourceSlice) -> Any:
    header = source.header
    item = _item(ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID)
    if source.frame is not None:
        item.ReferencedFrameNumber = source.frame
    return item


def _code_item(own_type: Any, modifier: Any | None) -> Any:
    from highdicom.sr import CodedConcept

    item = CodedConcept.from_code(own_type)
    if modifier is not None:
        item.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(modifier)]
    return item


def _item(**values: Any) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _pixel_mm(source: SourceSlice) -> float:
    return float(np.linalg.norm(source.axes, axis=0).min())
