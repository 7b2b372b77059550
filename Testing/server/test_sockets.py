"""The server on a real socket: connections that ask for nothing, ports that are taken, an end that leaves nothing."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.serving import listen, serve
from Testing.server.fake_engines import FakeEngines
from Testing.server.server_world import ball, nifti, settings_of

JSON = {"Content-Type": "application/json"}


class Served:
    """A server in a thread of its own."""

    def __init__(self, port: int, engines: FakeEngines) -> None:
        self.port, self.engines = port, engines

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def open(self, text: bytes = b"") -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        opened.sendall(text)
        return opened


@contextmanager
def served(root: Path, **values: Any) -> Iterator[Served]:
    engines = FakeEngines(at_once=True)
    settings = settings_of(root, port=0, **values)
    opened = listen(settings)
    servers: list[uvicorn.Server] = []
    arguments = {"sockets": [opened], "on_server": servers.append}
    thread = threading.Thread(target=serve, args=(settings, engines), kwargs=arguments)
    thread.start()
    try:
        yield Served(opened.getsockname()[1], engines)
    finally:
        while not servers or not servers[0].started:
            time.sleep(0.01)
        servers[0].should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def until_closed(opened: socket.socket) -> bytes:
    """All that comes until the other side closes; raises TimeoutError if it does not."""
    came = b""
    try:
        while piece := opened.recv(1000):
            came += piece
    except ConnectionError:
        pass
    return came


def test_a_round_trip_over_a_socket_and_an_end_that_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        data = nifti(ball())
        announced = {"filename": "x.nii.gz", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        status, body = server.ask("POST", "/v1/volumes", json.dumps(announced).encode(), **JSON)
        assert status == 201
        upload = json.loads(body)["upload_id"]
        assert server.ask("PUT", f"/v1/uploads/{upload}?offset=0", data)[0] == 200
        volume = json.loads(server.ask("POST", f"/v1/uploads/{upload}/complete")[1])["volume_id"]
        asked = json.dumps({"volume_id": volume, "concepts": ["liver"]}).encode()
        job = json.loads(server.ask("POST", "/v1/jobs", asked, **JSON)[1])["job_id"]
        status, stream = server.ask("GET", f"/v1/jobs/{job}/events")
        assert status == 200
        assert b"event: done" in stream
        assert server.ask("GET", f"/v1/jobs/{job}/segments/0/mask")[0] == 200
    assert list((tmp_path / "spool").iterdir()) == []
    assert server.engines.is_stopped


def test_a_chunk_of_the_full_size_passes(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        data = b"x" * (8 << 20)
        announced = json.dumps({"filename": "x.nii", "bytes": len(data), "sha256": "0" * 64}).encode()
        upload = json.loads(server.ask("POST", "/v1/volumes", announced, **JSON)[1])
        status, body = server.ask("PUT", f"/v1/uploads/{upload['upload_id']}?offset=0", data)
        assert (status, json.loads(body)["received"]) == (200, len(data))


def test_a_thousand_connections_that_are_left_open_keep_nobody_out(tmp_path: Path) -> None:
    with served(tmp_path, connections=32, header_s=30.0) as server:
        opened = []
        for number in range(1000):
            opened.append(server.open(b"GET / HTTP/1.1\r\nHost: x" if number % 2 else b""))
            if number % 100 == 99:
                assert server.ask("GET", "/health")[0] == 200
        assert until_closed(opened[0]) == b""
        for one in opened:
            one.close()
        assert server.ask("GET", "/health")[0] == 200


@pytest.mark.parametrize("text", [b"", b"GET / HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_a_connection_that_asks_for_nothing_more_is_closed(tmp_path: Path, text: bytes) -> None:
    with served(tmp_path, header_s=0.2) as server, server.open(text) as opened:
        came = until_closed(opened)
        assert came.startswith(b"HTTP/1.1 200") if text.endswith(b"\r\n\r\n") else came == b""


def test_a_body_that_is_not_sent_is_given_up(tmp_path: Path) -> None:
    head = (
        b"POST /v1/volumes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    with served(tmp_path, body_s=0.2, header_s=0.2) as server, server.open(head) as opened:
        assert until_closed(opened).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    "text", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(100), b"x" * 40_000]
)
def test_what_is_no_http_is_refused(tmp_path: Path, text: bytes) -> None:
    with served(tmp_path, header_s=1.0) as server:
        with server.open(text) as opened:
            assert until_closed(opened)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 421", b"")
        assert server.ask("GET", "/health")[0] == 200


def test_a_client_that_leaves_its_stream_harms_nobody(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        server.engines.at_once = False
        server.engines.state_of["cpu"] = "busy"
        sample = json.loads(server.ask("POST", "/v1/samples/ct_upper_abdomen")[1])["volume_id"]
        asked = json.dumps({"volume_id": sample, "concepts": ["liver"]}).encode()
        job = json.loads(server.ask("POST", "/v1/jobs", asked, **JSON)[1])["job_id"]
        for _ in range(3):
            head = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            with server.open(head) as opened:
                assert b"200" in opened.recv(1000)
        assert json.loads(server.ask("POST", f"/v1/jobs/{job}/cancel")[1])["state"] == "cancelled"


def test_a_port_that_is_taken_is_said_in_a_sentence(tmp_path: Path) -> None:
    with listen(settings_of(tmp_path, port=0)) as taken:
        settings = settings_of(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(OutputError, match="choose another with --port"):
            listen(settings)
