"""What every request passes: host, origin, token, size and time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from MedicalSAM3Lib.guard import Guard
from MedicalSAM3Lib.server_settings import make_server_settings
from MedicalSAM3Lib.tokens import Token
from Testing.server.server_world import OTHER_SECRET, SECRET, World, bearer, nifti, world

YESTERDAY = datetime.now(timezone.utc) - timedelta(days=1)
TOKENS = (
    Token.of("ward", SECRET),
    Token.of("lab", OTHER_SECRET, YESTERDAY + timedelta(days=2)),
    Token.of("gone", "x" * 20, YESTERDAY),
)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("local"), allow_origins=["https://viewer.example.org"]) as one:
        yield one


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("guarded"), host="0.0.0.0", tokens=TOKENS) as one:
        yield one


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765"])
def test_a_known_host_is_served(local: World, host: str) -> None:
    assert local.client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "evil:8765", "[::1"[:0]]
)
def test_a_foreign_host_is_refused_on_every_path(local: World, host: str) -> None:
    for path in ("/health", "/", "/v1/jobs", "/openapi.json"):
        reply = local.client.get(path, headers={"Host": host})
        assert (reply.status_code, reply.json()["code"]) == (421, "host")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1", "", "ä", "file://"]
)
def test_a_web_page_elsewhere_cannot_use_the_server(local: World, origin: str) -> None:
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/volumes"), ("DELETE", "/v1/features"), ("GET", "/health")):
        reply = local.client.request(method, path, headers={"Origin": origin.encode()})
        assert (reply.status_code, reply.json()["code"]) == (403, "origin")
        assert "access-control-allow-origin" not in reply.headers


def test_the_servers_own_page_can(local: World) -> None:
    assert local.client.get("/v1/jobs", headers={"Origin": "http://127.0.0.1:8765"}).status_code == 200
    headers = {"Origin": "https://localhost", "Host": "localhost:443"}  # behind a proxy that speaks HTTPS
    assert local.client.get("/v1/jobs", headers=headers).status_code == 200


def test_an_allowed_origin_can_and_its_browser_is_told(local: World) -> None:
    headers = {"Origin": "https://viewer.example.org"}
    reply = local.client.get("/v1/jobs", headers=headers)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, headers["Origin"])
    asked = {**headers, "Access-Control-Request-Method": "DELETE", "Access-Control-Request-Headers": "authorization"}
    assert local.client.options("/v1/features", headers=asked).status_code == 200


def test_a_request_that_another_page_started_is_refused_but_a_link_to_the_page_works(local: World) -> None:
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert local.client.get("/v1/jobs", headers=headers).json()["code"] == "origin"
    assert local.client.get("/", headers=headers).status_code in (200, 404)
    assert local.client.get("/v1/jobs", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "token_missing"),
        ("Bearer", "token_missing"),
        ("Bearer ", "token_missing"),
        (f"Basic {SECRET}", "token_missing"),
        (SECRET, "token_missing"),
        ("Bearer wrong", "token_wrong"),
        (f"Bearer {SECRET}x", "token_wrong"),
        ("Bearer ' OR 1=1 --", "token_wrong"),
        (f"Bearer {'x' * 20}", "token_expired"),
    ],
)
def test_without_a_token_that_counts_nothing_is_told(guarded: World, header: str, code: str) -> None:
    for path in ("/v1/jobs", "/v1/volumes/x", "/metrics", "/openapi.json", "/v1/nowhere", "/web"):
        reply = guarded.client.get(path, headers={"Authorization": header} if header else {})
        assert (reply.status_code, reply.json()["code"]) == (401, code)
        assert reply.headers["www-authenticate"] == "Bearer"


def test_health_and_page_need_no_token(guarded: World) -> None:
    assert guarded.client.get("/health").status_code == 200
    assert guarded.client.get("/").status_code in (200, 404)


def test_a_token_opens_the_door(guarded: World) -> None:
    assert guarded.client.get("/v1/jobs", headers=bearer()).json() == []
    assert guarded.client.get("/v1/jobs", headers={"Authorization": f"bearer  {SECRET} "}).status_code == 200


def test_a_token_that_expires_while_the_server_runs_no_longer_counts(tmp_path: Path) -> None:
    soon = Token.of("soon", SECRET, datetime.now(timezone.utc) + timedelta(seconds=0.2))
    with world(tmp_path, tokens=(soon,)) as one:
        assert one.client.get("/v1/jobs", headers=bearer()).status_code == 200
        asyncio.run(asyncio.sleep(0.3))
        assert one.client.get("/v1/jobs", headers=bearer()).json()["code"] == "token_expired"


def test_another_tokens_things_look_as_if_they_were_not_there(guarded: World) -> None:
    mine, other = bearer(), bearer(OTHER_SECRET)
    volume = guarded.volume(**mine)
    upload = guarded.announce(b"x" * 10, "other.nrrd", **mine).json()["upload_id"]
    job = guarded.ask(volume, "liver", **mine).json()["job_id"]
    for method, path in (
        ("GET", f"/v1/volumes/{volume}"),
        ("DELETE", f"/v1/volumes/{volume}"),
        ("GET", f"/v1/uploads/{upload}"),
        ("PUT", f"/v1/uploads/{upload}?offset=0"),
        ("POST", f"/v1/uploads/{upload}/complete"),
        ("DELETE", f"/v1/uploads/{upload}"),
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/events"),
        ("POST", f"/v1/jobs/{job}/cancel"),
        ("DELETE", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/report"),
        ("GET", f"/v1/jobs/{job}/segments/0/mask"),
        ("GET", f"/v1/jobs/{job}/segmentation"),
        ("GET", f"/v1/jobs/{job}/confidence"),
    ):
        made_up = path.replace(path.split("/")[3][:20], "0")
        reply, unknown = (guarded.client.request(method, one, headers=other) for one in (path, made_up))
        assert reply.status_code == 404
        assert reply.json() == unknown.json()
    assert guarded.ask(volume, "liver", **other).json()["code"] == "volume"
    for path in ("/v1/volumes", "/v1/jobs"):
        assert guarded.client.get(path, headers=other).json() == []
    assert guarded.volume(**other) != volume  # the same content has another name for another owner
    guarded.engines.finish(job)


def test_no_token_and_no_name_is_logged(guarded: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    volume = guarded.volume(**bearer())
    guarded.client.get("/v1/jobs", headers=bearer("a-wrong-token-of-some-length"))
    text = caplog.text.replace("http://127.0.0.1", "")
    server = " ".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx"))
    assert SECRET not in text
    assert "a-wrong-token" not in server
    assert volume not in server


def test_a_body_that_is_too_large_is_refused(local: World) -> None:
    big = b"x" * (300 << 10)
    reply = local.client.post("/v1/volumes", content=big, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")

    def unannounced() -> Iterator[bytes]:
        yield big

    reply = local.client.post("/v1/volumes", content=unannounced(), headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["code"]) == (413, "too_large")
    opened = local.announce(nifti_of_random(), "a.nii.gz").json()["upload_id"]
    big = b"x" * ((8 << 20) + 2000)
    reply = local.client.put(f"/v1/uploads/{opened}?offset=0", content=big)
    assert reply.json()["code"] == "too_large"


def nifti_of_random() -> bytes:
    import numpy as np

    return nifti(np.random.default_rng(0).integers(0, 9, (3, 4, 5), dtype=np.int16))


def test_every_reply_has_the_headers_that_keep_browsers_careful(local: World) -> None:
    for path in ("/health", "/v1/nowhere", "/v1/jobs"):
        headers = local.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def drive(guard: Guard, receive: Any, scope: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What a guard sends for a request."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    values = {"type": "http", "path": "/v1/x", "method": "POST", "headers": [(b"host", b"localhost")], "client": None}
    asyncio.run(guard(values | (scope or {}), receive, send))
    return sent


def test_a_body_that_never_ends_is_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    async def trickle() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent = drive(Guard(refusing(app), make_server_settings(body_s=0.2)), trickle)
    assert sent[0]["status"] == 408


def refusing(app: Any) -> Any:
    """As FastAPI does: a refusal becomes its reply."""
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except HTTPException as error:
            await JSONResponse({}, error.status_code)(scope, receive, send)

    return wrapped


def test_a_fault_is_a_500_without_a_word_of_what_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("Mrs Miller, born 1950")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    sent = drive(Guard(app, make_server_settings()), receive)
    assert sent[0]["status"] == 500
    assert b"Miller" not in sent[1]["body"]
    assert "RuntimeError in app" in caplog.text
    assert "Miller" not in caplog.text


def test_a_client_that_leaves_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    from starlette.requests import Request

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope, receive).body()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    assert drive(Guard(app, make_server_settings()), receive) == []
    assert caplog.text == ""


def test_web_sockets_are_closed() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    assert drive(Guard(refusing(None), make_server_settings()), receive, {"type": "websocket"}) == [
        {"type": "websocket.close", "code": 1008}
    ]
