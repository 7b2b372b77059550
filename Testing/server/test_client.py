"""The client against a server that answers what a test says: refusals, versions, patience, damage, certificates."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib import __version__
from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.client_events import Event, parse
from MedicalSAM3Lib.client_http import Http
from MedicalSAM3Lib.errors import (
    Busy,
    Cancelled,
    Denied,
    InputError,
    JobFailed,
    Mismatch,
    NotThere,
    OutputError,
    ServerError,
    Unreachable,
)

Answer = tuple[int, dict[str, str], bytes]


class Script(http.server.BaseHTTPRequestHandler):
    """Answers as its server's ``answer`` says."""

    protocol_version = "HTTP/1.1"
    server: Any

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, dict(self.headers), body))
        status, headers, content = self.server.answer(self.command, self.path, body)
        if status == 0:  # the connection breaks
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - names that http.server calls

    def log_message(self, *_: object) -> None:
        pass


class Stub:
    """A server of ``Script``, and a client of it that does not really wait."""

    def __init__(self, server: Any, scheme: str = "http") -> None:
        self.server = server
        self.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
        self.pauses: list[float] = []

    def client(self, **options: Any) -> Client:
        client = Client(self.url, "secret-token", **options)
        client._http.pause = self.pauses.append
        return client

    @property
    def requests(self) -> list[tuple[str, str, dict[str, str], bytes]]:
        return self.server.requests  # type: ignore[no-any-return]


@contextmanager
def stub(answer: Callable[[str, str, bytes], Answer], context: ssl.SSLContext | None = None) -> Iterator[Stub]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script) as server:
        server.answer, server.requests, server.daemon_threads = answer, [], True  # type: ignore[attr-defined]
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield Stub(server, "http" if context is None else "https")
        finally:
            server.shutdown()
            thread.join()


def told(status: int = 200, body: Any = None, **headers: str) -> Answer:
    return status, headers, json.dumps({} if body is None else body).encode()


def refused(status: int, code: str, **more: Any) -> Answer:
    return told(status, {"code": code, "message": f"A sentence about {code}.", **more})


def always(answer: Answer) -> Callable[[str, str, bytes], Answer]:
    return lambda *_: answer


def in_turn(*answers: Answer) -> Callable[[str, str, bytes], Answer]:
    left = list(answers)
    return lambda *_: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize(
    ("answer", "kind", "code", "times"),
    [
        (refused(401, "token_wrong"), Denied, "token_wrong", 1),
        (refused(403, "origin"), Denied, "origin", 1),
        (refused(404, "volume"), NotThere, "volume", 1),
        (refused(409, "key_reused"), ServerError, "key_reused", 1),
        (refused(422, "concept"), ServerError, "concept", 1),
        (refused(429, "queue_full"), Busy, "queue_full", 3),
        (refused(503, "warming"), Unreachable, "warming", 3),
        ((502, {}, b"<html>bad gateway"), Unreachable, "unreachable", 3),
        ((500, {}, b"<html>oh"), Mismatch, "mismatch", 1),
        ((0, {}, b""), Unreachable, "unreachable", 3),
        ((200, {}, b"<html>hello"), Mismatch, "mismatch", 1),
    ],
)
def test_each_refusal_has_its_class_and_what_may_pass_is_tried_again(
    answer: Answer, kind: type[ServerError], code: str, times: int
) -> None:
    with stub(always(answer)) as server:
        with pytest.raises(kind) as error:
            server.client(attempts=3).job("x")
        assert type(error.value) is kind
        assert error.value.code == code
        assert len(server.requests) == times
        assert "secret" not in str(error.value)


def test_a_pause_grows_and_is_as_long_as_the_server_asks() -> None:
    with stub(always(told(429, {"code": "queue_full", "message": "Full."}, **{"Retry-After": "7"}))) as server:
        with pytest.raises(Busy):
            server.client(attempts=4).job("x")
        assert server.pauses == [7.0, 7.0, 7.0]
    with stub(always((0, {}, b""))) as server:
        with pytest.raises(Unreachable):
            server.client(attempts=9).job("x")
        assert server.pauses[0] < 0.5 < server.pauses[-1] <= 10.0


