"""A batch from its inputs to its folders, tables and page, with an oracle in the place of the model."""

from __future__ import annotations

import csv
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib import batch_page, cli, cli_batch, volume_files
from MedicalSAM3Lib.batch import PLACES_PER_ENGINE, Batch
from MedicalSAM3Lib.batch_cases import find_cases
from MedicalSAM3Lib.batch_job import Outcome, Plan
from MedicalSAM3Lib.batch_state import BatchFolder
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine_port import Answer, Order
from MedicalSAM3Lib.errors import OutputError, RunError
from Testing.lib.batch_engine import ThreadEngines, do
from Testing.lib.batch_run import without_pictures
from Testing.lib.file_worlds import write_dicom, write_series
from Testing.lib.small_world import write_image

PLAN = Plan(make_settings(), "oracle", "0" * 64)


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take more time than all else; where they matter a test is marked by this fixture's name."""
    if "pictures" not in request.fixturenames:
        without_pictures(monkeypatch.setattr)


@pytest.fixture
def pictures() -> None:
    """Draw pictures in this test."""


def lesion(side: int = 10) -> np.ndarray:
    grey = np.zeros((4, 24, 24), np.float32)
    grey[1:3, 5 : 5 + side, 5 : 5 + side] = 255
    return grey


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, a lesion of 200 voxels in each."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        write_image(folder / f"{name}.nii.gz", lesion())
    return folder


def run(
    inputs: Path, out: Path, plan: Plan = PLAN, engines: ThreadEngines | None = None, concept: str = "lesion"
) -> tuple[dict[str, str], ThreadEngines]:
    """State by case, and the engines."""
    engines, outcomes = engines or ThreadEngines(), list[Outcome]()
    folder = BatchFolder(out)
    with folder.opened():
        Batch(folder, engines, plan, outcomes.append).run(find_cases([str(inputs)], [concept], out).cases)
    assert len({outcome.case_id for outcome in outcomes}) == len(outcomes)
    return {outcome.case_id: outcome.state for outcome in outcomes}, engines


@pytest.mark.usefixtures("pictures")
def test_each_case_ends_in_its_folder_and_nothing_else_is_left(images: Path, tmp_path: Path) -> None:
    states, engines = run(images, tmp_path / "out")
    assert states == {"a": "done", "b": "done", "c": "done"}
    assert sorted(engines.begun) == ["a", "b", "c"]
    assert {path.name for path in (tmp_path / "out" / "cases" / "a").iterdir()} == {
        "case.json", "preview.png", "report.json", "segmentation.seg.nrrd", "thumbnails",
    }  # fmt: skip
    assert list((tmp_path / "out" / ".work").iterdir()) == []
    assert len(engines.dropped) == 3
    (finding,) = json.loads((tmp_path / "out/cases/a/report.json").read_text(encoding="utf-8"))["findings"]
    assert finding["voxels"] == 200


