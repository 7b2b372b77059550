"""Uploads: in chunks, checked, bounded, resumed where they broke off."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.spool import Spool, full_disk_refused
from MedicalSAM3Lib.uploads import Uploads, expand, suffix_of
from Testing.server.server_world import World, ball, nifti, settings_of, world

DATA = bytes(range(256)) * 20


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("uploads"), chunk_bytes=2048, uploads_per_client=1000) as running:
        yield running


def put(one: World, upload: str, offset: int, data: bytes, **headers: str) -> Any:
    return one.client.put(f"/v1/uploads/{upload}", params={"offset": offset}, content=data, headers=headers)


def opened(one: World, data: bytes = DATA, name: str = "x.nrrd") -> str:
    return one.announce(data, name).json()["upload_id"]


def test_a_file_comes_in_chunks_and_becomes_a_volume(one: World) -> None:
    data = nifti(ball(), ".nii")
    upload = opened(one, data, "patient/../Miller, Ada.NII")
    for offset in range(0, len(data), 500):
        piece = data[offset : offset + 500]
        reply = put(one, upload, offset, piece, **{"X-Chunk-SHA256": hashlib.sha256(piece).hexdigest()})
        assert reply.json()["received"] == offset + len(piece)
    volume = one.client.post(f"/v1/uploads/{upload}/complete").json()
    assert volume["shape_kji"] == [4, 6, 8]
    assert volume["spacing_mm"] == [1.0, 2.0, 3.0]
    assert volume["bytes"] == len(data)
    assert one.client.get(f"/v1/uploads/{upload}").status_code == 404
    assert "Miller" not in str(list(one.root.rglob("*")))


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_a_chunk_may_be_compressed(one: World, encoding: str, pack: Any) -> None:
    upload = opened(one)
    digest = hashlib.sha256(DATA[:2048]).hexdigest()
    reply = put(one, upload, 0, pack(DATA[:2048]), **{"Content-Encoding": encoding, "X-Chunk-SHA256": digest})
    assert reply.json()["received"] == 2048


def test_an_upload_goes_on_where_it_broke_off(one: World) -> None:
    upload = opened(one)
    put(one, upload, 0, DATA[:1000])
    reply = put(one, upload, 500, DATA[500:1500])
    assert (reply.status_code, reply.json()["code"], reply.json()["received"]) == (409, "offset", 1000)
    assert one.client.get(f"/v1/uploads/{upload}").json() == {
        "upload_id": upload, "received": 1000, "bytes": len(DATA), "chunk_bytes": 2048
    }  # fmt: skip
    assert put(one, upload, 1000, DATA[1000:2000]).json()["received"] == 2000


@pytest.mark.parametrize(
    ("data", "headers", "status", "code"),
    [
        (DATA[:2049], {}, 413, "chunk"),
        (gzip.compress(bytes(1 << 24)), {"Content-Encoding": "gzip"}, 413, "too_large"),
        (gzip.compress(bytes(1 << 20)), {"Content-Encoding": "gzip"}, 413, "chunk"),
        (DATA[:100], {"X-Chunk-SHA256": "0" * 64}, 422, "checksum"),
        (DATA[:100], {"X-Chunk-SHA256": "nonsense"}, 422, "checksum"),
        (DATA[:100], {"Content-Encoding": "gzip"}, 422, "encoding"),
        (gzip.compress(DATA[:100])[:-5], {"Content-Encoding": "gzip"}, 422, "encoding"),
        (gzip.compress(DATA[:100]) + b"more", {"Content-Encoding": "gzip"}, 422, "encoding"),
        (DATA[:100], {"Content-Encoding": "br"}, 415, "encoding"),
    ],
)
def test_a_chunk_that_is_not_as_it_should_be_does_not_count(
    one: World, data: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    upload = opened(one)
    put(one, upload, 0, DATA[:10])
    reply = put(one, upload, 10, data, **headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert one.client.get(f"/v1/uploads/{upload}").json()["received"] == 10
    assert put(one, upload, 10, DATA[10:20]).json()["received"] == 20


def test_an_empty_chunk_changes_nothing(one: World) -> None:
    upload = opened(one)
    assert put(one, upload, 0, b"").json()["received"] == 0
    assert put(one, upload, 0, b"", **{"Content-Encoding": "gzip"}).json()["received"] == 0


def test_no_more_comes_than_was_announced(one: World) -> None:
    upload = opened(one, DATA[:100])
    assert put(one, upload, 0, DATA[:101]).json()["code"] == "chunk"
    assert put(one, upload, 0, DATA[:100]).status_code == 200
    assert put(one, upload, 100, b"x").json()["code"] == "chunk"


def test_half_an_upload_is_not_complete(one: World) -> None:
    upload = opened(one)
    put(one, upload, 0, DATA[:1000])
    reply = one.client.post(f"/v1/uploads/{upload}/complete")
    assert (reply.status_code, reply.json()["code"], reply.json()["received"]) == (409, "incomplete", 1000)


def test_a_file_with_another_checksum_is_sent_again_from_the_start(one: World) -> None:
    upload = opened(one, DATA[:100])
    put(one, upload, 0, b"y" * 100)
    reply = one.client.post(f"/v1/uploads/{upload}/complete")
    assert (reply.status_code, reply.json()["code"], reply.json()["received"]) == (422, "checksum", 0)
    assert put(one, upload, 0, DATA[:100]).json()["received"] == 100


def test_an_upload_can_be_given_up(one: World) -> None:
    upload = opened(one)
    put(one, upload, 0, DATA[:1000])
    before = len(list(one.front.spool.folder.glob("upload-*")))
    assert one.client.delete(f"/v1/uploads/{upload}").status_code == 204
    assert len(list(one.front.spool.folder.glob("upload-*"))) == before - 1
    for reply in (put(one, upload, 1000, b"x"), one.client.post(f"/v1/uploads/{upload}/complete")):
        assert (reply.status_code, reply.json()["code"]) == (404, "upload")


@pytest.mark.parametrize(
    "change",
    [{"bytes": 0}, {"bytes": -1}, {"bytes": "many"}, {"sha256": "x"}, {"sha256": "A" * 64}, {"filename": ""},
     {"filename": "x" * 1001}, {"more": 1}, {"filename": None}]
)  # fmt: skip
def test_an_announcement_that_cannot_be_used_is_refused(one: World, change: dict[str, Any]) -> None:
    body = {"filename": "x.nrrd", "bytes": 10, "sha256": "0" * 64} | change
    reply = one.client.post("/v1/volumes", json=body)
    assert (reply.status_code, reply.json()["code"]) == (422, "request")
    assert next(iter(change)) in reply.json()["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"filename": "\\ud800.nrrd", "bytes": 1}', b"null"])
def test_a_body_that_is_no_request_is_refused(one: World, body: bytes) -> None:
    reply = one.client.post("/v1/volumes", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)
    assert reply.json()["code"] == "request"


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("A.NII", ".nii"),
        ("../../etc/passwd.zip", ".zip"),
        ("C:\\x\\'; DROP TABLE volumes;--.nrrd", ".nrrd"),
        ("\x00\n.png", ".png"),
        (" Ada Miller 1950.dcm ", ".dcm"),
    ],
)
def test_of_a_name_only_the_suffix_is_used(name: str, suffix: str) -> None:
    assert suffix_of(name) == suffix


@pytest.mark.parametrize("name", ["x", "x.exe", "x.nhdr", "x.mhd", "x.nii.gz.exe", "nii/", "../..", ".npz"])
def test_a_file_of_another_kind_is_refused(one: World, name: str) -> None:
    reply = one.announce(DATA, name)
    assert (reply.status_code, reply.json()["code"]) == (415, "format")


def test_a_file_that_is_too_large_and_too_many_uploads_are_refused(tmp_path: Path) -> None:
    with world(tmp_path, upload_bytes=100, uploads_per_client=2) as small:
        assert small.announce(DATA, "x.nrrd").json()["code"] == "too_large"
        for _ in range(2):
            assert small.announce(DATA[:100], "x.nrrd").status_code == 201
        reply = small.announce(DATA[:100], "x.nrrd")
        assert (reply.status_code, reply.json()["code"]) == (429, "uploads")


def test_clients_of_one_owner_do_not_stand_in_each_others_way(tmp_path: Path) -> None:
    with world(tmp_path, uploads_per_client=1) as small:
        for client in ("a", "b"):
            assert small.announce(DATA, "x.nrrd", **{"X-Client": client}).status_code == 201
            assert small.announce(DATA, "x.nrrd", **{"X-Client": client}).json()["code"] == "uploads"


def test_an_upload_that_was_left_lying_makes_room(tmp_path: Path) -> None:
    with world(tmp_path, uploads_per_client=1) as small:
        left = opened(small)
        (upload,) = small.front.uploads
        upload.touched -= 61
        assert small.announce(DATA, "y.nrrd").status_code == 201
        assert small.client.get(f"/v1/uploads/{left}").status_code == 404


def test_what_does_not_fit_the_spool_is_refused_before_it_comes(tmp_path: Path) -> None:
    with world(tmp_path, spool_bytes=150) as small:
        assert small.announce(DATA[:100], "x.nrrd").status_code == 201
        reply = small.announce(DATA[:51], "x.nrrd")
        assert (reply.status_code, reply.json()["code"]) == (507, "disk_full")


class FullSpool(Spool):
    """A disk on which, from some moment on, nothing can be written."""

    is_full = False

    def write(self, file: Path, offset: int, data: bytes | memoryview) -> None:
        with full_disk_refused():
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
        super().write(file, offset, data)


def test_a_disk_that_fills_up_refuses_the_chunk_and_the_upload_goes_on_later(tmp_path: Path) -> None:
    spool = FullSpool(tmp_path / "spool", 1 << 30)
    with world(tmp_path, spool=spool) as one:
        upload = opened(one)
        put(one, upload, 0, DATA[:1000])
        spool.is_full = True
        reply = put(one, upload, 1000, DATA[1000:])
        assert (reply.status_code, reply.json()["code"]) == (507, "disk_full")
        assert one.client.get("/health").status_code == 200
        spool.is_full = False
        assert put(one, upload, 1000, DATA[1000:]).json()["received"] == len(DATA)


def test_the_same_key_opens_one_upload(one: World) -> None:
    key = {"Idempotency-Key": "k1"}
    first, second = one.announce(DATA, "k.nrrd", **key), one.announce(DATA, "k.nrrd", **key)
    assert first.json()["upload_id"] == second.json()["upload_id"]
    reply = one.announce(DATA[:9], "k.nrrd", **key)
    assert (reply.status_code, reply.json()["code"]) == (409, "key_reused")
    assert one.announce(DATA, "k.nrrd", **{"Idempotency-Key": "x" * 201}).json()["code"] == "key"


async def stream_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def test_a_newer_chunk_puts_an_older_one_out_of_action(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 30)

    async def scenario() -> bytes:
        uploads = Uploads(spool, settings_of(tmp_path))
        upload = uploads.open("me", "x.nrrd", 4 << 20, "0" * 64)
        go_on = asyncio.Event()

        async def hanging() -> AsyncIterator[bytes]:
            yield b"o" * (1 << 20)
            await go_on.wait()  # the connection is dead, but the server does not know yet
            yield b"o" * (1 << 20)

        older = asyncio.create_task(uploads.receive(upload, 0, hanging()))
        await asyncio.sleep(0.05)
        assert await uploads.receive(upload, 0, stream_of(b"n" * (3 << 20))) == 3 << 20
        go_on.set()
        with pytest.raises(Refused, match="begins at byte 3145728"):
            await older
        return upload.file.read_bytes()

    assert asyncio.run(scenario()) == b"n" * (3 << 20)
    spool.close()


@settings(max_examples=30)
@given(st.binary(max_size=3000), st.lists(st.integers(1, 400), min_size=1), st.sampled_from(["", "gzip", "deflate"]))
def test_whatever_the_pieces_the_content_is_the_same(data: bytes, sizes: list[int], encoding: str) -> None:
    body = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}[encoding](data)
    pieces, place = [], 0
    while place < len(body):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(body[place : place + size])
        place += size

    async def collected() -> bytes:
        return b"".join([part async for part in expand(stream_of(*pieces), encoding, len(data))])

    assert asyncio.run(collected()) == data
