"""Jobs: asked for once, fairly queued, followed, cancelled, and their results fetched."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

from MedicalSAM3Lib.masks_wire import PackedMask, unpack
from MedicalSAM3Lib.resources import resource
from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import World, ball, png, world

BAD_SETTINGS = [
    {"mode": "magic"}, {"nonsense": 1}, {"presence_threshold": 2}, {"roi": [1, 0, 0, 1, 0, 1]}, {"slices": [3]},
    {"window": "x" * 10_000}, {"device": "cuda:7"}, {"device": "; rm -rf"}, "text", {"memory_budget_gb": -1},
]  # fmt: skip

BAD_CONCEPTS = [
    [], [""], ["  "], ["liver", "Liver"], ["x" * 100_000], ["a\x00b"], ["a\nb"], ["\x1b[31m"], ["\u202eabc"], [3],
    [f"c{number}" for number in range(65)], "liver", None, ["!!!"],
]  # fmt: skip


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with a job that is done: ``done.job_id``."""
    with world(tmp_path_factory.mktemp("done"), engines=FakeEngines(at_once=True)) as running:
        reply = running.ask(
            running.volume(), "liver", "nothing here", "spleen", settings={"overlap": "keep", "confidence_map": True}
        )
        running.job_id = reply.json()["job_id"]  # type: ignore[attr-defined]
        running.wait(running.job_id)  # type: ignore[attr-defined]
        yield running


def get(done: World, path: str) -> Any:
    return done.client.get(f"/v1/jobs/{done.job_id}/{path}")  # type: ignore[attr-defined]


def test_a_job_runs_and_every_concept_has_its_answer(done: World) -> None:
    job = done.job(done.job_id)  # type: ignore[attr-defined]
    assert [(finding["phrase"], finding["state"]) for finding in job["findings"]] == [
        ("liver", "found"), ("nothing here", "not_found"), ("spleen", "found")
    ]  # fmt: skip
    assert [(entry["index"], entry["finding"], entry["name"]) for entry in job["segments"]] == [
        (0, 0, "liver"), (1, 2, "spleen")
    ]  # fmt: skip
    assert (job["state"], job["progress"]["fraction"], job["error"]) == ("done", 1.0, None)
    assert job["created"] <= job["started"] <= job["ended"]


@pytest.mark.parametrize("index", [0, 1])
def test_a_mask_comes_back_to_the_voxel(done: World, index: int) -> None:
    reply = get(done, f"segments/{index}/mask")
    box = tuple(int(end) for end in reply.headers["x-mask-box"].split(","))
    packed = PackedMask(box, int(reply.headers["x-mask-voxels"]), reply.content)  # type: ignore[arg-type]
    np.testing.assert_array_equal(unpack(packed, (4, 6, 8)), ball() > 0)
    assert reply.headers["x-mask-shape"] == "2,3,4"
    assert "content-encoding" not in reply.headers


@pytest.mark.parametrize("index", ["2", "-1", "99999999999999999999"])
def test_a_mask_that_is_not_there_is_refused(done: World, index: str) -> None:
    assert get(done, f"segments/{index}/mask").json()["code"] == "segment"


def test_the_segmentation_is_on_the_inputs_grid(done: World) -> None:
    reply = get(done, "segmentation?format=seg.nrrd")
    assert reply.headers["content-disposition"] == 'attachment; filename="segmentation.seg.nrrd"'
    path = done.root / "got.seg.nrrd"
    path.write_bytes(reply.content)
    image = sitk.ReadImage(str(path))
    assert image.GetSpacing() == (1.0, 2.0, 3.0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[..., 0] == 1, ball() > 0)
    assert get(done, "segmentation").content == reply.content


def test_masks_that_overlap_come_in_an_archive(done: World) -> None:
    for name in ("nii.gz", "nii"):
        reply = get(done, f"segmentation?format={name}")
        assert (reply.status_code, reply.json()["code"]) == (422, "format")
    with zipfile.ZipFile(io.BytesIO(get(done, "segmentation?format=zip").content)) as archive:
        assert sorted(archive.namelist()) == [
            "segmentation.labels.json", "segmentation.nii.gz", "segmentation_layer2.nii.gz"
        ]  # fmt: skip


def test_formats_that_there_are_not_are_refused(done: World) -> None:
    assert get(done, "segmentation?format=png").json()["code"] == "format"
    for path in ("segmentation?format=exe", "segmentation?format=../../x", "confidence?format=png"):
        assert get(done, path).status_code == 422