def test_a_job_is_asked_for_under_one_key_however_often() -> None:
    with stub(in_turn((0, {}, b""), refused(503, "x"), told(202, {"job_id": "j"}))) as server:
        assert server.client().submit("v", ["liver"])["job_id"] == "j"
        keys = {headers["Idempotency-Key"] for _, _, headers, _ in server.requests}
        assert len(server.requests) == 3
        assert len(keys) == 1
        assert server.requests[0][3] == server.requests[2][3]
        assert server.requests[0][2]["Authorization"] == "Bearer secret-token"
        server.client().submit("v", ["liver"])
        assert server.requests[-1][2]["Idempotency-Key"] not in keys


@pytest.mark.parametrize(
    ("told_api", "said"),
    [
        ({"api": "2"}, "update this program"),
        ({"api": "0"}, "update the server"),
        ({"api": "x"}, "update this program"),
        ({"hello": 1}, "another program"),
        ([1], "another program"),
    ],
)
def test_a_server_that_does_not_fit_is_said(told_api: Any, said: str) -> None:
    with stub(always(told(body=told_api))) as server, pytest.raises(Mismatch, match=said):
        server.client().check()


def test_what_a_user_should_know_of_a_server_is_said() -> None:
    model = {"name": "big", "demonstration": False}
    with stub(in_turn(told(body={"api": "1", "version": "9.9", "model": None}))) as server:
        assert [text.split()[0:3] for text in server.client().check()] == [
            ["The", "server", "has"],
            ["The", "server", "is"],
        ]
    with stub(always(told(body={"api": "1", "version": __version__, "model": model}))) as server:
        assert server.client().check() == []


@pytest.mark.parametrize("url", ["ftp://host", "https://", "http://user:secret@host", "http://host:port", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(Mismatch, match="address") as error:
        Client(url)
    assert "secret" not in str(error.value)


def test_an_address_may_have_a_prefix_and_no_scheme() -> None:
    with stub(always(told())) as server:
        Client(server.url.removeprefix("http://") + "/lab/").health()
        assert server.requests[0][1] == "/lab/health"
    assert "secret" not in repr(Http("http://x", "secret"))


def test_a_job_that_ends_badly_raises_with_the_reason() -> None:
    def answer(_: str, path: str, __: bytes) -> Answer:
        if path.endswith("/events"):
            return 200, {"Content-Type": "text/event-stream"}, b'id: 1\nevent: failed\ndata: {"code": "memory"}\n\n'
        return told(body={"state": "failed", "error": {"code": "memory", "message": "Memory is full."}})

    with stub(answer) as server:
        with pytest.raises(JobFailed, match="Memory is full") as error:
            server.client().wait("j")
        assert error.value.code == "memory"


def test_what_a_listener_raises_cancels_the_job_and_a_dead_server_does_not_hide_it() -> None:
    events = b'id: 1\nevent: progress\ndata: {"stage": "features"}\n\nid: 2\nevent: done\ndata: {}\n\n'

    def answer(_: str, path: str, __: bytes) -> Answer:
        return (200, {}, events) if path.endswith("/events") else told(body={"state": "cancelled"})

    def stop(event: Event) -> None:
        raise Cancelled("Stop.")

    with stub(answer) as server:
        with pytest.raises(Cancelled):
            server.client().wait("a/b", stop)
        assert server.requests[-1][:2] == ("POST", "/v1/jobs/a%2Fb/cancel")


def test_events_go_on_after_the_last_one_that_came() -> None:
    first = b'id: 1\nevent: queued\ndata: {"position": 0}\n\n: still here\n\nid: 2\nevent: progress\ndata: {"st'
    second = b"id: 1\nevent: queued\ndata: {}\n\nid: 2\nevent: progress\ndata: {}\n\nid: 3\nevent: done\ndata: {}\n\n"
    with stub(in_turn((200, {}, first), (0, {}, b""), (200, {}, second))) as server:
        assert [(event.number, event.kind) for event in server.client().events("j")] == [
            (1, "queued"),
            (2, "progress"),
            (3, "done"),
        ]
        assert [headers.get("Last-Event-ID") for _, _, headers, _ in server.requests] == [None, "1", "1"]


def test_a_stream_that_never_goes_on_ends_in_an_error() -> None:
    with stub(always((200, {}, b": nothing\n\n"))) as server:
        with pytest.raises(Unreachable, match="goes on there"):
            list(server.client(attempts=3).events("j"))
        assert len(server.requests) == 3


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["queued", "progress", "done"]), st.dictionaries(st.text(), st.text(), max_size=3)),
        max_size=5,
    ),
    cut=st.integers(0, 400),
)
def test_a_stream_that_is_cut_anywhere_gives_whole_events_only(
    events: list[tuple[str, dict[str, str]]], cut: int
) -> None:
    raw = b"".join(
        f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()
        for number, (kind, data) in enumerate(events, start=1)
    )
    expected = [Event(number, kind, data) for number, (kind, data) in enumerate(events, start=1)]
    assert list(parse(io.BytesIO(raw))) == expected  # type: ignore[arg-type]
    part = list(parse(io.BytesIO(raw[:cut])))  # type: ignore[arg-type]
    assert part == expected[: len(part)]


