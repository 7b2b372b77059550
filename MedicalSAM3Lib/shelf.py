"""The decoded volumes of all clients, each under a name that nobody can guess and that only its owner can use."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from MedicalSAM3Lib import children, volume_files
from MedicalSAM3Lib.decoding import DecodeLimits
from MedicalSAM3Lib.refusals import Refused, unknown
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.spool import Spool


@dataclass(frozen=True, slots=True)
class Source:
    """A file to decode.

    Attributes:
        file: Where it lies.
        num_bytes, sha256: Of its content.
        series, frame: Which image of it, where it holds several.
        modality, is_picture: What its sender says of it, for formats that do not.
    """

    file: Path
    num_bytes: int
    sha256: str
    series: int | None = None
    frame: int | None = None
    modality: str = ""
    is_picture: bool = False


@dataclass(slots=True)
class Shelved:
    """A volume.

    Attributes:
        volume_id, owner: Its name, and whose it is.
        folder: As ``volume_files.store`` wrote it.
        num_bytes: Of the file that it came from.
        facts: Of ``volume_files.facts_of``.
        notices, series: What its decoder said.
        users: Jobs that are not done with it.
        touched: Monotonic time (s) of its last use.
    """

    volume_id: str
    owner: str
    folder: Path
    num_bytes: int
    facts: dict[str, Any]
    notices: list[str]
    series: list[dict[str, Any]]
    users: int = 0
    touched: float = field(default_factory=time.monotonic)


class Shelf:
    """All volumes, and the decoding of new ones."""

    def __init__(self, spool: Spool, settings: ServerSettings) -> None:
        self._spool, self._settings = spool, settings
        self._secret = secrets.token_bytes(32)
        self._volumes: dict[str, Shelved] = {}
        self._turn = asyncio.Semaphore(settings.decoders)
        self._decoding: dict[str, asyncio.Lock] = {}

    def __iter__(self) -> Iterator[Shelved]:
        return iter(list(self._volumes.values()))

    def name_of(self, owner: str, source: Source) -> str:
        """The id of a content for an owner, whether it is here or not."""
        told = [source.series, source.frame, source.modality, source.is_picture]
        content = json.dumps([owner, source.sha256, *told]).encode()
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()[:40]

    def peek(self, volume_id: str) -> Shelved | None:
        """A volume by its id, whoever asks; for ids of ``name_of`` only."""
        return self._volumes.get(volume_id)

    def find(self, owner: str, volume_id: str) -> Shelved:
        """A volume of this owner.

        Raises:
            Refused: 404 "volume".
        """
        volume = self._volumes.get(volume_id)
        if volume is None or volume.owner != owner:
            raise unknown("volume")
        volume.touched = time.monotonic()
        return volume

    async def decode(self, owner: str, source: Source) -> Shelved:
        """Decode a file in a child process; a content that is here already is not decoded again.

        Raises:
            Refused: What the decoder refused, with its code; 507 "disk_full".
        """
        volume_id = self.name_of(owner, source)
        lock = self._decoding.setdefault(volume_id, asyncio.Lock())
        try:
            async with lock, self._turn:
                if volume_id not in self._volumes:
                    self._volumes[volume_id] = await self._decode(volume_id, owner, source)
        finally:
            if not lock.locked():
                self._decoding.pop(volume_id, None)
        return self.find(owner, volume_id)

    async def _decode(self, volume_id: str, owner: str, source: Source) -> Shelved:
        settings = self._settings
        # What it will take is not known before; at least what it takes in the file is.
        folder = self._spool.new_folder("volume", source.num_bytes)
        limits = DecodeLimits(
            voxels=settings.voxels,
            expansion_ratio=settings.expansion_ratio,
            memory_bytes=settings.decode_bytes,
            cpu_s=int(settings.decode_s) + 1,
            file_bytes=4 * settings.voxels + 4096,
            series=source.series,
            frame=source.frame,
            modality=source.modality,
            is_picture=source.is_picture,
        )
        try:
            arguments = [str(source.file), str(folder), json.dumps(asdict(limits))]
            answer = await children.run_child("decoding", arguments, timeout_s=settings.decode_s)
            facts = volume_files.facts_of(folder)
            self._spool.settle(folder)
        except BaseException:  # also when the client goes away
            self._spool.remove(folder)
            raise
        notices, series = answer["notices"], answer.get("series", [])
        return Shelved(volume_id, owner, folder, source.num_bytes, facts, notices, series)

    def remove(self, volume: Shelved) -> None:
        """Take a volume off the shelf.

        Raises:
            Refused: 409 "in_use": a job still needs it.
        """
        if volume.users:
            raise Refused(
                409, "in_use", "Expected a volume without jobs, got one that a job needs; cancel the job first."
            )
        self._volumes.pop(volume.volume_id, None)
        self._spool.remove(volume.folder)