def test_confidence_and_report_are_files(done: World) -> None:
    path = done.root / "confidence.nii.gz"
    path.write_bytes(get(done, "confidence?format=nii.gz").content)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), ball() > 0)
    report = get(done, "report").json()
    jsonschema.validate(report, json.loads(resource("report.schema.json").read_text(encoding="utf-8")))
    assert report["input"]["name"] == done.job(done.job_id)["volume_id"]  # type: ignore[attr-defined]


def test_a_picture_gives_a_png_and_without_overlap_a_label_map(tmp_path: Path) -> None:
    with world(tmp_path, engines=FakeEngines(at_once=True)) as running:
        volume = running.upload(png(ball()[1].astype(np.uint8)), "tile.png").json()
        assert volume["is_picture"]
        job = running.ask(volume["volume_id"], "liver").json()["job_id"]
        running.wait(job)
        for name in ("png", "nii.gz", "nii"):
            assert running.client.get(f"/v1/jobs/{job}/segmentation?format={name}").status_code == 200
        assert running.client.get(f"/v1/jobs/{job}/confidence").json()["code"] == "confidence"


def test_a_real_child_writes_the_file(tmp_path: Path) -> None:
    with world(tmp_path, engines=FakeEngines(at_once=True), real_children=True) as running:
        job = running.ask(running.volume(), "liver").json()["job_id"]
        running.wait(job)
        assert running.client.get(f"/v1/jobs/{job}/segmentation?format=nii.gz").content[:2] == b"\x1f\x8b"
        assert running.client.get(f"/v1/jobs/{job}/segmentation?format=png").json()["code"] == "format"


@pytest.mark.parametrize("path", ["segments/0/mask", "segmentation", "report", "confidence"])
def test_there_are_no_results_before_the_end(one: World, path: str) -> None:
    job = one.ask(one.volume(), "liver").json()["job_id"]
    for state in ("running", "cancelled"):
        reply = one.client.get(f"/v1/jobs/{job}/{path}")
        assert (reply.status_code, reply.json()["code"]) == (409, "not_done")
        assert state in reply.json()["message"]
        one.client.post(f"/v1/jobs/{job}/cancel")


@pytest.mark.parametrize("settings", BAD_SETTINGS)
def test_settings_that_cannot_be_used_are_refused(one: World, settings: Any) -> None:
    reply = one.ask(one.volume(), "liver", settings=settings)
    assert (reply.status_code, reply.json()["code"]) == (422, "settings")
    assert len(reply.text) < 1000
    assert one.engines.orders == []