def test_what_is_done_is_skipped_until_input_settings_concepts_or_model_change(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    states, engines = run(images, out)
    assert set(states.values()) == {"skipped"}
    assert engines.begun == []
    write_image(images / "b.nii.gz", lesion(8))
    states, engines = run(images, out)
    assert engines.begun == ["b"]
    assert json.loads((out / "cases/b/case.json").read_text(encoding="utf-8"))["findings"][0]["voxels"] == 128
    for plan in (Plan(make_settings(rule="top1"), "oracle", "0" * 64), Plan(make_settings(), "oracle", "1" * 64)):
        assert len(run(images, out, plan)[1].begun) == 3
    assert len(run(images, out, plan, concept="liver")[1].begun) == 3
    moved = Plan(make_settings(device="cpu", memory_budget_gb=1.0), "oracle", "1" * 64)
    assert run(images, out, moved, concept="liver")[1].begun == []


def test_a_failure_costs_its_case_alone_and_is_tried_again_on_request_only(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail(order: Order) -> Answer:
        if order.volume_id == "b":
            return Answer(order.job_id, "failed", {"code": "run", "message": "No luck."})
        return do(order)

    states, _ = run(images, out, engines=ThreadEngines(1, fail))
    assert states == {"a": "done", "b": "failed", "c": "done"}
    states, engines = run(images, out)
    assert states["b"] == "failed_before"
    assert engines.begun == []
    states, engines = run(images, out, Plan(PLAN.settings, "oracle", PLAN.weights_hash, retry_failed=True))
    assert engines.begun == ["b"]
    assert states == {"a": "skipped", "b": "done", "c": "skipped"}
    assert list((out / "failed").iterdir()) == []


@pytest.mark.parametrize(("deaths", "state"), [(1, "done"), (2, "failed")])
def test_a_case_whose_engine_died_is_tried_once_more(images: Path, tmp_path: Path, deaths: int, state: str) -> None:
    died: list[str] = []

    def die(order: Order) -> Answer:
        if order.volume_id == "a" and len(died) < deaths:
            died.append(order.job_id)
            return Answer(order.job_id, "failed", {"code": "engine_died", "message": "It died."})
        return do(order)

    states, engines = run(images, tmp_path / "out", engines=ThreadEngines(1, die))
    assert states == {"a": state, "b": "done", "c": "done"}
    assert engines.begun.count("a") == 2


@pytest.mark.parametrize("code", ["weights", "disk_full"])
def test_what_concerns_all_cases_ends_the_run(images: Path, tmp_path: Path, code: str) -> None:
    def refuse(order: Order) -> Answer:
        return Answer(order.job_id, "failed", {"code": code, "message": "Nothing goes."})

    with pytest.raises(RunError, match="Nothing goes"):
        run(images, tmp_path / "out", engines=ThreadEngines(1, refuse))
    assert list((tmp_path / "out" / "failed").iterdir()) == []


def test_what_was_segmented_but_not_written_is_only_written(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from MedicalSAM3Lib import batch

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "_write", lambda *_: None)  # as if the process ended there
        patch.setattr(Batch, "_wait_until", lambda self, _: time.sleep(0.5))
        run(images, tmp_path / "out")
    assert batch.SEGMENTED in {path.name for path in (tmp_path / "out" / ".work").rglob("*")}
    states, engines = run(images, tmp_path / "out")
    assert set(states.values()) == {"done"}
    assert "a" not in engines.begun


def test_few_cases_are_alive_at_once_and_reading_goes_on_while_an_engine_works(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for n in range(12):
        write_image(tmp_path / "in" / f"{n:02}.nrrd", lesion())
    most, gate, out = 0, threading.Event(), tmp_path / "out"

    def slow(order: Order) -> Answer:
        nonlocal most
        deadline = time.monotonic() + 20
        while not gate.is_set() and time.monotonic() < deadline:  # until the next case was read beside this one
            if len(list((out / ".work").glob("*/volume/volume.json"))) > 1:
                gate.set()
        most = max(most, len(list((out / ".work").glob("*/volume/array.npy"))))
        return do(order)

    states, _ = run(tmp_path / "in", out, engines=ThreadEngines(1, slow))
    assert set(states.values()) == {"done"}
    assert gate.is_set()
    assert 1 < most <= PLACES_PER_ENGINE


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        BatchFolder(tmp_path / "out").opened(),
        pytest.raises(OutputError, match="another run"),
        BatchFolder(tmp_path / "out").opened(),
    ):
        pass


def broken_truncated(folder: Path) -> Path:
    whole = write_image(folder / "Doe^Jane.nii.gz", lesion()).read_bytes()
    (folder / "Doe^Jane.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


def broken_sizes(folder: Path) -> Path:
    write_image(folder / "x.mha", lesion())
    data = (folder / "x.mha").read_bytes()
    (folder / "x.mha").write_bytes(data.replace(b"DimSize = 24 24 4", b"DimSize = 24 24 9"))
    return folder


def broken_texts(folder: Path) -> Path:
    (folder / "notes.doc").write_text("no image", encoding="utf-8")
    return folder


def broken_huge(folder: Path) -> Path:
    write_image(folder / "x.mha", lesion())
    data = (folder / "x.mha").read_bytes()
    (folder / "x.mha").write_bytes(data.replace(b"DimSize = 24 24 4", b"DimSize = 30000 30000 9000"))
    return folder


def broken_gap(folder: Path) -> Path:
    write_series(folder, [0.0, 2.0, 8.0, 10.0])
    return folder


def broken_empty(folder: Path) -> Path:
    (folder / "x.nii.gz").touch()
    return folder


@pytest.mark.parametrize("make", [broken_truncated, broken_sizes, broken_texts, broken_huge, broken_gap, broken_empty])
def test_a_broken_case_costs_one_line_without_its_file_name(
    images: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    (images / "sub").mkdir()
    make(images / "sub")
    cohort, out = find_cases([str(images)], ["lesion"], tmp_path / "out"), tmp_path / "out"
    with pytest.raises(RunError, match="1 of 4 cases failed"):
        cli_batch.work(cohort, out, PLAN, ThreadEngines(), quiet=True)
    rows = list(csv.DictReader((out / "summary.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["lesion (ml)"] for row in rows if row["state"] == "done"] == ["0.200"] * 3
    (failed,) = [row for row in rows if row["state"] != "done"]
    assert failed["reason"].startswith("Expected")
    for file in ("summary.csv", "index.html", "manifest.jsonl"):
        assert "Doe^Jane" not in (out / file).read_text(encoding="utf-8")


def test_a_file_without_permission_costs_one_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from MedicalSAM3Lib import batch_state

    def closed(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(batch_state, "sha256_of", closed)
    states, _ = run(images, tmp_path / "out")
    assert set(states.values()) == {"failed"}
    assert "permission denied" in (tmp_path / "out/failed/a.json").read_text(encoding="utf-8")


def test_a_dicom_tree_is_read_by_its_headers(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write_series(tree / "p1", [0.0, 2.0, 4.0], SeriesInstanceUID="1.1", SeriesNumber=4)
    write_series(tree / "p1", [0.0, 2.0], SeriesInstanceUID="1.2", SeriesNumber=7)
    write_series(tree / "p2", [0.0, 2.0], SeriesInstanceUID="2.1", SeriesNumber=1)
    write_series(tree / "p2", [0.0, 2.0], SeriesInstanceUID="2.2", SeriesNumber=2, StudyInstanceUID="9")
    write_dicom(tree / "one.dcm", np.zeros((3, 4), np.int16), SeriesInstanceUID="3.1")
    (tree / "readme.md").write_text("text", encoding="utf-8")
    cohort = find_cases([str(tree)], ["lesion"], tmp_path / "out")
    sizes = {re.sub("study-[0-9a-f]{6}", "study", case.case_id): len(case.files) for case in cohort.cases}
    assert sizes == {
        "p1__series-4": 3,
        "p1__series-7": 2,
        "p2__study__series-2": 2,
        "p2__study__series-1": 2,
        "tree": 1,
    }
    assert cohort.passed_over == 1
    states, _ = run(tree, tmp_path / "out")
    assert set(states.values()) == {"done"}


def test_a_table_asks_each_case_for_concepts_of_its_own(images: Path, tmp_path: Path) -> None:
    table = images / "cohort.csv"
    table.write_text("image,case,concepts\na.nii.gz,one,lesion;liver\nb.nii.gz,,\nno.nii.gz,gone,\n", encoding="utf-8")
    cohort = find_cases([str(table)], ["lesion"], tmp_path / "out")
    assert {case.case_id: case.concepts for case in cohort.cases} == {
        "one": ("lesion", "liver"), "b": ("lesion",), "gone": ("lesion",),
    }  # fmt: skip
    states, _ = run(table, tmp_path / "out")
    assert states == {"one": "done", "b": "done", "gone": "failed"}


def test_patterns_lists_and_names_that_clash(images: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (images / name).mkdir()
        write_image(images / name / "ct.nrrd", lesion())
    ids = [case.case_id for case in find_cases([str(images / "*" / "*.nrrd")], ["liver"], tmp_path / "o").cases]
    assert ids == ["x__ct", "y__ct"]
    (images / "list.txt").write_text("# two\nx/ct.nrrd\ny/ct.nrrd\n", encoding="utf-8")
    ids = [case.case_id for case in find_cases([str(images / "list.txt")], ["liver"], tmp_path / "o").cases]
    assert len(set(ids)) == 2
    assert all(re.fullmatch("ct-[0-9a-f]{8}", name) for name in ids)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no-such-file.nii.gz", "-c", "liver"), "does not exist"),
        (("in",), "--concept"),
        (("in", "-c", "liver", "-c", "liver"), "concept once"),
        (("in/bad.csv", "-c", "liver"), "image"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_written(
    images: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(images.parent)
    (images / "bad.csv").write_text("file\nx\n", encoding="utf-8")
    assert cli.main(["batch", *words, "-o", "out"]) == 2
    assert said in capfd.readouterr().err
    assert not Path("out").exists()


def test_manifest_and_page_say_what_to_look_at_first(images: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    for n in range(4):
        write_image(images / f"d{n}.nii.gz", lesion())
    write_image(images / "odd.nii.gz", lesion(3))
    (images / "z.nii.gz").touch()
    out = tmp_path / "out"
    with pytest.raises(RunError, match="1 of 9"):
        cli_batch.work(find_cases([str(images)], ["lesion", "<b>"], out), out, PLAN, ThreadEngines(2), quiet=True)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert re.findall("<h2>(.*?)</h2>", page)[:3] == ["z", "odd", "a"]
    assert "unusual volume; the cohort&#x27;s median" in page or "unusual volume; the cohort's median" in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert page.count("data:image/jpeg;base64,") == 8
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 9
    assert str(images) not in page + json.dumps(lines)
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert len(rows) == 17
    assert {round(row["volume_ml"], 3) for row in rows if row["answer"] == "found"} == {0.2, 0.018}


def test_long_cohorts_go_on_in_further_pages(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_page, "CASES_PER_PAGE", 2)
    out = tmp_path / "out"
    cli_batch.work(find_cases([str(images)], ["lesion"], out), out, PLAN, ThreadEngines(), quiet=True)
    assert sorted(path.name for path in out.glob("*.html")) == ["index-2.html", "index.html"]


def test_a_folder_without_images_is_a_case_that_failed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    states, _ = run(tmp_path / "in", tmp_path / "out")
    assert states == {"in": "failed"}


def test_volumes_pass_by_disk_mapped(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    load = volume_files.load
    monkeypatch.setattr(volume_files, "load", lambda *words: opened.append(load(*words)) or opened[-1])
    run(images, tmp_path / "out")
    assert all(isinstance(volume.array, np.memmap) for volume in opened)


@pytest.mark.parametrize(
    ("devices", "workers", "places"),
    [
        (None, 1, ("auto",)),
        ("cpu", 2, ("cpu", "cpu")),
        ("cuda:0,cuda:1", 1, ("cuda:0", "cuda:1")),
        ("cuda:0,cuda:1", 3, ("cuda:0", "cuda:1", "cuda:0")),
    ],
)
def test_each_worker_has_a_device(devices: str | None, workers: int, places: tuple[str, ...]) -> None:
    assert cli_batch.choose_devices(devices, workers) == places
