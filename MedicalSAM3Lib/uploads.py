"""Files on their way in: in chunks, each checked and bounded, resumed where they broke off.

A chunk counts once it has arrived whole; what broke off is overwritten by the next one. Memory holds a block of a
chunk, never all of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.decoding import SUFFIXES
from MedicalSAM3Lib.refusals import Refused, unknown
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.spool import Spool

_BLOCK = 1 << 20

LEFT_LYING_S = 60.0
"""An upload of which nothing came for this time (s) may have been given up without a word."""

_WBITS = {"gzip": 31, "deflate": 15}

_Write = Callable[[bytes], Any]


@dataclass(slots=True)
class Upload:
    """A file of which ``received`` bytes have arrived.

    Attributes:
        upload_id: Unguessable.
        owner: To whom it belongs.
        suffix: One of ``decoding.SUFFIXES``.
        num_bytes, sha256, modality, is_picture: As announced.
        folder: Its own.
        lane: The client that began it; an owner may have many.
        digest: Of what has arrived.
        touched: Monotonic time (s) of its last use.
        turn: Goes up with every writer: an older one, whose connection is dead without knowing, must not write.
        lock: Held while a block is written.
    """

    upload_id: str
    owner: str
    suffix: str
    num_bytes: int
    sha256: str
    folder: Path
    lane: str = ""
    modality: str = ""
    is_picture: bool = False
    received: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    touched: float = field(default_factory=time.monotonic)
    turn: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def file(self) -> Path:
        """Where its bytes lie."""
        return self.folder / f"file{self.suffix}"


class Uploads:
    """All uploads that are not complete."""

    def __init__(self, spool: Spool, settings: ServerSettings) -> None:
        self._spool, self._settings = spool, settings
        self._uploads: dict[str, Upload] = {}

    def __iter__(self) -> Any:
        return iter(list(self._uploads.values()))

    def open(self, owner: str, filename: str, num_bytes: int, sha256: str, lane: str = "") -> Upload:
        """Begin an upload. It takes the place of one that its client has left lying about, where there are too many.

        Raises:
            Refused: 413 "too_large", 415 "format", 429 "uploads", 507 "disk_full".
        """
        suffix = suffix_of(filename)
        if num_bytes > self._settings.upload_bytes:
            most = self._settings.upload_bytes / 1e6
            raise Refused(413, "too_large", f"Expected a file of at most {most:,.1f} MB, got {num_bytes / 1e6:,.1f}.")
        self._make_room(owner, lane)
        folder = self._spool.new_folder("upload", num_bytes)
        upload = Upload(secrets.token_urlsafe(24), owner, suffix, num_bytes, sha256, folder, lane)
        self._uploads[upload.upload_id] = upload
        return upload

    def find(self, owner: str, upload_id: str) -> Upload:
        """An upload of this owner.

        Raises:
            Refused: 404 "upload".
        """
        upload = self._uploads.get(upload_id)
        if upload is None or upload.owner != owner:
            raise unknown("upload")
        upload.touched = time.monotonic()
        return upload

    async def receive(
        self, upload: Upload, offset: int, stream: AsyncIterator[bytes], encoding: str = "", sha256: str = ""
    ) -> int:
        """Take a chunk that begins at ``offset``; return how many bytes of the file are there now.

        Args:
            upload: As ``find`` gives it.
            offset: Where the chunk begins: at ``received``.
            stream: The body.
            encoding: "", "identity", "gzip" or "deflate".
            sha256: Of the expanded chunk, hexadecimal; "" is not checked.

        Raises:
            Refused: 409 "offset", 413 "chunk", 415 "encoding", 422 "checksum" or "encoding", 507 "disk_full".
                Nothing of the chunk counts then.
        """
        if offset != upload.received:
            raise _wrong_offset(upload)
        upload.turn += 1
        most = min(self._settings.chunk_bytes, upload.num_bytes - upload.received)
        chunk = _Chunk(upload, upload.turn, self._spool)
        size = 0
        async for block in _blocks(expand(stream, encoding, most)):
            size += len(block)
            await chunk.write(block)
        if sha256 and chunk.own.hexdigest() != sha256.lower():
            raise Refused(
                422, "checksum", "Expected a chunk with the SHA-256 of its header, got another; send it again."
            )
        chunk.commit(size)
        return upload.received

    def check_whole(self, upload: Upload) -> None:
        """Check that all of a file is there and is what was announced.

        Raises:
            Refused: 409 "incomplete"; 422 "checksum", after which the upload begins anew.
        """
        if upload.received < upload.num_bytes:
            message = f"Expected {upload.num_bytes} bytes, {upload.received} have arrived; send the rest."
            raise Refused(409, "incomplete", message, received=upload.received)
        if upload.digest.hexdigest() != upload.sha256:
            upload.received, upload.digest = 0, hashlib.sha256()
            upload.turn += 1
            message = "Expected the file with the announced SHA-256, another one arrived; send it again from the start."
            raise Refused(422, "checksum", message, received=0)

    def _make_room(self, owner: str, lane: str) -> None:
        """Let a client begin one more.

        Raises:
            Refused: 429 "uploads".
        """
        most = self._settings.uploads_per_client
        open_ones = [upload for upload in self if (upload.owner, upload.lane) == (owner, lane)]
        if len(open_ones) < most:
            return
        oldest = min(open_ones, key=lambda upload: upload.touched)
        if time.monotonic() - oldest.touched < LEFT_LYING_S:
            message = f"Expected at most {most} uploads at a time, got one more; complete or delete one of them."
            raise Refused(429, "uploads", message)
        self.discard(oldest)

    def discard(self, upload: Upload) -> None:
        """Forget an upload and its bytes."""
        upload.turn += 1
        self._uploads.pop(upload.upload_id, None)
        self._spool.remove(upload.folder)


class _Chunk:
    """A chunk being written, as long as no newer one is."""

    def __init__(self, upload: Upload, turn: int, spool: Spool) -> None:
        self._upload, self._turn, self._spool = upload, turn, spool
        self._place = upload.received
        self._whole = upload.digest.copy()
        self.own = hashlib.sha256()

    async def write(self, block: bytes) -> None:
        async with self._upload.lock:
            self._check()
            await asyncio.to_thread(self._write, block)
        self._place += len(block)
        self._upload.touched = time.monotonic()

    def commit(self, size: int) -> None:
        self._check()
        self._upload.received += size
        self._upload.digest = self._whole

    def _write(self, block: bytes) -> None:
        self._spool.write(self._upload.file, self._place, block)
        self._whole.update(block)
        self.own.update(block)

    def _check(self) -> None:
        if self._upload.turn != self._turn:
            raise _wrong_offset(self._upload)


def suffix_of(filename: str) -> str:
    """The suffix of a file's name, which is all of it that is ever used.

    Raises:
        Refused: 415 "format".
    """
    name = filename.strip().lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise Refused(415, "format", f"Expected a name that ends in {', '.join(SUFFIXES)}; convert the image, or zip it.")


async def expand(stream: AsyncIterator[bytes], encoding: str, most: int) -> AsyncIterator[bytes]:
    """The bytes of a body after its Content-Encoding, in pieces of at most a MiB; no more than ``most`` in all.

    Raises:
        Refused: 413 "chunk": more come, compressed or not; 415 or 422 "encoding": unknown, damaged or cut off.
    """
    encoding = encoding.strip().lower()
    if encoding not in ("", "identity", *_WBITS):
        raise Refused(415, "encoding", "Expected Content-Encoding gzip or deflate, or none, got another.")
    expander = zlib.decompressobj(wbits=_WBITS[encoding]) if encoding in _WBITS else None
    came = left = 0
    async for piece in stream:
        came += len(piece)
        # A compressed body is not larger than its content by more than its frame.
        if came > most + 1024:
            raise _too_much(most)
        for part in _expanded(expander, piece):
            left += len(part)
            if left > most:
                raise _too_much(most)
            yield part
    if expander is not None and not (came == 0 or expander.eof):
        raise _damaged()


def _expanded(expander: Any, piece: bytes) -> Any:
    """The parts that a piece expands to, one at a time, so that no more than a MiB is ever held."""
    if expander is None:
        yield piece
        return
    while piece:
        if expander.eof:
            raise _damaged()
        try:
            part = expander.decompress(piece, _BLOCK)
        except zlib.error as error:
            raise _damaged() from error
        piece = expander.unconsumed_tail or expander.unused_data
        if part:
            yield part


async def _blocks(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in blocks of about a MiB: each goes to a thread, which is not worth it for less."""
    gathered = bytearray()
    async for piece in pieces:
        gathered += piece
        if len(gathered) >= _BLOCK:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _wrong_offset(upload: Upload) -> Refused:
    message = f"Expected the chunk that begins at byte {upload.received}; go on from there."
    return Refused(409, "offset", message, received=upload.received)


def _too_much(most: int) -> Refused:
    return Refused(413, "chunk", f"Expected a chunk of at most {most} bytes, got more; send smaller ones.")


def _damaged() -> Refused:
    return Refused(422, "encoding", "Expected a complete compressed body, got one that is damaged; send it again.")
