"""A batch from its cases to their folders, with an oracle in the place of the model."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib import volume_files
from MedicalSAM3Lib.batch import PLACES_PER_ENGINE, Batch
from MedicalSAM3Lib.batch_job import Plan
from MedicalSAM3Lib.batch_state import SEGMENTED, BatchFolder
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine_port import Answer, EngineState, OnAnswer, OnChange, Order
from MedicalSAM3Lib.errors import OutputError, RunError
from Testing.lib.batch_engine import ThreadEngines, do
from Testing.lib.batch_run import without_pictures
from Testing.lib.batch_world import PLAN, lesion, run, three_images
from Testing.lib.small_world import write_image


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take more time than all else; where they matter a test is marked by this fixture's name."""
    if "pictures" not in request.fixturenames:
        without_pictures(monkeypatch.setattr)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images."""
    return three_images(tmp_path)


@pytest.fixture
def pictures() -> None:
    """Draw pictures in this test."""


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
    assert not engines.is_started
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


def test_an_engine_is_given_nothing_before_its_last_answer_is_on_disk(images: Path, tmp_path: Path) -> None:
    out, most = tmp_path / "out", 0

    class Greedy(ThreadEngines):
        """Takes whatever it is given, as an engine does that has ended an order which is not yet heard of."""

        def give(self, order: Order) -> bool:
            nonlocal most
            marked = len(list(out.glob(".work/*/segmented.json"))) + len(list(out.glob("cases/*/case.json")))
            most = max(most, len(self.begun) + 1 - marked)
            self.begun.append(order.volume_id)
            threading.Thread(target=self._do, args=(order,), daemon=True).start()
            return True

    states, _ = run(images, out, engines=Greedy())
    assert set(states.values()) == {"done"}
    assert most == 1


def test_other_weights_than_those_of_the_run_end_it(images: Path, tmp_path: Path) -> None:
    named = replace(PLAN, report_hash="f" * 64)
    with pytest.raises(RunError, match="weights that the run began with"):
        run(images, tmp_path / "out", named)
    assert not list((tmp_path / "out" / "cases").iterdir())
    hash_of_oracle = json.loads(one_report(images, tmp_path / "other"))["model"]["weights_hash"]
    states, _ = run(images, tmp_path / "out", replace(PLAN, report_hash=hash_of_oracle))
    assert set(states.values()) == {"done"}


def one_report(images: Path, out: Path) -> str:
    run(images, out)
    return (out / "cases" / "a" / "report.json").read_text(encoding="utf-8")


def test_engines_that_never_start_end_the_run(images: Path, tmp_path: Path) -> None:
    class Dead(ThreadEngines):
        def start(self, on_answer: OnAnswer, on_change: OnChange) -> None:
            super().start(on_answer, on_change)
            for _ in range(3):
                on_change()

        def states(self) -> tuple[EngineState, ...]:
            return (EngineState("cpu", "dead"), EngineState("cpu", "dead"))

        def give(self, _: Order) -> bool:
            return False

    with pytest.raises(RunError, match="Expected an engine to start"):
        run(images, tmp_path / "out", engines=Dead())


def test_runs_do_not_share_the_folder_of_a_case_on_its_way(tmp_path: Path) -> None:
    killed, next_one = BatchFolder(tmp_path), BatchFolder(tmp_path)
    folder, _ = killed.work_folder("key", "a")
    other, is_segmented = next_one.work_folder("key", "a")
    assert folder != other
    assert not is_segmented
    (folder / SEGMENTED).touch()
    assert next_one.work_folder("key", "a") == (folder, True)
    assert next_one.work_folder("key", "b")[0] not in (folder, other)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        BatchFolder(tmp_path / "out").opened(),
        pytest.raises(OutputError, match="another run"),
        BatchFolder(tmp_path / "out").opened(),
    ):
        pass


def test_volumes_pass_by_disk_mapped(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    load = volume_files.load
    monkeypatch.setattr(volume_files, "load", lambda *words: opened.append(load(*words)) or opened[-1])
    run(images, tmp_path / "out")
    assert all(isinstance(volume.array, np.memmap) for volume in opened)