@pytest.mark.parametrize(
    "text",
    [
        '"settings": {"memory_budget_gb": 1e999}',
        '"settings": {"memory_budget_gb": Infinity}',
        '"settings": {"presence_threshold": NaN}',
        '"settings": {"slices": [0, 1e300]}',
        '"settings": {"slices": [0, ' + "9" * 5000 + "]}",
        '"settings": {"\\ud800": 1}',
        '"model": "\\ud800"',
        '"model": ' + "[" * 50_000,
        '"settings": {"window": "\\u0000,5"}',
    ],
)
def test_values_that_no_number_or_text_can_be_are_refused(one: World, text: str) -> None:
    body = f'{{"volume_id": "{one.volume()}", "concepts": ["liver"], {text}}}'
    reply = one.client.post("/v1/jobs", content=body.encode(), headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert reply.json()["code"] in ("settings", "request")
    assert one.client.get("/v1/jobs").json() == []


@pytest.mark.parametrize("path", ["%00", "%ff", "x" * 5000, "%2e%2e", "%27%20OR%201=1"])
def test_names_that_cannot_be_are_unknown(one: World, path: str) -> None:
    for kind in ("jobs", "volumes", "uploads"):
        assert one.client.get(f"/v1/{kind}/{path}").json()["code"] in (kind[:-1], "no_route")


@pytest.mark.parametrize("concepts", BAD_CONCEPTS)
def test_concepts_that_cannot_be_used_are_refused(one: World, concepts: Any) -> None:
    body = {"volume_id": one.volume(), "concepts": concepts}
    reply = one.client.post("/v1/jobs", json=body)
    assert (reply.status_code, reply.json()["code"]) == (422, "concept")
    assert len(reply.text) < 1000
    assert one.client.get("/v1/jobs").json() == []


@pytest.mark.parametrize(
    "concept", ["'; DROP TABLE jobs;--", "../../etc/passwd", "<script>alert(1)</script>", "肝臓", "{0}%s"]
)
def test_odd_words_are_words(one: World, concept: str) -> None:
    job = one.ask(one.volume(), concept).json()
    one.engines.finish(job["job_id"])
    assert one.wait(job["job_id"])["findings"][0]["phrase"] == concept


@pytest.mark.parametrize(
    ("model", "code"), [("nothing", "model"), ("sam3", "model"), ("../tiny", "request"), ("", "request")]
)
def test_a_model_that_is_not_there_is_refused(one: World, model: str, code: str) -> None:
    body = {"volume_id": one.volume(), "concepts": ["liver"], "model": model}
    assert one.client.post("/v1/jobs", json=body).json()["code"] == code
    assert one.client.post("/v1/jobs", json=body | {"model": "tiny"}).status_code == 202
    assert one.engines.orders[0].model == "tiny"


@pytest.mark.parametrize("volume_id", ["nothing", "x" * 101, "", "../..", None])
def test_a_volume_that_is_not_there_is_refused(one: World, volume_id: Any) -> None:
    reply = one.client.post("/v1/jobs", json={"volume_id": volume_id, "concepts": ["liver"]})
    assert reply.status_code in (404, 422)


def test_the_same_key_runs_a_job_once(one: World) -> None:
    volume, key = one.volume(), {"Idempotency-Key": "k"}
    first, second = (one.ask(volume, "liver", **key).json() for _ in range(2))
    assert first["job_id"] == second["job_id"]
    assert len(one.engines.orders) == 1
    reply = one.ask(volume, "spleen", **key)
    assert (reply.status_code, reply.json()["code"]) == (409, "key_reused")
    assert one.ask(volume, "spleen").json()["job_id"] != first["job_id"]


def test_an_estimate_is_a_job_with_numbers(one: World) -> None:
    body = {"volume_id": one.volume(), "concepts": ["liver"]}
    job = one.client.post("/v1/estimate", json=body).json()
    assert (job["kind"], job["estimate"], one.engines.orders[0].kind) == ("estimate", None, "estimate")
    one.engines.finish(job["job_id"])
    assert one.wait(job["job_id"])["estimate"] == {"seconds": 2.0, "host_more_mb": 100.0}
    assert one.client.get(f"/v1/jobs/{job['job_id']}/report").json()["code"] == "not_done"


def test_a_waiting_job_is_cancelled_at_once(one: World) -> None:
    volume = one.volume()
    first, second = (one.ask(volume, name).json() for name in ("liver", "spleen"))
    assert (first["state"], second["state"], second["position"]) == ("running", "queued", 0)
    assert one.client.post(f"/v1/jobs/{second['job_id']}/cancel").json()["state"] == "cancelled"
    assert one.engines.cancelled == []
    assert one.client.post(f"/v1/jobs/{second['job_id']}/cancel").json()["state"] == "cancelled"


def test_a_running_job_is_cancelled_by_its_engine_and_the_next_one_runs(one: World) -> None:
    volume = one.volume()
    first, second = (one.ask(volume, name).json()["job_id"] for name in ("liver", "spleen"))
    one.client.post(f"/v1/jobs/{first}/cancel")
    assert one.engines.cancelled == [first]
    one.wait(first, "cancelled")
    assert one.job(second)["state"] == "running"
    (out,) = {order.out for order in one.engines.orders if order.job_id == first}
    assert not out.exists()


def test_a_job_can_be_forgotten_whatever_its_state(one: World) -> None:
    volume = one.volume()
    running, waiting = (one.ask(volume, name).json()["job_id"] for name in ("liver", "spleen"))
    for job in (waiting, running):
        assert one.client.delete(f"/v1/jobs/{job}").status_code == 200
    assert one.client.get("/v1/jobs").json() == []
    assert one.client.get(f"/v1/jobs/{running}").json()["code"] == "job"
    finished = one.ask(volume, "kidney").json()["job_id"]
    one.engines.finish(finished)
    one.wait(finished)
    one.client.delete(f"/v1/jobs/{finished}")
    assert list(one.front.spool.folder.glob("job-*")) == []


def test_an_engine_that_dies_fails_its_job_and_the_next_one_runs(one: World) -> None:
    volume = one.volume()
    first, second = (one.ask(volume, name).json()["job_id"] for name in ("liver", "spleen"))
    one.engines.fail(first)
    job = one.wait(first, "failed")
    assert job["error"] == {"code": "engine_died", "message": "The engine ended. Try again."}
    assert one.job(second)["state"] == "running"
    one.engines.say(first, "progress", stage="features", done=1, total=2)  # too late: nobody listens
    assert one.job(first) == job


def test_results_that_cannot_be_read_fail_the_job(one: World) -> None:
    job = one.ask(one.volume(), "liver").json()["job_id"]
    one.engines.say(job, "done")
    assert one.wait(job, "failed")["error"]["code"] == "results"


def test_results_that_do_not_fit_the_disk_fail_the_job(one: World) -> None:
    job = one.ask(one.volume(), "liver").json()["job_id"]
    one.front.spool._most_bytes = one.front.spool.promised_bytes + 100
    one.engines.finish(job)
    assert one.wait(job, "failed")["error"]["code"] == "disk_full"
    assert list(one.front.spool.folder.glob("job-*")) == []


def test_a_full_queue_is_refused_and_positions_are_seen(tmp_path: Path) -> None:
    with world(tmp_path, queue=3, queue_per_client=2) as small:
        volume = small.volume()
        a, b = {"X-Client": "a"}, {"X-Client": "b"}
        running = small.ask(volume, "c0", **a).json()["job_id"]
        small.ask(volume, "c1", **a)
        last = small.ask(volume, "c2", **a).json()
        reply = small.ask(volume, "c3", **a)
        assert (reply.status_code, reply.json()["code"]) == (429, "queue_full")
        other = small.ask(volume, "c4", **b).json()
        assert (last["position"], other["position"]) == (1, 1)
        assert small.job(last["job_id"])["position"] == 2
        assert small.ask(volume, "c5", **b).json()["code"] == "queue_full"
        assert len(small.client.get("/v1/jobs").json()) == 4
        small.engines.finish(running)
        small.wait(running)
        assert [job["position"] for job in small.client.get("/v1/jobs").json()] == [0, 1, None, None]


def test_clients_take_turns(tmp_path: Path) -> None:
    with world(tmp_path) as one:
        volume = one.volume()
        for client, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")):
            one.ask(volume, name, **{"X-Client": client})
        for number in range(5):
            one.engines.finish(one.engines.orders[number].job_id)
            one.wait(one.engines.orders[number].job_id)
        assert [order.concepts[0] for order in one.engines.orders] == ["a1", "a2", "b1", "c1", "a3"]


def test_every_device_has_work(tmp_path: Path) -> None:
    with world(tmp_path, engines=FakeEngines(("cuda:0", "cuda:1"))) as one:
        volume = one.volume()
        states = [one.ask(volume, f"c{number}").json()["state"] for number in range(3)]
        assert states == ["running", "running", "queued"]
        assert one.ask(volume, "x", settings={"device": "cuda:1"}).status_code == 202


def test_jobs_wait_for_engines_that_start(tmp_path: Path) -> None:
    engines = FakeEngines()
    engines.state_of["cpu"] = "starting"
    with world(tmp_path, engines=engines) as one:
        job = one.ask(one.volume(), "liver").json()
        assert job["state"] == "queued"
        del engines.state_of["cpu"]
        engines._on_change()
        events_of = one.client.get(f"/v1/jobs/{job['job_id']}").json()
        assert events_of["state"] == "running"


def test_a_server_that_starts_again_says_what_became_of_its_jobs(tmp_path: Path) -> None:
    with world(tmp_path) as one:
        volume = one.volume()
        running, waiting = (one.ask(volume, name).json()["job_id"] for name in ("liver", "spleen"))
        ended = one.ask(volume, "kidney").json()["job_id"]
        one.client.post(f"/v1/jobs/{ended}/cancel")
    left = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["unfinished.jsonl"]
    assert "liver" not in left[0].read_text()
    with world(tmp_path) as again:
        for job_id in (running, waiting):
            job = again.wait(job_id, "failed")
            assert job["error"]["code"] == "server_restarted"
            assert again.client.delete(f"/v1/jobs/{job_id}").status_code == 200
        assert again.client.get(f"/v1/jobs/{ended}").status_code == 404
    assert list((tmp_path / "spool").iterdir()) == []


def test_old_jobs_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MedicalSAM3Lib.jobs.MOST_KEPT", 2)
    with world(tmp_path, engines=FakeEngines(at_once=True)) as one:
        volume = one.volume()
        asked = []
        for number in range(4):
            asked.append(one.ask(volume, f"c{number}").json()["job_id"])
            one.wait(asked[-1])
        kept = [job["job_id"] for job in one.client.get("/v1/jobs").json()]
        assert kept == asked[:0:-1]
        assert len(list(one.front.spool.folder.glob("job-*"))) == 3


def test_events_of_an_unknown_job_are_refused(one: World) -> None:
    assert one.client.get("/v1/jobs/nothing/events").json()["code"] == "job"
