"""RTSTRUCT: contours that another reader fills to the same masks, holes kept, and what a planner finds in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw

from MedicalSAM3Lib import dicom_rtstruct
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.files import write_segmentation
from MedicalSAM3Lib.structures import Volume
from Testing.lib.dicom_worlds import known_segmentation, masks_of, series_at

FINE = 32
"""Parts of a voxel's side in which an independent reader draws polygons."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return series_at(tmp_path_factory.mktemp("in"), np.eye(3))


def drawn(path: Path, volume: Volume) -> list[np.ndarray]:
    """Mask of each region, drawn by Pillow on a fine grid and looked up at the voxels' centres; parts by XOR."""
    to_ijk, masks = np.linalg.inv(volume.ijk_to_lps), []
    _, rows, columns = volume.shape_kji
    for roi in pydicom.dcmread(path).ROIContourSequence:
        mask = np.zeros(volume.shape_kji, bool)
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            ijk = points @ to_ijk[:3, :3].T + to_ijk[:3, 3]
            assert np.ptp(ijk[:, 2]) < 1e-3
            picture = Image.new("1", (FINE * (columns + 1), FINE * (rows + 1)))
            ImageDraw.Draw(picture).polygon([tuple(point) for point in ((ijk[:, :2] + 1) * FINE).tolist()], fill=1)
            mask[round(ijk[0, 2])] ^= np.array(picture)[FINE::FINE, FINE::FINE]
        masks.append(mask)
    return masks


@pytest.mark.parametrize("overlap", [False, True])
def test_pillow_fills_the_contours_to_the_masks(tmp_path: Path, volume: Volume, overlap: bool) -> None:
    segmentation = known_segmentation(volume, overlap=overlap)
    write_segmentation(tmp_path / "a.rtstruct.dcm", segmentation, volume, "tiny")
    for mask, expected in zip(drawn(tmp_path / "a.rtstruct.dcm", volume), masks_of(segmentation), strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_regions_have_names_codes_colours_and_types(tmp_path: Path, volume: Volume) -> None:
    write_segmentation(tmp_path / "a.rtstruct.dcm", known_segmentation(volume), volume, "tiny 0123")
    data = pydicom.dcmread(tmp_path / "a.rtstruct.dcm")
    assert (data.Modality, data.ApprovalStatus, data.PatientName) == ("RTSTRUCT", "UNAPPROVED", "Müller^Jürgen")
    assert [roi.ROIName for roi in data.StructureSetROISequence] == ["Leberzyste 肝", "left kidney"]
    assert data.StructureSetROISequence[0].ROIDescription.endswith("Review slices (from 0): 2, 4.")
    assert data.StructureSetROISequence[0].ROIGenerationDescription.endswith("tiny 0123")
    assert [list(roi.ROIDisplayColor) for roi in data.ROIContourSequence] == [[221, 130, 101], [185, 102, 83]]
    # A concept that the vocabulary does not know may be no organ at all.
    assert [roi.RTROIInterpretedType for roi in data.RTROIObservationsSequence] == ["", "ORGAN"]
    code = data.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0]
    assert (code.CodingSchemeDesignator, code.CodeValue) == ("SCT", "64033007")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"


def test_contours_refer_to_their_slices(tmp_path: Path, volume: Volume) -> None:
    write_segmentation(tmp_path / "a.rtstruct.dcm", known_segmentation(volume), volume)
    data = pydicom.dcmread(tmp_path / "a.rtstruct.dcm")
    series = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    sources = {
        str(header.SOPInstanceUID): float(header.ImagePositionPatient[2])
        for header in (pydicom.dcmread(source.path, stop_before_pixels=True) for source in volume.dicom)
    }
    assert series.SeriesInstanceUID == "1.2.3"
    assert [image.ReferencedSOPInstanceUID for image in series.ContourImageSequence] == list(sources)
    for roi in data.ROIContourSequence:
        for contour in roi.ContourSequence:
            height = sources[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert set(contour.ContourData[2::3]) == {height}


def test_a_contour_of_over_64_kb_stays_a_contour(tmp_path: Path) -> None:
    from MedicalSAM3Lib.files import read_volume
    from MedicalSAM3Lib.structures import Finding, Segmentation
    from Testing.lib.file_worlds import write_dicom

    path = write_dicom(tmp_path / "in", np.zeros((150, 150), np.int16), FrameOfReferenceUID="1.2.3.9")
    volume = read_volume(path)
    # A comb with a spine: one part with thousands of corners.
    layer = np.zeros((1, 150, 150), np.uint16)
    layer[0, 0] = 1
    layer[0, ::2, ::2] = layer[0, 1::2, ::2] = 1
    layer[0, 1::3, 1:-1:4] = 1
    segmentation = Segmentation((layer,), volume.ijk_to_lps, (Finding("comb", "found", layer=0, label=1),))
    write_segmentation(tmp_path / "a.rtstruct.dcm", segmentation, volume)
    data = pydicom.dcmread(tmp_path / "a.rtstruct.dcm")
    longest = max(data.ROIContourSequence[0].ContourSequence, key=lambda contour: int(contour.NumberOfContourPoints))
    assert longest["ContourData"].VR == "DS"
    assert len("\\".join(str(value) for value in longest.ContourData)) > 65_536


@pytest.mark.parametrize("change", ["point", "part", "slice", "plane"])
def test_contours_that_say_something_else_are_not_kept(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    make = dicom_rtstruct._make

    def wrong(*arguments: object) -> pydicom.Dataset:
        data = make(*arguments)
        contours = data.ROIContourSequence[1].ContourSequence
        if change == "point":
            contours[0].ContourData[0] += 1.0
        elif change == "part":
            del contours[-1]
        elif change == "slice":
            contours[0].ContourImageSequence = contours[-1].ContourImageSequence
        else:
            contours[0].ContourData[2] += 0.5
        return data

    monkeypatch.setattr(dicom_rtstruct, "_make", wrong)
    with pytest.raises(OutputError, match="read again they differ"):
        write_segmentation(tmp_path / "a.rtstruct.dcm", known_segmentation(volume), volume)
    assert list(tmp_path.iterdir()) == []
