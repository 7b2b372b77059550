"""The engine: orders on a small model give what the library gives, to the voxel, and end in one answer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib import engine_work, masks_wire, result_files
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.engine import Engine, _listen, order_from, order_to
from MedicalSAM3Lib.engine_port import Answer
from MedicalSAM3Lib.engine_work import Workshop, explain, is_lost
from MedicalSAM3Lib.errors import Cancelled, GeometryError, MemoryFull, PromptError
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.structures import Progress, Volume
from Testing.lib.small_world import save_small_model
from Testing.server.orders import OPEN, Bench, oblique_volume


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def warm(model_folder: Path) -> Workshop:
    return Workshop("cpu", str(model_folder))


@pytest.fixture
def workshop(warm: Workshop) -> Workshop:
    """With its model loaded, as most orders find it, and no features."""
    warm.drop_features(None)
    warm.is_lost = False
    return warm


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def never() -> bool:
    return False


def test_the_warm_up_says_which_model_is_there(workshop: Workshop) -> None:
    facts = workshop.warm_up()
    assert (facts.name, facts.demonstration, facts.has_tracker) == ("small", True, False)
    assert len(facts.weights_hash) == 64
    assert len(workshop.cache) == 0, "the phantom leaves nothing behind"


def test_an_order_gives_what_the_library_gives(workshop: Workshop, bench: Bench, model_folder: Path) -> None:
    volume, concepts = oblique_volume(), ["liver", "left kidney"]
    order = bench.order(volume, *concepts)
    workshop.do(order, bench.answers.append, never)
    own = segment(volume, concepts, load_model(model_folder, "cpu"), make_settings(**OPEN))
    stored = result_files.read_segmentation(order.out)
    assert stored.findings == own.findings
    assert np.array_equal(stored.ijk_to_lps, volume.ijk_to_lps)
    assert any(finding.state == "found" for finding in own.findings), "else there is nothing to compare"
    entries = result_files.read_segments(order.out)
    assert len(entries) == sum(finding.state == "found" for finding in own.findings)
    for entry in entries:
        mask = own.mask_kji(own.findings[entry["finding"]])
        data = result_files.mask_path(order.out, entry["index"]).read_bytes()
        packed = masks_wire.PackedMask(tuple(entry["box_kji"]), entry["voxels"], data)
        assert np.array_equal(masks_wire.unpack(packed, volume.shape_kji), mask)
    report = json.loads((order.out / "report.json").read_text())
    assert report["input"]["name"] == "v123"
    found = [answer.data for answer in bench.answers if answer.kind == "finding"]
    assert [one["finding"] for one in found] == report["findings"]
    assert [one["index"] for one in found] == [0, 1]
    assert bench.kinds()[-1] == "done"


def test_progress_never_goes_back_and_ends_at_all(workshop: Workshop, bench: Bench) -> None:
    workshop.do(bench.order(oblique_volume()), bench.answers.append, never)
    shares = [answer.data["fraction"] for answer in bench.answers if answer.kind == "progress"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_the_second_concept_on_a_volume_does_not_run_the_trunk(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.order(oblique_volume(), "liver")
    workshop.do(first, bench.answers.append, never)
    net = workshop.model("auto").model
    monkeypatch.setattr(type(net), "encode_trunk", lambda *_: pytest.fail("the trunk ran again"))
    workshop.do(bench.order(None, "spleen", place=first.volume), bench.answers.append, never)
    assert bench.kinds().count("done") == 2


def test_dropped_features_are_gone_of_that_volume_alone(workshop: Workshop, bench: Bench) -> None:
    orders = [bench.order(oblique_volume(), "liver"), bench.order(Volume(np.zeros((3, 40, 40), np.float32), np.eye(4)))]
    for order in orders:
        workshop.do(order, bench.answers.append, never)
    whole = workshop.cache.nbytes
    assert whole > 0
    freed = workshop.drop_features([str(orders[0].volume), "unknown"])
    assert 0 < freed < whole
    assert workshop.cache.nbytes == whole - freed
    assert workshop.drop_features(None) == whole - freed
    assert len(workshop.cache) == 0


def test_two_volumes_of_one_content_share_features_until_both_are_dropped(workshop: Workshop, bench: Bench) -> None:
    orders = [bench.order(oblique_volume()), bench.order(oblique_volume())]
    for order in orders:
        workshop.do(order, bench.answers.append, never)
    assert len(workshop.cache) == 1
    assert workshop.drop_features([str(orders[0].volume)]) == 0
    assert workshop.drop_features([str(orders[1].volume)]) > 0


def test_an_estimate_is_plain_values(workshop: Workshop, bench: Bench) -> None:
    workshop.do(bench.order(oblique_volume(), kind="estimate"), bench.answers.append, never)
    assert bench.kinds() == ["done"]
    told = json.loads(json.dumps(bench.answers[0].data, allow_nan=False))["estimate"]
    assert told["seconds"] > 0
    assert told["slices"] == 6
    assert told["problem"] == ""


def test_a_cancel_is_heard_at_the_next_report_and_leaves_no_result(workshop: Workshop, bench: Bench) -> None:
    order = bench.order(oblique_volume())
    reports: list[int] = []

    def after_two() -> bool:
        reports.append(1)
        return len(reports) > 2

    workshop.do(order, bench.answers.append, after_two)
    assert bench.kinds()[-1] == "cancelled"
    assert len(reports) == 3
    assert list(order.out.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "more"),
    [
        ("settings", {"settings": {"mode": "fuse"}}),
        ("settings", {"settings": {"axis": "7"}}),
        ("settings", {"model": "no-such-model"}),
        ("concept", {"concepts": ("liver", "Liver")}),
        ("concept", {"concepts": ("word " * 500,)}),
        ("internal", {"place": Path("gone")}),
    ],
)
def test_what_cannot_be_done_ends_in_one_sentence(
    workshop: Workshop, bench: Bench, code: str, more: dict[str, Any]
) -> None:
    order = bench.order(oblique_volume(), *more.pop("concepts", ("liver",)), **more)
    workshop.do(order, bench.answers.append, never)
    assert bench.kinds() == ["failed"]
    assert bench.answers[0].data["code"] == code
    assert "\n" not in bench.answers[0].data["message"]
    workshop.do(bench.order(oblique_volume()), bench.answers.append, never)
    assert bench.kinds()[-1] == "done", "the next order is done"


def test_a_full_disk_is_said(workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_work, "write_results", full)
    workshop.do(bench.order(oblique_volume()), bench.answers.append, never)
    assert bench.answers[-1].data["code"] == "disk_full"


def test_a_lost_device_is_not_answered_but_ends_the_engine(
    workshop: Workshop, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine_work, "segment_with_report", lost)
    engine = Engine(lambda: workshop, (sent := []).append)
    engine.hear({"order": order_to(bench.order(oblique_volume()))})
    assert engine.work() == 1
    assert [next(iter(message)) for message in sent] == ["ready"]


def test_errors_have_codes_and_hide_what_they_were_about() -> None:
    assert explain(PromptError("Type a word."))["code"] == "concept"
    assert explain(GeometryError("Sheared."))["code"] == "geometry"
    assert explain(MemoryFull("Full.", is_main=True))["code"] == explain(MemoryError())["code"] == "memory"
    told = explain(ValueError("Jane Doe, born 1970"))
    assert told["code"] == "internal"
    assert "Jane" not in told["message"]
    assert "ValueError" in told["message"]


def test_a_lost_device_is_known_by_the_cause_of_an_error() -> None:
    error = ValueError("something else")
    error.__cause__ = RuntimeError("CUDA error: device-side assert triggered")
    assert is_lost(error)
    assert not is_lost(ValueError("CUDA out of memory"))


def test_a_client_cannot_choose_the_device_nor_more_memory_than_there_is(model_folder: Path) -> None:
    workshop = Workshop("cpu", str(model_folder), budget_gb=2.0)
    settings = workshop._settings({"device": "cuda:7", "memory_budget_gb": 1e9})
    assert (settings.device, settings.memory_budget_gb) == ("cpu", 2.0)
    assert workshop._settings({"memory_budget_gb": 0.5}).memory_budget_gb == 0.5
    assert workshop._settings({}).memory_budget_gb is None


def test_models_that_are_not_used_are_let_go(model_folder: Path, tmp_path: Path) -> None:
    workshop = Workshop("cpu", str(model_folder))
    others = [save_small_model(tmp_path / name) for name in ("one", "two")]
    first = workshop.model("auto")
    assert workshop.model("auto") is first
    for other in others:
        assert workshop.model(str(other)).card.parent == other
    assert workshop.model("auto") is not first


def test_an_order_passes_the_pipe_unchanged(bench: Bench) -> None:
    order = bench.order(oblique_volume(), "liver", 'größe "ß"\n')
    assert order_from(json.loads(json.dumps(order_to(order)))) == order


class Words:
    """A workshop whose orders last until they are cancelled."""

    device, is_lost = "cpu", False

    def warm_up(self) -> Any:
        raise Cancelled("no model")

    def do(self, order: Any, answer: Callable[[Answer], None], is_cancelled: Callable[[], bool]) -> None:
        while not is_cancelled():
            pass
        answer(Answer(order.job_id, "cancelled"))

    def drop_features(self, volumes: Any) -> int:
        return 7


def test_an_engine_without_a_model_says_why_and_goes_on(bench: Bench) -> None:
    sent: list[dict[str, Any]] = []
    engine = Engine(Words, sent.append)  # type: ignore[arg-type]
    order = bench.order()
    engine.hear({"drop": None, "ticket": 1})
    engine.hear({"order": order_to(order)})
    engine.hear({"cancel": order.job_id})
    engine.hear({"stop": True})
    assert engine.work() == 0
    engine.hear({"drop": None, "ticket": 2})
    assert sent == [
        {"freed": 0, "ticket": 1},
        {"unready": "no model"},
        {"answer": asdict(Answer(order.job_id, "cancelled"))},
        {"freed": 7, "ticket": 2},
    ]


def test_the_end_of_the_input_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    _listen(Engine(Words, print), io.StringIO('{"cancel": "x"}\n'))  # type: ignore[arg-type]
    assert codes == [0]


def test_reports_are_thinned_out_within_a_stage_only() -> None:
    beat = engine_work._Beat()
    assert beat.is_due(Progress("features", 0, 100))
    assert not beat.is_due(Progress("features", 1, 100))
    assert beat.is_due(Progress("features", 100, 100))
    assert beat.is_due(Progress("detection", 0, 100))
