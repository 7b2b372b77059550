"""Write a segmentation as a DICOM Segmentation object (SEG), through highdicom.

A segment for each found concept, or each of its objects, with its codes, colour and the algorithm's name; a frame for
each slice that has voxels of it, which refers to the source instance it lies on. BINARY unless the name ends in
``.labelmap.dcm``: that is a newer form with all segments in one map, smaller, which not every viewer reads yet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.atomic import replacing
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
from MedicalSAM3Lib.guards import require_memory
from MedicalSAM3Lib.segments import Segment
from MedicalSAM3Lib.structures import Segmentation, Volume

LABELMAP_SUFFIX = ".labelmap.dcm"


def write_dicom_seg(path: Path, segmentation: Segmentation, volume: Volume, model: str = "") -> None:
    """Write the segments that were found, read the file again, and keep it only if it says the same.

    Args:
        path: BINARY, or LABELMAP where it ends in ``.labelmap.dcm``.
        segmentation: On the grid of ``volume``.
        volume: Read from DICOM; patient and study are copied from its headers into the file.
        model: Name of the weights, for the algorithm's identification.

    Raises:
        OutputError: Nothing was found, masks overlap in a LABELMAP, the source has no identifiers or place, or the
            file cannot be written or does not hold the masks. Nothing is left behind then.
    """
    segments, sources = segments_to_write(segmentation), read_sources(volume)
    is_labelmap = path.name.lower().endswith(LABELMAP_SUFFIX)
    used = np.flatnonzero(np.any([layer.any(axis=(1, 2)) for layer in segmentation.layers], axis=0))
    # Empty slices in between give no frame, but tell highdicom the distance between slices.
    kept = slice(int(used[0]), int(used[-1]) + 1)
    with replacing(path) as (partial,):
        written_or_refused(
            lambda: _make(segmentation, segments, sources[kept], kept, model, is_labelmap).save_as(
                partial, enforce_file_format=True
            )
        )
        check_dicom_seg(partial, segmentation, segments, sources)


def check_dicom_seg(
    path: Path, segmentation: Segmentation, segments: Sequence[Segment], sources: Sequence[SourceSlice]
) -> None:
    """Read a SEG with pydicom alone and compare each voxel, and the place of each frame, with what was to be written.

    Raises:
        OutputError: It cannot be read, or differs.
    """
    import pydicom

    wrong = OutputError("Expected a file that holds the masks as they are, read again it differs; report this.")
    by_place = {source.key: k for k, source in enumerate(sources)}
    counts = [np.bincount(layer.ravel(), minlength=1) for layer in segmentation.layers]
    missing = [int(counts[segment.finding.layer][segment.part.label]) for segment in segments]
    try:
        with private():
            data = pydicom.dcmread(path)
            shared = data.SharedFunctionalGroupsSequence[0]
            for pixels, own in zip(_frames(data), data.PerFrameFunctionalGroupsSequence, strict=True):
                k = by_place[_reference(own)]
                if not _lies_on(own, shared, sources[k]):
                    raise wrong
                for number in _segment_numbers(own, shared, len(segments)):
                    segment = segments[number - 1]
                    mask = segmentation.layers[segment.finding.layer][k] == segment.part.label
                    if not np.array_equal(pixels == (number if data.SegmentationType == "LABELMAP" else 1), mask):
                        raise wrong
                    missing[number - 1] -= int(mask.sum())
    except Exception:
        raise wrong from None
    if any(missing):
        raise wrong


def _frames(data: Any) -> Iterable[np.ndarray]:
    """Pixels ``(J, I)`` of each frame, one after another; all at once only where frames begin inside a byte."""
    from pydicom.pixels import iter_pixels

    if data.BitsAllocated == 1 and data.Rows * data.Columns % 8:
        return data.pixel_array.reshape(-1, data.Rows, data.Columns)
    return iter_pixels(data)


def _make(
    segmentation: Segmentation,
    segments: Sequence[Segment],
    sources: Sequence[SourceSlice],
    kept: slice,
    model: str,
    is_labelmap: bool,
) -> Any:
    """The highdicom object of the slices ``kept``, which ``sources`` are those of."""
    from highdicom.seg import Segmentation as DicomSegmentation
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    headers = _headers(sources)
    array = _label_map(segmentation, segments, kept)
    if array is None:
        if is_labelmap:
            raise OutputError("Expected masks that do not overlap in a DICOM label map; write .dcm, which holds both.")
        array = _stacked(segmentation, segments, kept)
    result = DicomSegmentation(
        source_images=headers,
        pixel_array=array,
        segmentation_type="LABELMAP" if is_labelmap else "BINARY",
        segment_descriptions=[_description(number, segment, model) for number, segment in enumerate(segments, 1)],
        series_instance_uid=generate_uid(),
        series_number=1000 + max(0, int(headers[0].get("SeriesNumber") or 0)) % 100_000,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=__version__,
        device_serial_number="0",
        content_description="Segmentation by typed concepts",
        content_label="SEGMENTATION",
        series_description=f"Segmentation by {MAKER}",
        # Phrases come in any script; patient data is written anew in this one.
        specific_character_set="ISO_IR 192",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
    )
    _restore_frame_numbers(result, sources)
    return result


def _headers(sources: Sequence[SourceSlice]) -> list[Any]:
    """What highdicom takes as source images: a data set a slice, or one with the groups of the frames that are used.

    It wants one orientation and spacing for all. Ours are equal but for jitter in their last digits, or stand in each
    frame's own groups although they are the same.
    """
    first = sources[0]
    if first.frame is None:
        headers = [copy.copy(source.header) for source in sources]
        for header in headers:
            header.ImageOrientationPatient = first.header.ImageOrientationPatient
        return headers
    if any(source.header is not first.header for source in sources):
        raise OutputError(
            "Expected one enhanced DICOM file for a DICOM Segmentation, got a volume of several enhanced files; "
            "write .rtstruct.dcm or .seg.nrrd."
        )
    header = copy.copy(first.header)
    groups = header.PerFrameFunctionalGroupsSequence
    header.PerFrameFunctionalGroupsSequence = [groups[(source.frame or 1) - 1] for source in sources]
    header.NumberOfFrames = len(sources)
    shared = copy.copy(header.SharedFunctionalGroupsSequence[0])
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            setattr(shared, name, header.PerFrameFunctionalGroupsSequence[0][name].value)
    header.SharedFunctionalGroupsSequence = [shared]
    return [header]


def _restore_frame_numbers(result: Any, sources: Sequence[SourceSlice]) -> None:
    """Frames of the source were counted among those that were used: count them as they lie in their file."""
    if sources[0].frame is None:
        return
    for own in result.PerFrameFunctionalGroupsSequence:
        image = own.DerivationImageSequence[0].SourceImageSequence[0]
        image.ReferencedFrameNumber = sources[int(image.ReferencedFrameNumber) - 1].frame


def _label_map(segmentation: Segmentation, segments: Sequence[Segment], kept: slice) -> np.ndarray | None:
    """uint16 ``(N, J, I)`` of segment numbers from 1; None where segments overlap."""
    numbers = np.zeros_like(segmentation.layers[0][kept], np.uint16)
    for layer_number, layer in enumerate(segmentation.layers):
        table = np.zeros(int(layer.max(initial=0)) + 1, np.uint16)
        for number, segment in enumerate(segments, start=1):
            if segment.finding.layer == layer_number:
                table[segment.part.label] = number
        own = table[layer[kept]]
        if layer_number and np.any((own > 0) & (numbers > 0)):
            return None
        numbers = np.where(own > 0, own, numbers) if layer_number else own
    return numbers


def _stacked(segmentation: Segmentation, segments: Sequence[Segment], kept: slice) -> np.ndarray:
    """uint8 ``(N, J, I, segments)``, 0 or 1, for masks that overlap."""
    require_memory((*segmentation.layers[0][kept].shape, len(segments)), 1)
    return np.stack(
        [segmentation.layers[segment.finding.layer][kept] == segment.part.label for segment in segments], axis=-1
    ).astype(np.uint8)


def _description(number: int, segment: Segment, model: str) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    category, own_type, modifier = coded(segment.finding.codes, segment.finding.phrase)
    name = short(segment.name)
    description = SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=category,
        segmented_property_type=own_type,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{MAKER} {model}".strip()[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            source=MAKER,
            parameters={"model": model.replace(",", " ")} if model else None,
        ),
        tracking_uid=generate_uid(),
        tracking_id=name,
        display_color=CIELabColor.from_rgb(*segment.colour),
    )
    description.SegmentDescription = described(segment)[:1024]
    if modifier:
        typed = description.SegmentedPropertyTypeCodeSequence[0]
        typed.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept.from_code(modifier)]
    return description


def _reference(own: Any) -> tuple[str, int | None]:
    """Which source instance, and which frame of it, a frame says that it lies on."""
    image = own.DerivationImageSequence[0].SourceImageSequence[0]
    frame = image.get("ReferencedFrameNumber")
    return str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame)


def _lies_on(own: Any, shared: Any, source: SourceSlice) -> bool:
    """Whether a frame has position, orientation and spacing of a source slice, to a hundredth of a voxel."""
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(length) for length in shared.PixelMeasuresSequence[0].PixelSpacing)
    position = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
    axes = np.stack((row * column_mm, column * row_mm), axis=1)
    voxel = 0.01 * min(row_mm, column_mm)
    return bool(np.abs(position - source.position).max() < voxel and np.abs(axes - source.axes).max() < voxel)


def _segment_numbers(own: Any, shared: Any, count: int) -> Sequence[int]:
    """The segments that a frame speaks of: one, or all of a label map."""
    for groups in (own, shared):
        if "SegmentIdentificationSequence" in groups:
            return [int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
    return range(1, count + 1)
