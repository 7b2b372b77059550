"""Requests of the client: one at a time, with patience. What failed on its way is asked again, what was refused is not.

The standard library only. A request is repeated after a dropped connection, a timeout or a server that is not ready,
so only such requests may be made here that do nothing twice: those that read, that name a place (an offset, an id),
or that carry an idempotency key.
"""

from __future__ import annotations

import http.client
import json
import random
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from MedicalSAM3Lib.errors import Busy, Denied, Mismatch, NotThere, ServerError, Unreachable

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
_NOT_NOW = (429, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered: a status below 400, its headers in lower case, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as plain values.

        Raises:
            Mismatch: It is no JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Mismatch("Expected an answer of a MedicalSAM3 server, got another; check the address.") from error


@dataclass(slots=True)
class Http:
    """A server by its address.

    Attributes:
        url: "http://127.0.0.1:8765" or "https://host/prefix".
        token: Sent with each request; never part of a message.
        client_id: By which a server without tokens gives clients their turns.
        certificate: File with the certificate (PEM) that the server's must descend from; None = the system's.
        timeout_s: For a connection, and between two pieces of an answer.
        attempts: How often a request is made before it counts as failed.
        pause: Waits for seconds; for tests.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    client_id: str = ""
    certificate: Path | str | None = None
    timeout_s: float = 30.0
    attempts: int = 6
    pause: Callable[[float], None] = time.sleep
    _context: ssl.SSLContext | None = None
    _parts: tuple[str, str, int | None, str] = ("http", "", None, "")

    def __post_init__(self) -> None:
        parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.username:
            raise Mismatch("Expected an address such as https://host:8765, got another text; check it.")
        self._parts = (parts.scheme, parts.hostname, port, parts.path.rstrip("/"))
        if parts.scheme == "https":
            self._context = _context(self.certificate)

    def request(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Make a request, again after a pause where that may help.

        Raises:
            ServerError: Refused, or not answered; its class says how.
        """
        body, sent = data, dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body).encode()
            sent["Content-Type"] = "application/json"
        last: ServerError | None = None
        for attempt in range(self.attempts):
            if attempt:
                self.rest(attempt, last)
            try:
                with self.open(method, path, body, sent) as response:
                    return Reply(response.status, _lower(response), read_body(response))
            except (Unreachable, Busy) as error:
                last = error
        assert last is not None
        raise last

    @contextmanager
    def open(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """Make a request once and lend the answer, whose body is not read yet.

        Raises:
            Unreachable: No connection, it broke, or the server is not ready.
            Busy: Its queue is full.
            ServerError: It refused.
        """
        scheme, host, port, prefix = self._parts
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=self.timeout_s, context=self._context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout_s)
        try:
            connection.request(method, prefix + path, body, {**self._headers(), **(headers or {})})
            with connection.getresponse() as response:
                if not _is_whole(response):
                    raise http.client.IncompleteRead(b"")
                if response.status >= 400:
                    raise refusal(response.status, _lower(response), response.read())
                yield response
        except ssl.SSLCertVerificationError as error:
            raise Denied(
                "The server's certificate is not one that this computer trusts; give the certificate's file, or ask "
                "who runs the server.",
                "certificate",
            ) from error
        except (OSError, http.client.HTTPException, zlib.error) as error:
            raise Unreachable(
                f"Expected an answer of the server {host}{'' if port is None else f':{port}'}, the connection failed; "
                "check that it runs and that the network reaches it."
            ) from error
        finally:
            connection.close()

    def rest(self, attempt: int, last: ServerError | None = None) -> None:
        """Wait before an attempt, longer each time, and not all clients equally long."""
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
        wanted = last.retry_after_s if last else 0.0
        self.pause(max(longest * (0.5 + 0.5 * random.random()), min(wanted, LONGEST_PAUSE_S)))

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "medical-sam3"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.client_id:
            headers["X-Client"] = self.client_id
        return headers


def _is_whole(response: http.client.HTTPResponse) -> bool:
    """Whether the headers came to their end. Python takes that of the connection for it, also in the middle of a line,
    and no body for all of it."""
    has_size = (response.getheader("Content-Length") or "").strip().isdigit()
    is_chunked = (response.getheader("Transfer-Encoding") or "").strip().lower() == "chunked"
    return has_size or is_chunked or response.status == 204


def read_body(response: http.client.HTTPResponse) -> bytes:
    """The body, expanded where the server compressed it on its way."""
    body = response.read()
    encoding = (response.getheader("Content-Encoding") or "").lower()
    return zlib.decompress(body, wbits=31) if encoding == "gzip" else body


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> ServerError:
    """The error that an answer of status 400 or more stands for."""
    try:
        told = json.loads(body)
        code, message = str(told["code"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        told, code, message = {}, "", ""
    if status in (401, 403):
        return Denied(message or "The server wants a token, or another one; ask who runs it.", code, status, told)
    if status in _NOT_NOW:
        kind = Busy if status == 429 else Unreachable
        sentence = message or "The server is not ready; try again in a minute."
        return kind(sentence, code, status, told, _seconds(headers.get("retry-after", "")))
    if not code:
        sentence = f"Expected an answer of a MedicalSAM3 server, got status {status} without a reason"
        return Mismatch(f"{sentence}; check the address.", status=status)
    return (NotThere if status == 404 else ServerError)(message, code, status, told)


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _lower(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _context(certificate: Path | str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if certificate is None else str(certificate))
    except (OSError, ssl.SSLError) as error:
        raise Denied("Expected a certificate file (PEM), it cannot be read; check its name.", "certificate") from error
