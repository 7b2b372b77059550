"""A batch that saves: what is in the files, what stays in the scene, what a second run does, and what goes wrong."""

from __future__ import annotations

import csv
import errno
import gc
import json
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer
import slicerio

from MedicalSAM3.MedicalSAM3Slicer import results_folder, saving
from MedicalSAM3.MedicalSAM3Slicer.batch import Batch
from MedicalSAM3.MedicalSAM3Slicer.results_folder import LEAST_FREE, ResultsFolder
from MedicalSAM3.MedicalSAM3Slicer.saving import CaseCopy, SegmentCopy, copyCase, writeCase
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from MedicalSAM3Lib.errors import OutputError
from Testing.lib.file_worlds import write_series
from Testing.slicer import mrml
from Testing.slicer.engine_world import World, until
from Testing.slicer.test_many import roi, table
from Testing.slicer.test_segment import SHAPE, array


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two images that can be read, one that cannot, and a DICOM series."""
    root = tmp_path / "cohort"
    mrml.written(root / "a.nii.gz", array(), mrml.FLIPPED)
    mrml.written(root / "b" / "c d.nrrd", array(), np.diag([-0.5, 0.5, 3.0, 1.0]))
    (root / "broken.nii.gz").write_bytes(b"no image")
    write_series(root / "scan", [0.0, 2.0, 4.0])
    return root


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def run(logic: Any, folder: Path, results: Path, concepts: str = "liver, brain tumor", **more: Any) -> Batch:
    """Segment a folder into another."""
    batch: Batch = logic.startBatch(logic.lookThrough(folder).wait(), concepts, saveTo=results, **more)
    until(lambda: not batch.poll())
    return batch


def names(folder: Path) -> list[str]:
    """All that is in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def opened(path: Path, volume: Any = None) -> Any:
    """A segmentation as Slicer's own reader opens it; its masks can be asked for on the grid of a volume."""
    storage, node = slicer.vtkMRMLSegmentationStorageNode(), slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode"
    )  # fmt: skip
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    if volume is not None:
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def rows(results: Path) -> list[list[str]]:
    """The table of a results folder, without its headings."""
    with (results / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


# --- a folder ---


def test_a_cohort_becomes_files_and_the_scene_stays_empty(logic: Any, cohort: Path, results: Path) -> None:
    mine = mrml.volume(array(), name="mine")
    before = mrml.nodes()
    batch = run(logic, cohort, results)
    assert [entry.state for entry in batch.entries] == ["done", "done", "failed", "done"]
    case = "scan__CT_series_4__3_images"
    assert names(results) == sorted(
        [*(f"{name}.{end}" for name in ("a", "b__c_d", case) for end in ("json", "seg.nrrd")), "summary.csv"]
    )
    assert [node for node in mrml.nodes() if node[0] != "vtkMRMLTableNode"] == before
    assert mine.GetScene() is slicer.mrmlScene
    said = table(batch.result)
    assert rows(results) == said
    assert [row[:3] + row[8:] for row in said[:3]] == [
        ["a.nii.gz", "liver", "found", "a.seg.nrrd"], ["a.nii.gz", "brain tumor", "not found", "a.seg.nrrd"],
        ["b/c d.nrrd", "liver", "found", "b__c_d.seg.nrrd"],
    ]  # fmt: skip
    assert said[4][:3] == ["broken.nii.gz", "", "failed"]
    assert "could not be loaded" in said[4][7]
    assert logic.undo()
    assert mrml.nodes() == before


def test_what_was_unloaded_takes_no_memory(logic: Any, cohort: Path, results: Path) -> None:
    batch = logic.startBatch([cohort / "a.nii.gz", cohort / "b" / "c d.nrrd"], "liver", saveTo=results)
    seen: list[str] = []
    gone: list[str] = []
    while batch.poll():
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            if node.GetName() not in seen:
                seen.append(node.GetName())
                node.GetImageData().AddObserver("DeleteEvent", lambda *told, name=seen[-1]: gone.append(name))
            del node
    gc.collect()
    assert gone == seen == ["a", "c d"]
    assert all(entry.segmentationNode is None for entry in batch.entries)


@pytest.mark.parametrize("grid", [mrml.OBLIQUE, mrml.FLIPPED, np.diag([-0.5, 0.5, 3.0, 1.0])])
def test_the_file_holds_what_the_scene_held(logic: Any, tmp_path: Path, results: Path, grid: np.ndarray) -> None:
    path = mrml.written(tmp_path / "image.nii", array(), grid)
    options = {"again": "anew", "unload": False}
    batch = logic.startBatch([path], "liver, spleen, zorp", saveTo=results, **options)
    batch.wait()
    here = batch.entries[0].segmentationNode
    file = opened(results / "image.seg.nrrd", slicer.util.getNode("image"))
    inner, told = here.GetSegmentation(), file.GetSegmentation()
    ids, read = inner.GetSegmentIDs(), told.GetSegmentIDs()
    assert [told.GetSegment(one).GetName() for one in read] == ["liver", "spleen", "zorp"]
    for mine, one in zip(ids, read, strict=True):
        ours, theirs = inner.GetSegment(mine), told.GetSegment(one)
        assert theirs.GetColor() == pytest.approx(ours.GetColor(), abs=1e-5)
        assert theirs.GetTerminology() == ours.GetTerminology()
        tags = ("MedicalSAM3.Phrase", "MedicalSAM3.Model", "MedicalSAM3.Settings", "Segmentation.Status")
        for tag in tags:
            assert mrml.tag(file, one, tag) == mrml.tag(here, mine, tag) != ""
        assert np.array_equal(mrml.maskOf(file, one, SHAPE), mrml.maskOf(here, mine, SHAPE))
    assert "10200004" in told.GetSegment(read[0]).GetTerminology()
    data, header = nrrd.read(str(results / "image.seg.nrrd"))
    assert data.shape == SHAPE[::-1]
    known = slicerio.read_segmentation(str(results / "image.seg.nrrd"))
    assert [segment["name"] for segment in known["segments"]] == ["liver", "spleen", "zorp"]
    assert known["segments"][0]["terminology"]["type"][1] == "10200004"
    toLps = np.diag([-1.0, -1, 1, 1]) @ saving.ijkToRas(slicer.util.getNode("image"))
    np.testing.assert_array_equal(header["space directions"], toLps[:3, :3].T)
    np.testing.assert_array_equal(header["space origin"], toLps[:3, 3])


def test_masks_that_overlap_lie_in_layers_and_colours_are_read(logic: Any, tmp_path: Path, results: Path) -> None:
    volume = mrml.volume(array())
    logic.startBatch([volume], "liver, trunk, spleen", logic_options(overlap="keep"), saveTo=results).wait()
    file = opened(results / "CT.seg.nrrd", volume)
    ids = file.GetSegmentation().GetSegmentIDs()
    found = [mrml.maskOf(file, one, SHAPE) for one in ids]
    for mask, expected in zip(found, [array() == 1, np.isin(array(), [1, 2]), array() == 2], strict=True):
        assert np.array_equal(mask, expected)
    data, _header = nrrd.read(str(results / "CT.seg.nrrd"))
    assert data.shape == (2, *SHAPE[::-1])


def logic_options(**values: Any) -> Any:
    """Options of a run."""
    from MedicalSAM3.MedicalSAM3Slicer.options import RunOptions

    return RunOptions(**values)


def test_nothing_found_is_a_file_too(logic: Any, cohort: Path, results: Path) -> None:
    batch = logic.startBatch([cohort / "a.nii.gz"], "brain tumor", saveTo=results)
    batch.wait()
    assert batch.entries[0].state == "done"
    assert opened(results / "a.seg.nrrd").GetSegmentation().GetNumberOfSegments() == 0
    assert nrrd.read(str(results / "a.seg.nrrd"))[0].any() == False  # noqa: E712


# --- volumes that the user has ---


def test_a_volume_of_the_user_stays_and_so_do_its_other_segments(logic: Any, results: Path) -> None:
    volume = mrml.volume(array(), name="CT")
    volume.SetAndObserveTransformNodeID(mrml.transform(np.eye(4) + np.eye(4, k=3) * 5).GetID())
    logic.segment(volume, "spleen")
    batch = logic.startBatch([volume], "liver", saveTo=results)
    batch.wait()
    node = batch.entries[0].segmentationNode
    assert volume.GetScene() is slicer.mrmlScene
    assert node.GetSegmentation().GetNumberOfSegments() == 2
    file = opened(results / "CT.seg.nrrd", volume)
    (only,) = file.GetSegmentation().GetSegmentIDs()
    assert np.array_equal(mrml.maskOf(file, only, SHAPE), array() == 1)
    _data, header = nrrd.read(str(results / "CT.seg.nrrd"))
    np.testing.assert_array_equal(header["space origin"], mrml.OBLIQUE[:3, 3] * [-1, -1, 1])


def test_volumes_of_one_name_have_files_of_their_own(logic: Any, tmp_path: Path, results: Path) -> None:
    paths = [mrml.written(tmp_path / where / "CT.nrrd", array()) for where in ("x", "y")]
    for _again in range(2):
        batch = logic.startBatch([*paths, mrml.volume(array(), name="ct")], "liver", saveTo=results)
        batch.wait()
        assert len({entry.case.casefold() for entry in batch.entries}) == 3
        assert all(entry.case.casefold().startswith("ct-") for entry in batch.entries)
    assert [entry.state for entry in batch.entries] == ["skipped", "skipped", "done"]


# --- again ---


def test_a_second_run_skips_what_is_there_and_says_so(logic: Any, world: World, cohort: Path, results: Path) -> None:
    run(logic, cohort, results)
    first, asked = rows(results), len(world.engines.orders)
    kept = {name: (results / name).read_bytes() for name in names(results) if name != "summary.csv"}
    batch = run(logic, cohort, results)
    assert [entry.state for entry in batch.entries] == ["skipped", "skipped", "failed", "skipped"]
    assert len(world.engines.orders) == asked
    assert {name: (results / name).read_bytes() for name in kept} == kept
    second = rows(results)
    assert [row[:7] + row[8:] for row in second] == [row[:7] + row[8:] for row in first]
    assert second[0][7] == "a result is there already"
    assert table(batch.result) == second


def test_a_second_run_does_all_anew_where_the_user_wants_it(
    logic: Any, world: World, cohort: Path, results: Path
) -> None:
    run(logic, cohort, results, "liver")
    asked = len(world.engines.orders)
    batch = run(logic, cohort, results, "spleen", again="anew")
    assert [entry.state for entry in batch.entries] == ["done", "done", "failed", "done"]
    assert len(world.engines.orders) == asked + 3
    inner = opened(results / "a.seg.nrrd").GetSegmentation()
    assert [inner.GetSegment(one).GetName() for one in inner.GetSegmentIDs()] == ["spleen"]


def test_a_result_for_another_question_is_never_replaced_by_the_way(logic: Any, cohort: Path, results: Path) -> None:
    path = cohort / "a.nii.gz"
    logic.startBatch([path], "liver", saveTo=results).wait()
    kept = (results / "a.seg.nrrd").read_bytes()
    box = roi([0.0, 0.0, 0.0], [500.0, 500.0, 500.0])
    for concepts, more in (("spleen", {}), ("liver", {"instances": True}), ("liver", {"roiNode": box})):
        batch = logic.startBatch([path], concepts, logic_options(**more), saveTo=results)
        batch.wait()
        assert batch.entries[0].state == "skipped"
        assert "for another question is there (liver)" in batch.entries[0].note
        assert (results / "a.seg.nrrd").read_bytes() == kept


@pytest.mark.parametrize("record", [None, "", "[]", '{"question": {"concepts": ["liver"]}, "outcomes": [{"x": 1}]}'])
def test_a_file_without_a_record_is_somebodys(logic: Any, cohort: Path, results: Path, record: str | None) -> None:
    (results / "a.seg.nrrd").write_bytes(b"drawn by hand")
    if record is not None:
        (results / "a.json").write_text(record)
    batch = logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=results)
    batch.wait()
    assert (batch.entries[0].state, batch.entries[0].note) == ("skipped", "a result is there already")
    assert (results / "a.seg.nrrd").read_bytes() == b"drawn by hand"
    assert rows(results) == [["a.nii.gz", "", "skipped", "", "", "", "", "a result is there already", "a.seg.nrrd"]]


