"""Send a volume to a server: in checked pieces, and on from where a connection broke.

A file goes as it is, unless it shrinks by compression. An array goes as NRRD, its axes to the last bit. Nothing of it
stays on the disk: what does not fit in a little memory lies in a file without a name. NumPy and the standard library.
"""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from MedicalSAM3Lib.client_http import Http
from MedicalSAM3Lib.errors import InputError, NotThere, ServerError
from MedicalSAM3Lib.nrrd_file import write_nrrd

OnBytes = Callable[[int, int], None]
"""Called with bytes sent and bytes in all; to stop, it raises."""

_IN_MEMORY = 64 << 20
_CHUNK = 4 << 20
_ROUNDS = 5
_COMPRESSED = (".gz", ".zip", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".dcm")
_QUICK = 1
"""Compression of gzip: a network is seldom slower than this."""


def send_array(
    http: Http,
    array: np.ndarray,
    ijk_to_lps: np.ndarray,
    facts: Mapping[str, Any] | None = None,
    on_bytes: OnBytes | None = None,
) -> dict[str, Any]:
    """Send a volume and return how the server describes it.

    Args:
        array: ``(K, J, I)`` of whole or real numbers, or ``(K, J, I, 3)`` of colours 0..255.
        ijk_to_lps: ``(4, 4)``, voxel index to mm in LPS.
        facts: What NRRD does not hold: "modality" and "is_picture".

    Raises:
        InputError: The array is none of these.
        ServerError: The server refuses it or cannot be reached.
    """
    is_colour = array.ndim == 4 and array.shape[3] == 3
    if not (array.ndim == 3 or is_colour) or not array.size:
        raise InputError(f"Expected a volume of axes K, J, I or colours, got an array of shape {array.shape}.")
    if np.shape(ijk_to_lps) != (4, 4) or not np.isfinite(ijk_to_lps).all():
        raise InputError("Expected a 4 x 4 matrix from voxels to mm, got another; check the volume's geometry.")
    if is_colour:
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        try:
            write_nrrd(file, array, ijk_to_lps, inner="RGB-color" if is_colour else "", compression=_QUICK)
        except ValueError as error:
            raise InputError(f"The volume cannot be sent: {error}.") from error
        return send(http, file, "volume.nrrd", facts, {}, on_bytes)


def send_file(
    http: Http, path: Path | str, choice: Mapping[str, int | None], on_bytes: OnBytes | None = None
) -> dict[str, Any]:
    """Send a file as it is and return how the server describes what is in it; of its name only the suffix is told.

    Args:
        choice: Which image of several: "series" of an archive, from 1; "frame", from 0.

    Raises:
        InputError: It cannot be read.
        ServerError: The server refuses it or cannot be reached.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(
            f"Expected a file to send, it cannot be read: {(error.strerror or 'no reason').lower()}."
        ) from error
    with file:
        return send(http, file, f"volume{''.join(path.suffixes[-2:])}".lower(), None, choice, on_bytes)


def send(
    http: Http,
    file: IO[bytes],
    name: str,
    facts: Mapping[str, Any] | None,
    choice: Mapping[str, int | None],
    on_bytes: OnBytes | None,
) -> dict[str, Any]:
    """Send an open file under a name; what the server has by now is not sent again."""
    size, sha256 = _measure(file)
    if not size:
        raise InputError("Expected an image, got an empty file; export it again.")
    asked = {"filename": name, "bytes": size, "sha256": sha256, **(facts or {})}
    tell = on_bytes or _ignore
    chosen = "&".join(f"{name}={number}" for name, number in choice.items() if number is not None)
    query = f"?{chosen}" if chosen else ""
    for attempt in range(_ROUNDS):
        told = http.request("POST", "/v1/volumes", json_body=asked).json()
        if "volume_id" in told:
            tell(size, size)
            return dict(told)
        upload = f"/v1/uploads/{told['upload_id']}"
        try:
            _send_chunks(http, file, upload, told, tell, shrinks=not name.endswith(_COMPRESSED))
            return dict(http.request("POST", f"{upload}/complete{query}").json())
        except NotThere:  # completed by a request whose answer was lost, or the server has started anew
            if attempt == _ROUNDS - 1:
                raise
        except BaseException:
            _forget(http, upload)
            raise
    raise AssertionError("the last round returns or raises")


def _send_chunks(
    http: Http, file: IO[bytes], upload: str, told: Mapping[str, Any], tell: OnBytes, *, shrinks: bool
) -> None:
    size, received, chunk = int(told["bytes"]), int(told["received"]), min(_CHUNK, int(told["chunk_bytes"]))
    while received < size:
        tell(received, size)
        file.seek(received)
        raw = file.read(chunk)
        headers = {"X-Chunk-SHA256": hashlib.sha256(raw).hexdigest(), "Content-Type": "application/octet-stream"}
        packed = gzip.compress(raw, _QUICK, mtime=0) if shrinks else raw
        shrinks = len(packed) < 0.95 * len(raw)
        if shrinks:
            headers["Content-Encoding"] = "gzip"
        try:
            reply = http.request("PUT", f"{upload}?offset={received}", data=packed if shrinks else raw, headers=headers)
            received = int(reply.json()["received"])
        except ServerError as error:
            if error.code != "offset":  # it arrived, and the answer was lost: go on behind it
                raise
            received = int(error.details["received"])
    tell(size, size)


def _forget(http: Http, upload: str) -> None:
    try:
        with http.open("DELETE", upload):
            pass
    except ServerError:  # the server forgets what nobody completes
        return


def _measure(file: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


def _ignore(done: int, total: int) -> None:
    """Take no notice."""
