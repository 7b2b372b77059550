"""DICOM SEG: what a viewer finds in it, what is refused, and no patient data outside the file."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from MedicalSAM3Lib import dicom_seg, dicom_source
from MedicalSAM3Lib.errors import MedicalSAM3Error, NothingFound, OutputError
from MedicalSAM3Lib.files import check_output, read_volume, write_segmentation
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume
from Testing.lib.dicom_worlds import known_segmentation, masks_of, series_at
from Testing.lib.file_worlds import objects_of, write_series

SECRETS = ("Müller", "secret", "1950", "1.2.3")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return series_at(tmp_path_factory.mktemp("in") / "Secret^Name", np.eye(3))


def masks_in(path: Path, volume: Volume) -> list[np.ndarray]:
    """Mask ``(K, J, I)`` of each segment, as highdicom finds it by the source's instances."""
    seg = highdicom.seg.segread(path)
    uids = [pydicom.dcmread(source.path, stop_before_pixels=True).SOPInstanceUID for source in volume.dicom]
    stack = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    return [stack[..., number] > 0 for number in range(stack.shape[-1])]


@pytest.mark.parametrize(
    ("name", "overlap", "kind"),
    [("a.seg.dcm", False, "BINARY"), ("a.dcm", True, "BINARY"), ("a.labelmap.dcm", False, "LABELMAP")],
)
def test_highdicom_finds_the_masks_on_their_source_slices(
    tmp_path: Path, volume: Volume, name: str, overlap: bool, kind: str
) -> None:
    segmentation = known_segmentation(volume, overlap=overlap)
    write_segmentation(tmp_path / name, segmentation, volume)
    data = pydicom.dcmread(tmp_path / name)
    assert (data.SegmentationType, data.SegmentsOverlap) == (kind, "YES" if overlap else "NO")
    found = masks_in(tmp_path / name, volume)
    for mask, expected in zip(found, masks_of(segmentation), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("shape", [(5, 7, 9), (5, 9, 11)])
def test_slices_of_broken_bytes_are_whole(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = series_at(tmp_path / "in", np.eye(3), shape=shape)
    segmentation = known_segmentation(volume)
    write_segmentation(tmp_path / "a.dcm", segmentation, volume)
    for mask, expected in zip(masks_in(tmp_path / "a.dcm", volume), masks_of(segmentation), strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_segments_have_names_codes_colours_and_their_maker(tmp_path: Path, volume: Volume) -> None:
    write_segmentation(tmp_path / "a.dcm", known_segmentation(volume), volume, "tiny 0123abcd")
    cyst, kidney = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence

    def code(sequence: pydicom.Sequence) -> tuple[str, str, str]:
        return sequence[0].CodingSchemeDesignator, sequence[0].CodeValue, sequence[0].CodeMeaning

    assert [segment.SegmentLabel for segment in (cyst, kidney)] == ["Leberzyste 肝", "left kidney"]
    assert code(kidney.SegmentedPropertyCategoryCodeSequence) == ("SCT", "123037004", "Anatomical Structure")
    kind = kidney.SegmentedPropertyTypeCodeSequence
    assert code(kind) == ("SCT", "64033007", "Kidney")
    assert code(kind[0].SegmentedPropertyTypeModifierCodeSequence) == ("SCT", "7771000", "Left")
    # What has no code in the vocabulary gets none of SNOMED CT.
    assert code(cyst.SegmentedPropertyTypeCodeSequence) == ("99MSAM3", "Leberzyste 肝", "Leberzyste 肝")
    assert cyst.SegmentedPropertyCategoryCodeSequence[0].CodingSchemeDesignator == "99MSAM3"
    assert cyst.SegmentDescription == "Presence 0.900. Mean confidence 0.800. Review slices (from 0): 2, 4."
    assert kidney.SegmentDescription.endswith("No slice needs a review.")
    maker = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert (maker.AlgorithmName, maker.AlgorithmParameters) == ("MedicalSAM3 tiny 0123abcd", "model=tiny 0123abcd")
    assert maker.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    colour = highdicom.color.CIELabColor.from_dicom_value(kidney.RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(colour, (185, 102, 83), atol=2)


def test_patient_and_study_are_those_of_the_source_in_any_script(tmp_path: Path, volume: Volume) -> None:
    write_segmentation(tmp_path / "a.dcm", known_segmentation(volume), volume)
    data = pydicom.dcmread(tmp_path / "a.dcm")
    assert (data.PatientName, data.PatientID, data.PatientBirthDate) == ("Müller^Jürgen", "secret-id", "19500102")
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == ("1.2", "1.2.3.9")
    assert data.SeriesInstanceUID != "1.2.3"
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"


def test_only_slices_with_voxels_are_frames(tmp_path: Path, volume: Volume) -> None:
    write_segmentation(tmp_path / "a.dcm", known_segmentation(volume), volume)
    # Liver on slices 1 to 3, kidney on slices 2 to 4.
    assert pydicom.dcmread(tmp_path / "a.dcm").NumberOfFrames == 6


def test_objects_are_segments_of_their_own(tmp_path: Path, volume: Volume) -> None:
    segmentation = objects_of(volume, overlap=True)
    write_segmentation(tmp_path / "a.dcm", segmentation, volume)
    labels = [segment.SegmentLabel for segment in pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence]
    assert labels == ["rib 1", "rib 2", "rib 3", "rib 4", "spine"]
    expected = [segmentation.layers[0] == label for label in (1, 2, 3, 4)] + [segmentation.layers[1] == 5]
    for mask, own in zip(masks_in(tmp_path / "a.dcm", volume), expected, strict=True):
        np.testing.assert_array_equal(mask, own)


def test_a_long_phrase_is_cut_where_the_standard_ends(tmp_path: Path, volume: Volume) -> None:
    segmentation = known_segmentation(volume)
    long = replace(segmentation.findings[0], phrase="very " * 40 + "long", review_slices=tuple(range(2000)))
    write_segmentation(tmp_path / "a.dcm", replace(segmentation, findings=(long, *segmentation.findings[1:])), volume)
    segment = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence[0]
    assert len(segment.SegmentLabel) <= 64
    assert segment.SegmentDescription.endswith("99 and 1900 more.")


@pytest.mark.parametrize("suffix", [".seg.dcm", ".labelmap.dcm", ".rtstruct.dcm"])
def test_what_was_not_found_cannot_be_written(tmp_path: Path, volume: Volume, suffix: str) -> None:
    empty = Segmentation(
        (np.zeros(volume.shape_kji, np.uint16),), volume.ijk_to_lps, (Finding("liver", "not_found", reason="absent"),)
    )
    with pytest.raises(NothingFound, match="cannot be empty"):
        write_segmentation(tmp_path / f"a{suffix}", empty, volume)
    assert list(tmp_path.iterdir()) == []


def test_masks_that_overlap_do_not_fit_a_label_map(tmp_path: Path, volume: Volume) -> None:
    with pytest.raises(OutputError, match="do not overlap"):
        write_segmentation(tmp_path / "a.labelmap.dcm", known_segmentation(volume, overlap=True), volume)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.dcm", "a.rtstruct.dcm"])
def test_a_volume_that_was_not_dicom_is_refused_early(tmp_path: Path, volume: Volume, name: str) -> None:
    other = replace(volume, dicom=())
    with pytest.raises(OutputError, match="Expected a DICOM series as input"):
        check_output(tmp_path / name, volume=other)


def test_a_picture_without_place_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0.0], ImagePositionPatient=None, FrameOfReferenceUID="1.2.3.9")
    with pytest.raises(OutputError, match="a picture without"):
        check_output(tmp_path / "a.dcm", volume=read_volume(tmp_path / "in"))


def test_a_series_without_identifiers_is_refused_by_their_names(tmp_path: Path) -> None:
    write_series(tmp_path / "in", [0.0, 2.0])
    with pytest.raises(OutputError, match="with FrameOfReferenceUID for"):
        check_output(tmp_path / "a.dcm", volume=read_volume(tmp_path / "in"))


def test_files_that_moved_or_changed_since_are_noticed(tmp_path: Path) -> None:
    volume = series_at(tmp_path / "in", np.eye(3))
    segmentation = known_segmentation(volume)
    data = pydicom.dcmread(volume.dicom[2].path)
    data.ImagePositionPatient = [0, 0, 0]
    data.save_as(volume.dicom[2].path)
    with pytest.raises(OutputError, match="another place now"):
        write_segmentation(tmp_path / "a.dcm", segmentation, volume)
    volume.dicom[2].path.unlink()
    with pytest.raises(OutputError, match="gone or damaged"):
        write_segmentation(tmp_path / "a.dcm", segmentation, volume)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_missing_patient_data_is_left_empty(tmp_path: Path) -> None:
    names = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "SpecificCharacterSet")
    volume = series_at(tmp_path / "in", np.eye(3), **dict.fromkeys(names))
    write_segmentation(tmp_path / "a.dcm", known_segmentation(volume), volume)
    assert pydicom.dcmread(tmp_path / "a.dcm").PatientID == ""


def spoiled(change: str) -> object:
    """A writer that makes one mistake in an otherwise good object."""
    make = dicom_seg._make

    def wrong(*arguments: object) -> pydicom.Dataset:
        data = make(*arguments)
        if change == "voxel":
            data.PixelData = bytes([data.PixelData[0] ^ 4]) + data.PixelData[1:]
        elif change == "frame":
            del data.PerFrameFunctionalGroupsSequence[-1]
            data.NumberOfFrames -= 1
        elif change == "place":
            data.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 0]
        elif change == "segment":
            own = data.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0]
            own.ReferencedSegmentNumber = 2
        else:
            image = data.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
            image.ReferencedSOPInstanceUID = "1.2.3.4"
        return data

    return wrong


