"""Fetch one file: resumed where it broke off, checked by SHA-256, in place only when whole.

The network is behind ``Transport``, so that every fault can be played in a test.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from MedicalSAM3Lib.atomic import require_space
from MedicalSAM3Lib.errors import OutputError, RunError, WeightsError

OFFLINE_VARIABLE = "MEDSAM3_OFFLINE"
_BLOCK = 1 << 20

OnBytes = Callable[[int, int], None]
"""Called with bytes done and bytes in all, after every block; to stop, it raises ``errors.Cancelled``."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server: address, size in bytes, and the SHA-256 that the server declares, if it does."""

    url: str
    size: int
    sha256: str | None


class Transport(Protocol):
    """The network. Methods raise ``PermissionError`` for a refused account, ``FileNotFoundError`` for a
    file that is not there, and ``ConnectionError`` for everything that may work later."""

    def describe(self, repo: str, name: str, revision: str, token: str | None) -> RemoteFile:
        """Ask what a file of a repository is."""
        ...

    def read(self, file: RemoteFile, start: int, token: str | None) -> Iterator[bytes]:
        """Yield the bytes of a file from ``start`` on."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """What to fetch, and with whose account.

    Attributes:
        repo, name, revision: Where the file is.
        sha256: Expected, or None for what the server declares.
        token: Of the account, or None for the one of ``HF_TOKEN`` or of ``hf auth login``.
    """

    repo: str
    name: str
    revision: str = "main"
    sha256: str | None = None
    token: str | None = None


def fetch(request: Request, folder: Path, transport: Transport, on_bytes: OnBytes | None = None) -> Path:
    """Fetch a file into a folder and return its path. A file that is already there is only checked.

    What was received before an interruption stays as ``NAME.part``; the next call goes on from there.

    Raises:
        WeightsError: Offline mode, no access, no such file, or the SHA-256 is wrong.
        OutputError: The disk is too small or not writable.
        RunError: The connection broke.
    """
    if is_offline():
        raise WeightsError(f"{OFFLINE_VARIABLE} is set, so nothing is downloaded; unset it or import a file.")
    target, part = folder / request.name, folder / f"{request.name}.part"
    try:
        remote = transport.describe(request.repo, request.name, request.revision, request.token)
        expected = request.sha256 or remote.sha256
        if target.is_file() and _matches(target, remote.size, expected):
            return target
        with _disk_errors(request.name):
            folder.mkdir(parents=True, exist_ok=True)
        _receive(request, remote, part, transport, on_bytes)
    except PermissionError as error:
        raise WeightsError(
            f"'{request.repo}' is open to accounts that accepted its licence: accept it on "
            f"https://huggingface.co/{request.repo}, then set HF_TOKEN or pass a token of that account."
        ) from error
    except FileNotFoundError as error:
        raise WeightsError(f"'{request.repo}' has no file {request.name}; update medical-sam3.") from error
    except ConnectionError as error:
        raise RunError("The connection broke; run the same command again, it goes on where it stopped.") from error
    if not _matches(part, remote.size, expected):
        part.unlink()
        raise WeightsError(f"{request.name} arrived damaged or was changed at its source (SHA-256); try again.")
    os.replace(part, target)
    return target


def is_offline() -> bool:
    """Whether the user forbids to use the network."""
    return os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0")


def _receive(request: Request, remote: RemoteFile, part: Path, transport: Transport, on_bytes: OnBytes | None) -> None:
    done = part.stat().st_size if part.is_file() else 0
    if done > remote.size:  # of another version of the file
        part.unlink()
        done = 0
    require_space(part.parent, remote.size - done, request.name)
    if done == remote.size:
        return
    with _disk_errors(request.name):
        file = part.open("ab", buffering=0)
    with file:
        for block in transport.read(remote, done, request.token):
            with _disk_errors(request.name):
                file.write(block)
            done += len(block)
            if on_bytes:
                on_bytes(done, remote.size)
    if done < remote.size:
        raise ConnectionError("fewer bytes than announced")


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    """Keep a full or forbidden disk apart from the network, whose errors are OSErrors as well."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or "the disk refused").lower()
        raise OutputError(
            f"Expected to write {name}, but {reason}; make room or choose another MEDSAM3_HOME."
        ) from error


def _matches(path: Path, size: int, sha256: str | None) -> bool:
    if path.stat().st_size != size:
        return False
    if sha256 is None:
        return True
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == sha256


class HubTransport:
    """The Hugging Face hub."""

    def describe(self, repo: str, name: str, revision: str, token: str | None) -> RemoteFile:
        """Ask the hub; for large files it declares the SHA-256 as their entity tag."""
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(repo, name, revision=revision)
        with _hub_errors():
            found = get_hf_file_metadata(url, token=token)
        tag = found.etag or ""
        is_sha256 = len(tag) == 64 and all(digit in "0123456789abcdef" for digit in tag)
        if found.size is None:
            raise ConnectionError("the server does not say how large the file is")
        return RemoteFile(url, found.size, tag if is_sha256 else None)

    def read(self, file: RemoteFile, start: int, token: str | None) -> Iterator[bytes]:
        """Stream from the hub with a range request."""
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = {**build_hf_headers(token=token), "Range": f"bytes={start}-"}
        with (
            _hub_errors(),
            get_session().stream("GET", file.url, headers=headers, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                raise ConnectionError("the server does not resume")
            yield from response.iter_bytes(_BLOCK)


@contextmanager
def _hub_errors() -> Iterator[None]:
    """Turn what the hub's client raises into what ``Transport`` promises."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except RepositoryNotFoundError as error:  # gated ones too; the hub hides what an account may not see
        raise PermissionError from error
    except (EntryNotFoundError, RevisionNotFoundError) as error:
        raise FileNotFoundError from error
    except HfHubHTTPError as error:
        is_refused = error.response is not None and error.response.status_code in (401, 403)
        raise (PermissionError if is_refused else ConnectionError) from error
    except Exception as error:  # which classes the HTTP client raises differs between its versions
        raise ConnectionError from error