def test_a_case_that_failed_in_part_is_tried_again(logic: Any, cohort: Path, results: Path) -> None:
    logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=results).wait()
    record = json.loads((results / "a.json").read_text())
    record["outcomes"][0]["state"] = "failed"
    (results / "a.json").write_text(json.dumps(record))
    batch = logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=results)
    batch.wait()
    assert batch.entries[0].state == "done"


# --- what goes wrong ---


def test_a_folder_that_takes_nothing_is_refused_at_once(logic: Any, tmp_path: Path, cohort: Path) -> None:
    for where in (tmp_path / "nowhere", cohort / "a.nii.gz"):
        with pytest.raises(UserError, match="is not there or cannot be written to"):
            logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=where)
    (tmp_path / "manifest.jsonl").write_text("")
    with pytest.raises(UserError, match="holds results of 'medsam3 batch'"):
        logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=tmp_path)
    with pytest.raises(UserError, match="Choose what becomes of results"):
        logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=cohort, again="perhaps")
    assert not (tmp_path / "summary.csv").exists()


def test_a_full_disk_ends_each_case_before_it_begins(
    logic: Any, world: World, cohort: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = results_folder.shutil.disk_usage(results)._replace(free=LEAST_FREE - 1)
    batch = logic.startBatch([cohort / "a.nii.gz", cohort / "b" / "c d.nrrd"], "liver", saveTo=results)
    monkeypatch.setattr(results_folder.shutil, "disk_usage", lambda path: full)
    until(lambda: not batch.poll())
    assert [entry.state for entry in batch.entries] == ["failed", "failed"]
    assert batch.entries[0].error == "The disk of the results folder is full (63 MB free); make room on it."
    assert world.engines.orders == []
    assert mrml.nodes() == [("vtkMRMLTableNode", "Segmentation summary")]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_what_cannot_be_written_stays_in_the_scene_and_the_rest_goes_on(
    logic: Any, cohort: Path, results: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real, calls = saving.write_layers, []

    def half(path: Path, *arguments: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            path.write_bytes(b"half of it")
            raise OSError(code, "It refused")
        real(path, *arguments)

    monkeypatch.setattr(saving, "write_layers", half)
    batch = logic.startBatch([cohort / "a.nii.gz", cohort / "b" / "c d.nrrd"], "liver", saveTo=results)
    until(lambda: not batch.poll())
    assert [entry.state for entry in batch.entries] == ["failed", "done"]
    assert "a.seg.nrrd" in batch.entries[0].error
    assert batch.entries[0].error.endswith("The result is in the scene.")
    assert names(results) == ["c_d.json", "c_d.seg.nrrd", "summary.csv"]
    (volume,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert volume.GetName() == "a"
    assert batch.entries[0].segmentationNode.GetSegmentation().GetNumberOfSegments() == 1
    assert logic.undo()


def test_a_table_that_cannot_be_written_is_said(logic: Any, cohort: Path, results: Path) -> None:
    (results / "summary.csv").mkdir()
    with pytest.raises(UserError, match="cannot be written to"):
        logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=results)
    (results / "summary.csv").rmdir()
    batch = logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=results)
    (results / "summary.csv").mkdir()
    until(lambda: not batch.poll())
    assert batch.note.startswith("Expected to write summary.csv")
    assert table(batch.result)[0][2] == "failed"


def test_a_cancelled_batch_unloads_what_it_loaded_and_says_what_was_there(
    slow_logic: Any, slow_world: World, cohort: Path, results: Path
) -> None:
    paths = [cohort / "a.nii.gz", cohort / "b" / "c d.nrrd", cohort / "broken.nii.gz"]
    (results / "broken.seg.nrrd").write_bytes(b"by hand")
    batch = slow_logic.startBatch(paths, "liver", saveTo=results)
    until(lambda: batch.poll() and slow_world.engines.running)
    slow_world.finish()
    until(lambda: batch.poll() and batch.entries[0].state == "done" and slow_world.engines.running)
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")] == ["c d"]
    assert batch.entries[1].stage
    batch.cancel()
    assert batch.entries[1].outcomes == ()
    assert [entry.state for entry in batch.entries] == ["done", "cancelled", "skipped"]
    assert mrml.nodes() == [("vtkMRMLTableNode", "Segmentation summary")]
    assert [row[2] for row in rows(results)] == ["found", "cancelled", "skipped"]
    assert names(results) == ["a.json", "a.seg.nrrd", "broken.seg.nrrd", "summary.csv"]


def test_a_save_that_was_cancelled_leaves_no_file(scene: Any, results: Path) -> None:
    folder = ResultsFolder(results, {"concepts": ["liver"]})
    case = CaseCopy((2, 3, 4), np.eye(4), ())
    task = saving.SaveTask(case, lambda put: folder.write("a", (), put), str)
    task.cancel()
    task.begin()._thread.join()
    assert names(results) == []


def test_a_scene_that_is_closed_meanwhile_ends_the_case_alone(
    slow_logic: Any, slow_world: World, cohort: Path, results: Path
) -> None:
    batch = slow_logic.startBatch([cohort / "a.nii.gz"], "liver", saveTo=results)
    until(lambda: batch.poll() and slow_world.engines.running)
    slicer.mrmlScene.Clear(0)
    until(lambda: not batch.poll())
    assert batch.entries[0].error == "The volume was removed while it was being segmented; nothing was added."
    assert names(results) == ["summary.csv"]


def test_segments_that_are_gone_or_moved_are_not_written(logic: Any) -> None:
    volume = mrml.volume(array())
    result = logic.segment(volume, "liver")
    ids, node = result.outcomes[0].segmentIds, result.segmentationNode
    assert copyCase(volume, node, ids).segments[0].crop.sum() == (array() == 1).sum()
    with pytest.raises(UserError, match="were changed before they could be saved"):
        copyCase(volume, node, ["gone"])
    volume.SetSpacing(3, 3, 3)
    with pytest.raises(UserError, match="were changed before they could be saved"):
        copyCase(volume, node, ids)


def test_many_segments_keep_their_labels(tmp_path: Path) -> None:
    segments = tuple(
        SegmentCopy(f"s{n}", (0.1, 0.2, 0.3), {}, (0, 1, 0, 1, n, n + 1), np.ones((1, 1, 1), bool)) for n in range(300)
    )
    writeCase(tmp_path / "x.seg.nrrd", CaseCopy((1, 1, 300), np.eye(4), segments))
    data, header = nrrd.read(str(tmp_path / "x.seg.nrrd"))
    assert data[:, 0, 0].tolist() == list(range(1, 301))
    assert header["Segment299_LabelValue"] == "300"


def test_a_folder_takes_a_case_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, {"concepts": ["liver"]})
    (tmp_path / "a.json").mkdir()  # the second of the two files cannot be put there
    with pytest.raises(OutputError):
        folder.write("a", (), lambda path: path.write_bytes(b"x"))
    assert not [name for name in names(tmp_path) if name.startswith(".")]
