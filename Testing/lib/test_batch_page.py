"""Manifest, tables and page of a batch: what a person should look at first, and little memory for many cases."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from MedicalSAM3Lib import batch_page, batch_tables, cli_batch
from MedicalSAM3Lib.batch_attention import Usual, attention
from MedicalSAM3Lib.batch_cases import find_cases
from MedicalSAM3Lib.errors import RunError
from MedicalSAM3Lib.report import RESEARCH_NOTICE
from Testing.lib.batch_engine import ThreadEngines
from Testing.lib.batch_run import without_pictures
from Testing.lib.batch_world import PLAN, lesion, three_images
from Testing.lib.small_world import write_image


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take more time than all else."""
    without_pictures(monkeypatch.setattr)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images."""
    return three_images(tmp_path)


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
    reason = "Expected an image, got an empty file: z; copy or export it again."
    assert re.findall("<td>(.*?)</td>", page) == ["z", reason]
    assert re.findall("<h2>(.*?)<small>", page)[:2] == ["odd", "a"]
    assert " times the cohort&#x27;s median" in page
    assert page.count("<strong>&lt;b&gt;</strong> not found") == 8
    assert "<b>" not in page
    assert page.index(RESEARCH_NOTICE) < page.index("<table>") < page.index("<section")
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert page.count("data:image/jpeg;base64,") == 8
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 9
    assert str(images) not in page + json.dumps(lines)
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert len(rows) == 17
    assert {row["largest_mm"] > row["axial_short_mm"] for row in rows if row["answer"] == "found"} == {True}
    assert {round(row["volume_ml"], 3) for row in rows if row["answer"] == "found"} == {0.2, 0.018}


def record(case: str, **finding: Any) -> dict[str, Any]:
    values = {"phrase": "liver", "state": "found", "volume_ml": 1500.0, "presence": 0.99, "confidence": 0.9,
              "review_slices": [], "reason": "", "concept_id": "liver", "voxels": 9, "instances": 1}  # fmt: skip
    facts = {
        "state": "done",
        "reason": "",
        "notices": [],
        "seconds": {},
        "modality": "CT",
        "model": "oracle",
        "model_notice": "",
    }
    return {"case": case, **facts, "findings": [{**values, **finding}]}


@pytest.mark.parametrize(
    ("finding", "why"),
    [
        ({}, []),
        ({"state": "failed", "reason": "no memory"}, ["no memory"]),
        ({"state": "not_found", "presence": 0.1, "confidence": None}, ["not found, but in 6 of 7 cases"]),
        ({"volume_ml": 700.0}, ["unusual volume: 0.47 times the cohort's median"]),
        ({"presence": 0.6}, ["unsure whether it is there"]),
        ({"confidence": 0.4}, ["low confidence"]),
        ({"review_slices": [4]}, ["look at slice 4"]),
        ({"review_slices": [1, 2, 3, 7]}, ["look at slices 1-3, 7"]),
        ({"review_slices": list(range(0, 20, 2))}, ["look at slices 0, 2, 4, 6, 8, 10 ..."]),
    ],
)
def test_what_a_person_should_look_at_is_said_with_its_reason(finding: dict[str, Any], why: list[str]) -> None:
    odd = record("odd", **finding)
    usual = Usual.of([odd, *(record(f"{n}", volume_ml=1500.0 + n) for n in range(-2, 4))])
    score, reasons = attention(odd["findings"][0], usual)
    assert reasons == why
    assert (score > 0) == bool(why)


def test_a_picture_has_pixels_and_no_millilitres(tmp_path: Path) -> None:
    def records() -> Iterator[dict[str, Any]]:
        yield record("photo", voxels=2182, volume_ml=2.182) | {"is_2d": True}
        yield record("volume")

    batch_tables.write_tables(tmp_path, records)
    batch_page.write_pages(tmp_path, records)
    table = list(csv.reader((tmp_path / "summary.csv").read_text(encoding="utf-8").splitlines()))
    assert table == [
        ["case", "state", "reason", "liver (ml)", "liver (pixels)"],
        ["photo", "done", "", "", "2182"],
        ["volume", "done", "", "1500.000", ""],
    ]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<span>2,182 px</span>" in page
    assert "<span>1500 ml</span>" in page


def test_tables_and_pages_hold_few_cases_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_page, "CASES_PER_PAGE", 5)
    monkeypatch.setattr(batch_tables, "_ROWS_AT_ONCE", 5)
    size, count = 500_000, 100

    def records() -> Iterator[dict[str, Any]]:
        for n in range(count):
            yield record(f"{n:03}") | {"notices": [f"{n}" + "x" * size]}

    tracemalloc.start()
    batch_tables.write_tables(tmp_path, records)
    batch_page.write_pages(tmp_path, records)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size * count / 2
    assert len(list(tmp_path.glob("*.html"))) == count / 5


def test_long_cohorts_go_on_in_further_pages(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_page, "CASES_PER_PAGE", 2)
    out = tmp_path / "out"
    cli_batch.work(find_cases([str(images)], ["lesion"], out), out, PLAN, ThreadEngines(), quiet=True)
    assert sorted(path.name for path in out.glob("*.html")) == ["index-2.html", "index.html"]
