"""Volumes and results pass between processes as folders, and come out as they went in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given

from MedicalSAM3Lib import volume_files
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.exports import FORMATS, Unfit, write
from MedicalSAM3Lib.masks_wire import PackedMask, unpack
from MedicalSAM3Lib.measures import measured
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.result_files import mask_path, read_report, read_segmentation, read_segments, write_results
from MedicalSAM3Lib.segments import segments_of
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume
from Testing.lib.file_worlds import affines, counting, objects_of, segmentation_of


def volume_of(shape: tuple[int, ...] = (4, 3, 5)) -> Volume:
    return Volume(counting(shape), np.diag([1.0, 2.0, 3.0, 1.0]), "CT", name="Miller^Ada")


def record_of(volume: Volume, segmentation: Segmentation) -> RunRecord:
    return RunRecord(
        InputRecord.of(volume), ModelRecord("fake", "0" * 64, True, ""), SegmentSettings(), 2, 4, "cpu", "float32", {},
        {"host": None, "device": None}, segmentation.findings,
    )  # fmt: skip


@given(affines())
def test_a_volume_comes_back(tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("volume")
    volume = Volume(counting((2, 3, 4)), affine, "MR", name="Miller^Ada")
    volume_files.store(folder, volume)
    found = volume_files.load(folder, "id")
    np.testing.assert_array_equal(found.array, volume.array)
    np.testing.assert_array_equal(found.ijk_to_lps, affine)
    assert (found.modality, found.is_2d, found.name, found.array.dtype) == ("MR", False, "id", np.float32)
    assert not any(b"Miller" in path.read_bytes() for path in folder.iterdir())


def test_a_picture_keeps_its_colours(tmp_path: Path) -> None:
    volume_files.store(tmp_path, Volume(counting((1, 2, 3, 3)), np.eye(4), "RGB", is_2d=True))
    found = volume_files.load(tmp_path, "id")
    assert (found.array.shape, found.shape_kji, found.is_2d) == ((1, 2, 3, 3), (1, 2, 3), True)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("make", [segmentation_of, objects_of])
def test_results_come_back_to_the_voxel(tmp_path: Path, make: object, overlap: bool) -> None:
    volume = volume_of()
    segmentation = make(volume, overlap=overlap)  # type: ignore[operator]
    findings = measured(segmentation.findings, segmentation.layers, volume)
    segmentation = replace(segmentation, findings=findings)
    write_results(tmp_path, segmentation, record_of(volume, segmentation))
    found = read_segmentation(tmp_path)
    assert found.findings == segmentation.findings
    np.testing.assert_array_equal(found.ijk_to_lps, segmentation.ijk_to_lps)
    for one, other in zip(found.layers, segmentation.layers, strict=True):
        np.testing.assert_array_equal(one, other)
    entries, segments = read_segments(tmp_path), segments_of(segmentation.findings)
    assert [entry["name"] for entry in entries] == [segment.name for segment in segments]
    for entry, segment in zip(entries, segments, strict=True):
        box = tuple(entry["box_kji"])
        packed = PackedMask(box, entry["voxels"], mask_path(tmp_path, entry["index"]).read_bytes())
        expected = segmentation.layers[segment.finding.layer] == segment.part.label
        np.testing.assert_array_equal(unpack(packed, volume.shape_kji), expected)
        assert segmentation.findings[entry["finding"]] == segment.finding


def test_nothing_found_is_a_result_without_segments(tmp_path: Path) -> None:
    volume = volume_of()
    findings = (Finding("liver", "not_found", reason="It is not there.", presence=0.0),)
    segmentation = Segmentation((np.zeros(volume.shape_kji, np.uint16),), volume.ijk_to_lps, findings)
    write_results(tmp_path, segmentation, record_of(volume, segmentation))
    assert read_segments(tmp_path) == []
    assert read_segmentation(tmp_path).findings == findings
    schema = json.loads(resource("report.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(read_report(tmp_path), schema)
    for name in FORMATS:
        if name != "png":
            write(tmp_path, name)
            assert (tmp_path / f"segmentation.{name}").stat().st_size > 0


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    volume = volume_of()
    segmentation = segmentation_of(volume, overlap=True)
    write_results(tmp_path, segmentation, record_of(volume, segmentation))
    before = sorted(tmp_path.iterdir())
    for name in ("png", "nii", "nii.gz"):
        with pytest.raises(Unfit, match="Expected"):
            write(tmp_path, name)
    assert sorted(tmp_path.iterdir()) == before
