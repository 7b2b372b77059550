"""What the server says about itself, its vocabulary, its models and its page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from MedicalSAM3Lib import __version__, model_jobs, routes_page
from MedicalSAM3Lib.completion import complete
from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import WeightsError
from MedicalSAM3Lib.refusals import Refused
from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import World, bearer, world
from Testing.server.test_guard import TOKENS


@pytest.fixture
def one(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ({}, "ok"),
        ({"a": "busy", "b": "starting"}, "ok"),
        ({"a": "starting", "b": "starting"}, "warming"),
        ({"a": "dead"}, "degraded"),
    ],
)
def test_health_says_whether_the_server_can_be_used(tmp_path: Path, states: dict[str, str], status: str) -> None:
    engines = FakeEngines(("a", "b"))
    engines.state_of |= states
    with world(tmp_path, engines=engines) as one:
        reply = one.client.get("/health").json()
        assert (reply["status"], reply["version"]) == (status, __version__)
        assert [entry["state"] for entry in reply["engines"]] == [states.get(name, "idle") for name in "ab"]


def test_capabilities_are_those_of_settings_and_model(tmp_path: Path) -> None:
    engines = FakeEngines()
    with world(tmp_path, engines=engines, voxels=123, concepts=4) as one:
        found = one.client.get("/v1/capabilities").json()
        assert (found["api"], found["limits"]["voxels"], found["limits"]["concepts"]) == ("1", 123, 4)
        assert found["settings_schema"] == SegmentSettings.model_json_schema()
        assert (found["model"]["name"], found["model"]["demonstration"], found["devices"]) == ("fake", True, ["cpu"])
        assert ".nii.gz" in found["formats_in"]
        engines.facts = None
        assert one.client.get("/v1/capabilities").json()["model"] is None


def test_metrics_count_requests_and_jobs_without_a_name(one: World) -> None:
    volume = one.volume()
    job = one.ask(volume, "liver").json()["job_id"]
    one.ask(volume, "spleen")
    one.engines.finish(job)
    one.wait(job)
    one.client.get("/v1/nowhere")
    text = one.client.get("/metrics").text
    for line in (
        'medsam3_requests_total{method="POST",route="/v1/jobs",status="202"} 2.0',
        'medsam3_requests_total{method="GET",route="none",status="404"} 1.0',
        'medsam3_jobs_total{kind="segment",state="done"} 1.0',
        "medsam3_waiting_jobs 0.0",
        'medsam3_engines{state="busy"} 1.0',
    ):
        assert line in text
    assert volume not in text
    assert "liver" not in text


@pytest.mark.parametrize(
    ("typed", "first"),
    [
        ("liver", "liver"),
        ("kid", "kidney"),
        ("renal paren", None),
        ("LEFT KID", "left_kidney"),
        ("kidney left", "left_kidney"),
        ("kidneys", "kidney"),
        ("vena", None),
    ],
)
def test_what_is_typed_is_completed_the_best_first(typed: str, first: str | None) -> None:
    found = complete(typed)
    assert found
    assert first is None or found[0].concept_id == first


def test_nothing_typed_is_the_first_of_the_vocabulary_and_nonsense_is_nothing() -> None:
    assert complete("  ", 4) == list(load_concepts()[:4])
    assert complete("xyzzy") == []


def test_concepts_come_in_the_number_asked(one: World) -> None:
    assert len(one.client.get("/v1/concepts").json()) == 20
    (liver,) = one.client.get("/v1/concepts?q=liver&limit=1").json()
    assert (liver["concept_id"], liver["codes"]["type"]) == ("liver", "SCT^10200004^Liver")
    for query in ("limit=0", "limit=x", "q=" + "x" * 201):
        assert one.client.get(f"/v1/concepts?{query}").json()["code"] == "request"


def test_models_are_listed_with_their_licence(one: World) -> None:
    models = {entry["name"]: entry for entry in one.client.get("/v1/models").json()}
    assert (models["tiny"]["state"], models["tiny"]["demonstration"]) == ("ready", True)
    assert (models["sam3"]["state"], models["sam3"]["bytes"] > 1e9) == ("absent", True)
    assert "licence" in models["sam3"]["licence_text"].lower()


class Child:
    """In place of the process that works on models: waits until it may go on, then does as told."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.go_on = asyncio.Event()
        self.refusal: Refused | None = None

    async def __call__(self, module: str, arguments: list[str], *, timeout_s: float, on_line: Any = None) -> Any:
        self.asked.append((module, arguments))
        on_line({"stage": "download", "done": 5, "total": 10})
        await self.go_on.wait()
        if self.refusal is not None:
            raise self.refusal
        return {"ok": True}


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, one: World) -> Child:
    made = Child()
    monkeypatch.setattr("MedicalSAM3Lib.children.run_child", made)
    return made


def test_a_model_is_downloaded_once_its_licence_is_accepted(one: World, child: Child) -> None:
    for body in ({}, {"accept_licence": False}):
        reply = one.client.post("/v1/models/sam3/download", json=body)
        assert (reply.status_code, reply.json()["code"]) == (403, "licence")
    job = one.client.post("/v1/models/sam3/download", json={"accept_licence": True}).json()
    assert (job["kind"], job["model"]) == ("download", "sam3")
    one.client.portal.call(child.go_on.set)
    found = one.wait(job["job_id"])
    assert child.asked == [("model_jobs", ["download", "sam3"])]
    assert (found["progress"]["done"], found["progress"]["total"]) == (5, 10)


