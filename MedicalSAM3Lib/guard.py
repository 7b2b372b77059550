"""What every request passes before anything of it is read: host, origin, token, size and time. Plain ASGI.

    host      the Host header is a name that this server is known by, so that no foreign name can be pointed at it
    origin    a web page elsewhere cannot use a server on this machine
    token     compared in constant time; a request without one learns nothing but that
    size      no body is larger than its route may take
    time      a body arrives whole within a bounded time

Nothing here logs a header or a path.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.tokens import Token, find_token

logger = logging.getLogger("MedicalSAM3Lib.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health", "/", "/favicon.ico")
OPEN_FOLDER = "/web/"
LONGEST_JSON = 256 << 10
ANYBODY = "anybody"
"""The one owner where there are no tokens."""

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""Of every reply that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the owner of what is made, and the lane in which its jobs wait."""

    owner: str
    lane: str


class Guard:
    """Wraps the application."""

    def __init__(self, app: App, settings: ServerSettings) -> None:
        self._app, self._settings = app, settings
        self._hosts = _known_hosts(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        reply = _Reply(send)
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_origin(headers, scope["path"])
            scope["caller"] = self._check_token(headers, scope)
            most = self._settings.chunk_bytes + 1024 if scope["path"].startswith("/v1/uploads/") else LONGEST_JSON
            body = _Body(receive, most, self._settings.body_s)
            body.check_announced(headers)
        except Refused as refused:
            extra = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            await JSONResponse(refused.body(), refused.status, extra)(scope, receive, reply.send)
            return
        try:
            await self._app(scope, body.receive, reply.send)
        except ClientDisconnect:  # nobody is there to be answered
            return
        except Exception as error:
            _log(error)
            if not reply.has_begun:
                fault = Refused(500, "internal", "The server has a fault; its log says where.")
                await JSONResponse(fault.body(), fault.status)(scope, receive, reply.send)

    def _check_host(self, headers: Headers) -> None:
        if self._hosts is None:
            return
        if _name_of(headers.get("host", "")) not in self._hosts:
            raise Refused(421, "host", "Expected a name that this server is known by, got another; see allow_hosts.")

    def _check_origin(self, headers: Headers, path: str) -> None:
        origin = headers.get("origin")
        if origin is None:
            is_page = path == "/" or path.startswith(OPEN_FOLDER)
            if headers.get("sec-fetch-site") == "cross-site" and not is_page:
                raise _foreign()
            return
        parts = urlsplit(origin) if origin.isascii() else urlsplit("")
        own = headers.get("host", "").lower()
        is_own = (
            parts.scheme in _DEFAULT_PORTS
            and own != ""
            and _without_port(parts.netloc.lower(), parts.scheme) == (_without_port(own, parts.scheme))
        )
        if not is_own and origin not in self._settings.allow_origins:
            raise _foreign()

    def _check_token(self, headers: Headers, scope: Scope) -> Caller:
        tokens, path = self._settings.tokens, scope["path"]
        peer = scope["client"][0] if scope.get("client") else ""
        if not tokens:
            return Caller(ANYBODY, headers.get("x-client", peer)[:100])
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return Caller("", "")
        kind, _, secret = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secret:
            raise Refused(401, "token_missing", "Expected the header 'Authorization: Bearer TOKEN', got none.")
        token = find_token(tokens, secret.strip())
        if token is None:
            raise Refused(401, "token_wrong", "Expected a token of this server, got another; ask who runs it.")
        if _is_expired(token):
            raise Refused(401, "token_expired", "The token has expired; ask who runs the server for a new one.")
        return Caller(token.name, token.name)


class _Body:
    """A request's body, bounded in bytes and time. Once it is whole, waiting for the client to leave is unbounded."""

    def __init__(self, receive: Receive, most: int, seconds: float) -> None:
        self._receive, self._most = receive, most
        self._deadline = time.monotonic() + seconds
        self._came, self._is_whole = 0, False

    def check_announced(self, headers: Headers) -> None:
        """Refuse what says itself that it is too large."""
        announced = headers.get("content-length", "0")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > self._most:
            raise _too_large(self._most)

    async def receive(self) -> Message:
        """The next message of the client."""
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, self._deadline - time.monotonic()))
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refused(408, "too_slow", "Expected the request to arrive sooner; send it again.") from error
        if message["type"] == "http.request":
            self._came += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._came > self._most:
                raise _too_large(self._most)
        else:
            self._is_whole = True
        return message


def _known_hosts(settings: ServerSettings) -> frozenset[str] | None:
    """Names for the Host header; None where any will do: a token is needed, and nobody said what the names are."""
    names = {name.lower() for name in settings.allow_hosts}
    if not settings.is_local and not names:
        return None
    return frozenset(names | {"localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower()})


def _name_of(host: str) -> str:
    """A Host header without its port and brackets."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _without_port(netloc: str, scheme: str) -> str:
    return netloc.removesuffix(_DEFAULT_PORTS[scheme])


def _is_expired(token: Token) -> bool:
    return token.expires is not None and datetime.now(timezone.utc) >= token.expires


class _Reply:
    """A reply on its way, with the headers that all have."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Send a message to the client."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            given = {name.lower() for name, _ in message.get("headers", [])}
            missing = [(name, value) for name, value in HEADERS.items() if name not in given]
            message = {**message, "headers": [*message.get("headers", []), *missing]}
        await self._send(message)


def _log(error: Exception) -> None:
    """Say what broke and where. Not the message, which may hold what a client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else "?"
    logger.error("internal error: %s in %s", type(error).__name__, place)


def _foreign() -> Refused:
    return Refused(403, "origin", "Expected a request of this server's own page, got one of another web page.")


def _too_large(most: int) -> Refused:
    return Refused(413, "too_large", f"Expected a request of at most {most} bytes, got more; send less at a time.")