class Store:
    """A server that keeps uploads, and answers as a script of faults says."""

    def __init__(self, *faults: str, chunk_bytes: int = 1000) -> None:
        self.faults, self.chunk_bytes = list(faults), chunk_bytes
        self.received = bytearray()
        self.announced: dict[str, Any] = {}
        self.completed = 0

    def __call__(self, method: str, path: str, body: bytes) -> Answer:
        if path == "/v1/volumes":
            self.announced = json.loads(body)
            if self.completed:
                return told(body={"volume_id": "v"})
            return told(201, self._upload())
        if method == "PUT":
            return self._put(int(path.partition("offset=")[2]), body)
        if path.startswith("/v1/uploads/u/complete"):
            self.completed += 1
            self.choice = path.partition("?")[2]
            return (0, {}, b"") if "complete" in self.faults and self.completed == 1 else self._completed()
        return told(204)

    def _upload(self) -> dict[str, Any]:
        size = self.announced["bytes"]
        return {"upload_id": "u", "received": len(self.received), "bytes": size, "chunk_bytes": self.chunk_bytes}

    def _completed(self) -> Answer:
        return refused(404, "upload") if self.completed > 1 else told(body={"volume_id": "v"})

    def _put(self, offset: int, body: bytes) -> Answer:
        if offset != len(self.received):
            return refused(409, "offset", received=len(self.received))
        self.received += gzip.decompress(body) if body[:2] == b"\x1f\x8b" and self.is_raw else body
        fault = self.faults.pop(0) if self.faults and self.faults[0] != "complete" else ""
        return (0, {}, b"") if fault == "lost" else told(body={"received": len(self.received)})

    is_raw = False


def test_an_answer_that_was_lost_is_no_reason_to_send_a_piece_twice() -> None:
    store = Store("", "lost", "lost", "")
    array = np.random.default_rng(0).normal(size=(3, 30, 30)).astype(np.float32)
    with stub(store) as server:
        assert server.client().upload(array, np.eye(4), modality="CT")["volume_id"] == "v"
    assert len(store.received) == store.announced["bytes"]
    assert store.announced["modality"] == "CT"
    assert "is_picture" not in store.announced
    assert store.received.startswith(b"NRRD0004")


def test_a_volume_whose_completion_was_not_heard_is_found_by_its_content() -> None:
    store = Store("complete")
    with stub(store) as server:
        assert server.client().upload(np.zeros((2, 2, 2)), np.eye(4))["volume_id"] == "v"
    assert store.completed == 2


def test_a_file_goes_under_its_suffix_alone_and_smaller_where_it_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "Doe^Jane 1970.nii"
    path.write_bytes(bytes(5000))
    store = Store()
    store.is_raw = True
    with stub(store) as server:
        server.client().upload_file(path, frame=2)
        puts = [request for request in server.requests if request[0] == "PUT"]
        assert all(headers["Content-Encoding"] == "gzip" for _, _, headers, _ in puts)
        assert sum(len(body) for *_, body in puts) < 1000
    assert store.announced["filename"] == "volume.nii"
    assert store.received == bytes(5000)
    assert store.choice == "frame=2"