@pytest.mark.parametrize("change", ["voxel", "frame", "place", "segment", "source"])
def test_a_file_that_says_something_else_is_not_kept(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(dicom_seg, "_make", spoiled(change))
    (tmp_path / "a.dcm").write_text("of an earlier run")
    with pytest.raises(OutputError, match="read again it differs"):
        write_segmentation(tmp_path / "a.dcm", known_segmentation(volume), volume)
    assert (tmp_path / "a.dcm").read_text() == "of an earlier run"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_patient_data_in_log_warning_or_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the test's own writing
        bad = {"PatientBirthDate": "Müller 1950", "StudyTime": "secret", "AccessionNumber": "secret" * 9}
        volume = series_at(tmp_path / "in", np.eye(3), **bad)
    caplog.clear()
    for name in ("a.dcm", "a.rtstruct.dcm"):
        try:
            write_segmentation(tmp_path / name, known_segmentation(volume), volume)
        except MedicalSAM3Error as error:
            told = [str(error), repr(error.__cause__)]
            assert not any(secret in text for secret in SECRETS for text in told)
    said = "".join((*capfd.readouterr(), *(record.getMessage() for record in caplog.records)))
    assert not any(secret in said for secret in SECRETS)


def test_without_the_packages_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_source, "find_spec", lambda name: None if name == "highdicom" else object())
    with pytest.raises(OutputError, match=r"'highdicom' is missing; pip install 'medical-sam3\[dicom\]'"):
        check_output(tmp_path / "a.dcm")
