"""``.seg.nrrd``: 3D Slicer's own fields, read back by SimpleITK, pynrrd and slicerio."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib.files import write_segmentation
from MedicalSAM3Lib.seg_nrrd import terminology_entry
from MedicalSAM3Lib.structures import Codes, Finding, Segmentation, Volume
from Testing.lib.file_worlds import affine, affines, counting, objects_of, rotation, segmentation_of, shapes_kji

VOLUME = Volume(counting((3, 4, 5)), affine(rotation(1), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))


def read(path: Path) -> Any:
    import slicerio

    return slicerio.read_segmentation(str(path))


def mask_of(read_back: Any, number: int) -> np.ndarray:
    """Mask ``(K, J, I)`` of a segment that slicerio read."""
    segment = read_back["segments"][number]
    voxels = read_back["voxels"]
    layer = voxels[segment["layer"]] if voxels.ndim == 4 else voxels
    return (layer == segment["labelValue"]).T


@pytest.mark.parametrize("overlap", [False, True])
def test_slicerio_reads_names_colours_codes_and_masks(tmp_path: Path, overlap: bool) -> None:
    segmentation = segmentation_of(VOLUME, overlap=overlap)
    write_segmentation(tmp_path / "out.seg.nrrd", segmentation, VOLUME)
    back = read(tmp_path / "out.seg.nrrd")
    assert [segment["name"] for segment in back["segments"]] == ["liver", "left kidney"]
    assert [segment["id"] for segment in back["segments"]] == ["Segment_1", "Segment_2"]
    for number, finding in enumerate(segmentation.findings[:2]):
        np.testing.assert_array_equal(mask_of(back, number), segmentation.mask_kji(finding))
        np.testing.assert_allclose(back["segments"][number]["color"], np.array(finding.colour) / 255, atol=1e-5)
    kidney = back["segments"][1]["terminology"]
    assert kidney["contextName"] == "Segmentation category and type - 3D Slicer General Anatomy list"
    assert kidney["category"] == ["SCT", "123037004", "Anatomical Structure"]
    assert kidney["type"] == ["SCT", "64033007", "Kidney"]
    assert kidney["typeModifier"] == ["SCT", "7771000", "Left"]
    assert "terminology" not in back["segments"][0]
    np.testing.assert_allclose(back["ijkToLPS"], VOLUME.ijk_to_lps, atol=1e-9)


@given(matrix=affines(), shape=shapes_kji, overlap=st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_grid_comes_back_voxel_for_voxel(
    tmp_path_factory: pytest.TempPathFactory, matrix: np.ndarray, shape: tuple[int, int, int], overlap: bool
) -> None:
    path = tmp_path_factory.mktemp("seg") / "out.seg.nrrd"
    volume = Volume(counting(shape), matrix)
    segmentation = segmentation_of(volume, overlap=overlap)
    write_segmentation(path, segmentation, volume)
    back = read(path)
    np.testing.assert_allclose(back["ijkToLPS"], matrix, rtol=1e-9, atol=1e-9)
    for number, finding in enumerate(segmentation.findings[:2]):
        np.testing.assert_array_equal(mask_of(back, number), segmentation.mask_kji(finding))


def test_the_header_is_slicers(tmp_path: Path) -> None:
    import nrrd

    write_segmentation(tmp_path / "out.seg.nrrd", segmentation_of(VOLUME, overlap=True), VOLUME)
    header = nrrd.read_header(str(tmp_path / "out.seg.nrrd"))
    assert header["space"] == "left-posterior-superior"
    assert header["encoding"] == "gzip"
    assert header["type"] in ("unsigned char", "uint8")
    assert header["sizes"].tolist() == [2, 5, 4, 3]
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segment1_Layer"] == "1"
    assert header["Segment1_LabelValue"] == "1"
    assert header["Segment1_Extent"] == "0 4 0 3 0 2"
    assert "MedicalSAM3.Phrase:left kidney|" in header["Segment1_Tags"]
    assert "Segment2_ID" not in header


@pytest.mark.parametrize("overlap", [False, True])
def test_objects_are_segments_of_one_phrase_with_names_and_shades_of_their_own(tmp_path: Path, overlap: bool) -> None:
    import nrrd

    segmentation = objects_of(VOLUME, overlap=overlap)
    write_segmentation(tmp_path / "out.seg.nrrd", segmentation, VOLUME)
    back = read(tmp_path / "out.seg.nrrd")
    assert [segment["name"] for segment in back["segments"]] == ["rib 1", "rib 2", "rib 3", "rib 4", "spine"]
    assert len({segment["id"] for segment in back["segments"]}) == 5
    ribs = segmentation.findings[0]
    for number in range(4):
        np.testing.assert_array_equal(mask_of(back, number), segmentation.object_mask_kji(ribs, number + 1))
        assert back["segments"][number]["terminology"]["type"] == ["SCT", "113197003", "Rib"]
    np.testing.assert_array_equal(mask_of(back, 4), segmentation.mask_kji(segmentation.findings[1]))
    np.testing.assert_allclose(back["segments"][0]["color"], np.array(ribs.colour) / 255, atol=1e-5)
    colours = [tuple(segment["color"]) for segment in back["segments"][:4]]
    assert all(one != other for one, other in pairwise(colours))
    header = nrrd.read_header(str(tmp_path / "out.seg.nrrd"))
    assert all("MedicalSAM3.Phrase:rib|" in header[f"Segment{number}_Tags"] for number in range(4))
    assert header["Segment4_Layer"] == str(int(overlap))


def test_nothing_found_has_no_segment(tmp_path: Path) -> None:
    empty = Segmentation((np.zeros((3, 4, 5), np.uint16),), VOLUME.ijk_to_lps, (Finding("liver", "not_found"),))
    write_segmentation(tmp_path / "out.seg.nrrd", empty, VOLUME)
    assert not read(tmp_path / "out.seg.nrrd")["segments"]


@pytest.mark.parametrize("first", ["found", "not_found"])
def test_a_name_stays_with_its_mask_when_another_was_not_found(tmp_path: Path, first: str) -> None:
    mask = np.zeros((3, 4, 5), np.uint16)
    mask[1, 2, 3] = 1
    findings = [Finding("liver", "found", layer=0, label=1), Finding("brain tumour", "not_found", presence=0.1)]
    findings = findings if first == "found" else findings[::-1]
    write_segmentation(tmp_path / "out.seg.nrrd", Segmentation((mask,), VOLUME.ijk_to_lps, tuple(findings)), VOLUME)
    back = read(tmp_path / "out.seg.nrrd")
    assert [segment["name"] for segment in back["segments"]] == ["liver"]
    np.testing.assert_array_equal(mask_of(back, 0), mask == 1)


@pytest.mark.parametrize("phrase", ["Leberlappen, größer", "a\nb\tc", "a|b~c:=d^e", '"quoted" \\ slashed', "肝臓"])
def test_any_phrase_is_a_name(tmp_path: Path, phrase: str) -> None:
    mask = np.ones((3, 4, 5), np.uint16)
    segmentation = Segmentation((mask,), VOLUME.ijk_to_lps, (Finding(phrase, "found", layer=0, label=1),))
    write_segmentation(tmp_path / "out.seg.nrrd", segmentation, VOLUME)
    image = SimpleITK.ReadImage(str(tmp_path / "out.seg.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), mask)
    assert image.GetMetaData("Segment0_Name") == " ".join(phrase.split())
    assert image.GetMetaData("Segment0_Tags").count("|") == 2


def test_many_labels_take_16_bits(tmp_path: Path) -> None:
    layer = np.arange(300, dtype=np.uint16).reshape(3, 10, 10)
    segmentation = Segmentation((layer,), np.eye(4), (Finding("cell", "found", layer=0, label=299),))
    write_segmentation(tmp_path / "out.seg.nrrd", segmentation, Volume(counting((3, 10, 10)), np.eye(4)))
    image = SimpleITK.ReadImage(str(tmp_path / "out.seg.nrrd"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), layer)


def test_terminology_entry() -> None:
    assert terminology_entry(Codes()) == ""
    assert terminology_entry(Codes(type="SCT^10200004^Liver")) == (
        "Segmentation category and type - 3D Slicer General Anatomy list"
        "~^^~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^"
    )
