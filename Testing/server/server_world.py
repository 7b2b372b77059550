"""A server in this process with fake engines, and a client that asks it over ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk
from starlette.testclient import TestClient

from MedicalSAM3Lib import decoding, exports, volume_files, volume_preview
from MedicalSAM3Lib.children import OnLine
from MedicalSAM3Lib.errors import MedicalSAM3Error
from MedicalSAM3Lib.refusals import refusal_of
from MedicalSAM3Lib.server import create_app
from MedicalSAM3Lib.server_settings import ServerSettings, make_server_settings
from MedicalSAM3Lib.spool import Spool
from Testing.server.fake_engines import FakeEngines

BASE = "http://127.0.0.1:8765"
SECRET, OTHER_SECRET = "a-token-of-sufficient-length", "another-token-of-good-length"


class World:
    """A running server: its client, engines, folder and parts."""

    def __init__(self, client: TestClient, engines: FakeEngines, root: Path) -> None:
        self.client, self.engines, self.root = client, engines, root

    @property
    def front(self) -> Any:
        return self.client.app.state.front  # type: ignore[attr-defined]

    def upload(self, data: bytes, filename: str = "ct.nii.gz", **headers: str) -> Any:
        """Send a file whole; the reply to its completion."""
        opened = self.announce(data, filename, **headers)
        if opened.status_code == 200:
            return opened
        assert opened.status_code == 201, opened.text
        upload = opened.json()["upload_id"]
        sent = self.client.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=data, headers=headers)
        assert sent.status_code == 200, sent.text
        return self.client.post(f"/v1/uploads/{upload}/complete", headers=headers)

    def announce(self, data: bytes, filename: str = "ct.nii.gz", **headers: str) -> Any:
        body = {"filename": filename, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return self.client.post("/v1/volumes", json=body, headers=headers)

    def volume(self, **headers: str) -> str:
        """The id of a small volume that was uploaded."""
        reply = self.upload(nifti(ball()), **headers)
        assert reply.status_code == 200, reply.text
        return reply.json()["volume_id"]

    def ask(self, volume_id: str, *concepts: str, settings: Any = None, **headers: str) -> Any:
        body = {"volume_id": volume_id, "concepts": list(concepts), "settings": settings or {}}
        return self.client.post("/v1/jobs", json=body, headers=headers)

    def job(self, job_id: str, **headers: str) -> Any:
        return self.client.get(f"/v1/jobs/{job_id}", headers=headers).json()

    def wait(self, job_id: str, state: str = "done") -> Any:
        """The job once its events are over."""
        events(self.client, job_id)
        found = self.job(job_id)
        assert found["state"] == state, found
        return found


@contextmanager
def world(
    root: Path,
    *,
    engines: FakeEngines | None = None,
    spool: Spool | None = None,
    real_children: bool = False,
    **settings: Any,
) -> Iterator[World]:
    """Run a server for as long as the context lasts; without ``real_children`` this process does their work."""
    engines = engines or FakeEngines()
    app = create_app(settings_of(root, **settings), engines, spool)
    with ExitStack() as stack:
        if not real_children:
            stack.enter_context(mock.patch("MedicalSAM3Lib.children.run_child", work_here))
        client = stack.enter_context(TestClient(app, base_url=BASE, client=("127.0.0.1", 50000)))
        yield World(client, engines, root)


async def work_here(
    module: str, arguments: list[str], *, timeout_s: float, on_line: OnLine | None = None
) -> dict[str, Any]:
    """What a child would do and say, without a process and its limits."""
    try:
        if module == "decoding":
            limits = decoding.DecodeLimits(**json.loads(arguments[2]))
            series: list[dict[str, Any]] = []
            try:
                answer = await asyncio.to_thread(
                    decoding.decode, Path(arguments[0]), Path(arguments[1]), limits, series
                )
            except MedicalSAM3Error as error:
                refused = refusal_of(error)
                refused.more = {"series": series} if series else {}
                raise refused from error
            return answer | {"series": series}
        folder = Path(arguments[0])
        if module == "volume_preview":
            await asyncio.to_thread(volume_preview.write, folder, volume_files.load(folder, "volume"))
            return {"ok": True}
        assert module == "exports"
        await asyncio.to_thread(exports.write, folder, arguments[1])
        return {"ok": True}
    except MedicalSAM3Error as error:
        raise refusal_of(error) from error


def settings_of(root: Path, **values: Any) -> ServerSettings:
    return make_server_settings(spool=root / "spool", decode_bytes=2 << 30, **values)


def bearer(secret: str = SECRET) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def ball(shape: tuple[int, int, int] = (4, 6, 8)) -> np.ndarray:
    """int16 ``(K, J, I)``: 100 in a box in the middle, 0 around it."""
    array = np.zeros(shape, np.int16)
    array[1:3, 2:5, 3:7] = 100
    return array


def nifti(array: np.ndarray, suffix: str = ".nii.gz") -> bytes:
    """A file as SimpleITK writes it, spacing 1 x 2 x 3 mm."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"image{suffix}"
        sitk.WriteImage(image, str(path))
        return path.read_bytes()


def png(array: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG")
    return file.getvalue()


def events(client: TestClient, job_id: str, **options: Any) -> list[dict[str, Any]]:
    """All events of a job from its stream, which must end."""
    reply = client.get(f"/v1/jobs/{job_id}/events", **options)
    assert reply.status_code == 200, reply.text
    return parse_events(reply.text)


def parse_events(text: str) -> list[dict[str, Any]]:
    """Events of a stream as dictionaries with id, event and data."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append({"id": int(fields["id"]), "event": fields["event"], "data": json.loads(fields["data"])})
    return found
