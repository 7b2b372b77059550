"""What a batch makes of its inputs: folders, tables, lists, DICOM trees, what is broken, and what is a wrong call."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib import cli, cli_batch
from MedicalSAM3Lib.batch_cases import find_cases
from MedicalSAM3Lib.errors import RunError
from Testing.lib.batch_engine import ThreadEngines
from Testing.lib.batch_run import without_pictures
from Testing.lib.batch_world import PLAN, lesion, run, three_images
from Testing.lib.file_worlds import write_dicom, write_series
from Testing.lib.small_world import write_image


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take more time than all else."""
    without_pictures(monkeypatch.setattr)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images."""
    return three_images(tmp_path)


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


def test_a_folder_without_images_is_a_case_that_failed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    states, _ = run(tmp_path / "in", tmp_path / "out")
    assert states == {"in": "failed"}


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


def test_one_flag_names_several_devices(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(cli_batch, "run", lambda *words, **_: chosen.append(words[-1]))
    words = ["batch", str(images), "-c", "liver", "-o", str(tmp_path / "out")]
    assert cli.main([*words, "--device", "cuda:0,cuda:1"]) == 0
    assert chosen == [("cuda:0", "cuda:1")]
    assert cli.main([*words, "--device", "cuda:0,moon"]) == 2