def test_an_upload_that_is_stopped_is_taken_back() -> None:
    def stop(done: int, total: int) -> None:
        if done:
            raise Cancelled("Stop.")

    with stub(Store()) as server:
        with pytest.raises(Cancelled):
            server.client().upload(np.random.default_rng(0).normal(size=(3, 30, 30)), np.eye(4), on_bytes=stop)
        assert server.requests[-1][:2] == ("DELETE", "/v1/uploads/u")


@pytest.mark.parametrize(
    ("array", "affine"),
    [
        (np.zeros((2, 2)), np.eye(4)),
        (np.zeros((0, 2, 2)), np.eye(4)),
        (np.zeros((2, 2, 2, 4)), np.eye(4)),
        (np.zeros((2, 2, 2), complex), np.eye(4)),
        (np.zeros((2, 2, 2)), np.eye(3)),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan)),
    ],
)
def test_what_is_no_volume_is_not_sent(array: np.ndarray, affine: np.ndarray) -> None:
    with stub(always(told())) as server:
        with pytest.raises(InputError):
            server.client().upload(array, affine)
        assert server.requests == []


def test_files_that_cannot_be_read_or_written_are_said(tmp_path: Path) -> None:
    (tmp_path / "empty.nii").write_bytes(b"")
    with stub(always(told())) as server:
        for name in ("gone.nii", "empty.nii"):
            with pytest.raises(InputError):
                server.client().upload_file(tmp_path / name)
        with pytest.raises(OutputError):
            server.client().save_segmentation("j", tmp_path / "gone" / "x.seg.nrrd")


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(b"\xff" * 9), gzip.compress(b"\x01")])
def test_a_damaged_mask_is_not_taken_for_a_mask(data: bytes) -> None:
    segment = {"index": 0, "box_kji": [0, 1, 0, 1, 0, 8], "voxels": 8}
    with stub(always((200, {}, data))) as server, pytest.raises(Mismatch, match="damaged"):
        server.client().mask("j", segment, (1, 1, 8))
    with stub(always((200, {}, gzip.compress(b"\xff")))) as server:
        assert server.client().mask("j", segment, (1, 1, 8)).all()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Something-Else: 1\r\nContent-Length: 15\r\n\r\n"
NOT_THERE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 40\r\n\r\n" + b'{"code": "job"'


UNSIZED = OK[: OK.index(b"15")]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chun"


@pytest.mark.parametrize(
    "part", [OK[:30], OK[:60], OK[:90], UNSIZED, UNSIZED + b"1", CHUNKED, OK, OK + b'{"sta', NOT_THERE, b""]
)
def test_an_answer_that_was_cut_off_anywhere_is_asked_for_again(part: bytes) -> None:
    # Python's own reader takes the end of a connection for the end of the headers, and an empty body for all.
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for piece in (part, OK + b'{"state": "ok"}'):
                with listening.accept()[0] as connection:
                    connection.recv(65536)
                    connection.sendall(piece)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}")
        client._http.pause = lambda _: None
        assert client.job("x") == {"state": "ok"}
        thread.join()


def test_removing_what_is_gone_is_no_error() -> None:
    with stub(always(refused(404, "job"))) as server:
        server.client().forget("j")
        server.client().forget_volume("v")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that nobody but this test trusts, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with openssl")
    folder = tmp_path_factory.mktemp("tls")
    paths = folder / "certificate.pem", folder / "key.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1".split()
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*words, *names], check=True, capture_output=True)
    return paths


def test_a_server_is_known_by_its_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with stub(always(told(body={"status": "ok"})), context) as server:
        assert server.client(certificate=certificate[0]).health() == {"status": "ok"}
        with pytest.raises(Denied, match="certificate"):
            server.client().health()
    (tmp_path / "none.pem").write_text("no certificate")
    for name in ("none.pem", "gone.pem"):
        with pytest.raises(Denied, match="certificate"):
            Client("https://x", certificate=tmp_path / name)


def test_the_body_of_an_answer_is_expanded() -> None:
    content = gzip.compress(b'{"status": "ok"}')
    with stub(always((200, {"Content-Encoding": "gzip"}, content))) as server:
        assert server.client().health() == {"status": "ok"}