def test_a_download_can_be_cancelled(one: World, child: Child) -> None:
    job = one.client.post("/v1/models/sam3/download", json={"accept_licence": True}).json()["job_id"]
    one.client.post(f"/v1/jobs/{job}/cancel")
    one.wait(job, "cancelled")
    again = one.client.post("/v1/models/sam3/download", json={"accept_licence": True}).json()["job_id"]
    one.client.delete(f"/v1/jobs/{again}")
    assert [entry["job_id"] for entry in one.client.get("/v1/jobs").json()] == [job]


def test_a_model_that_was_changed_is_broken_until_it_is_whole_again(one: World, child: Child) -> None:
    one.client.portal.call(child.go_on.set)
    for refusal, state in ((Refused(422, "weights", "model.safetensors was changed."), "broken"), (None, "ready")):
        child.refusal = refusal
        job = one.client.post("/v1/models/tiny/verify").json()["job_id"]
        one.wait(job, "failed" if refusal else "done")
        assert next(entry for entry in one.client.get("/v1/models").json() if entry["name"] == "tiny")["state"] == state


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "nothing/verify", 404, "model"),
        ("POST", "sam3/verify", 404, "model"),
        ("DELETE", "sam3", 404, "model"),
        ("DELETE", "..%2ftiny", 404, "no_route"),
        ("POST", "nothing/download", 404, "model"),
        ("POST", "tiny/download", 422, "model"),
    ],
)
def test_work_on_a_model_that_cannot_be_done_is_refused(
    one: World, method: str, path: str, status: int, code: str
) -> None:
    reply = one.client.request(method, f"/v1/models/{path}", json={"accept_licence": True})
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_the_bundled_model_stays_and_a_real_child_says_so(tmp_path: Path) -> None:
    with world(tmp_path, real_children=True) as one:
        job = one.client.delete("/v1/models/tiny").json()["job_id"]
        error = one.wait(job, "failed")["error"]
        assert error["code"] == "weights"
        assert "part of this software" in error["message"]
        job = one.client.post("/v1/models/tiny/verify").json()["job_id"]
        one.wait(job)


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (None, {"ok": True}),
        (WeightsError("It is not installed."), {"ok": False, "code": "weights", "message": "It is not installed."}),
        (KeyError("/secret"), {"ok": False, "code": "internal", "message": "Unexpected error: KeyError."}),
    ],
)
def test_a_child_tells_how_a_download_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception | None, last: dict[str, Any]
) -> None:
    def download(name: str, accept: Any, on_bytes: Any) -> None:
        assert (name, accept(None)) == ("sam3", True)
        for done in (1, 2, 10):
            on_bytes(done, 10)
        if error is not None:
            raise error

    monkeypatch.setattr("MedicalSAM3Lib.registry.download_model", download)
    assert model_jobs.main(["download", "sam3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"stage": "download", "done": 10, "total": 10} in lines
    assert lines[-1] == last


def test_where_others_come_in_models_stay_as_they_are(tmp_path: Path) -> None:
    with world(tmp_path, host="0.0.0.0", tokens=TOKENS) as one:
        for method, path in (("POST", "sam3/download"), ("DELETE", "tiny")):
            reply = one.client.request(method, f"/v1/models/{path}", json={"accept_licence": True}, headers=bearer())
            assert (reply.status_code, reply.json()["code"]) == (403, "models")
        assert not one.client.get("/v1/capabilities", headers=bearer()).json()["manage_models"]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "web"
    (folder / "vendor").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>page</h1>")
    (folder / "vendor" / "viewer.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(routes_page, "resource", lambda name: folder)
    with world(tmp_path) as running:
        yield running


def test_the_page_is_served_under_a_strict_policy(page: World) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/web/index.html", "text/html"),
        ("/web/vendor/viewer.js", "text/javascript"),
    ):
        reply = page.client.get(path)
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith(kind)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "'unsafe-eval'" not in policy.replace("'wasm-unsafe-eval'", "")
        assert reply.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "name", ["../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "nothing", "vendor", "", "/etc/passwd"]
)
def test_no_other_file_is_part_of_the_page(page: World, name: str) -> None:
    reply = page.client.get(f"/web/{name}")
    assert reply.status_code == 404
    assert "secret" not in reply.text


def test_without_the_page_there_is_a_sentence(tmp_path: Path) -> None:
    with world(tmp_path, page=False) as one:
        assert one.client.get("/").json()["code"] == "no_route"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nowhere", 404), ("PATCH", "/v1/jobs", 405), ("GET", "/docs", 404)]
)
def test_what_is_not_there_is_said_with_a_code(one: World, method: str, path: str, status: int) -> None:
    reply = one.client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()) == {"code", "message"}


def test_docs_come_when_asked_for(tmp_path: Path) -> None:
    with world(tmp_path, docs=True) as one:
        assert "swagger" in one.client.get("/docs").text
