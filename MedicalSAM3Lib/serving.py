"""Run the server: a socket, the application, and an orderly end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import uvicorn

from MedicalSAM3Lib.engine_port import Engines
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.server import create_app
from MedicalSAM3Lib.server_settings import ServerSettings
from MedicalSAM3Lib.sockets import bounded_protocol

GRACE_S = 5
"""For replies on their way when the server is told to end; streams of events would last for ever."""

_BACKLOG = 256


def listen(settings: ServerSettings) -> socket.socket:
    """Open the socket; its port is known from here on, also where the settings left it open.

    Raises:
        OutputError: The port is taken, or the address is not this machine's.
    """
    try:
        return socket.create_server((settings.host.strip("[]"), settings.port), family=_family(settings.host))
    except OSError as error:
        reason = (error.strerror or "it cannot be had").lower()
        raise OutputError(
            f"Expected to listen on {settings.host}, port {settings.port}, but {reason}; choose another with --port."
        ) from error


def serve(
    settings: ServerSettings,
    engines: Engines,
    *,
    sockets: Sequence[socket.socket] | None = None,
    on_server: Callable[[uvicorn.Server], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, or until ``should_exit`` of the server is set.

    Args:
        settings: All there is to set.
        engines: Started with the server, and stopped with it.
        sockets: As ``listen`` opens one; None opens it here.
        on_server: Called with uvicorn's server before it starts.

    Raises:
        OutputError: The port is taken, or the spool cannot be used.
    """
    opened = list(sockets) if sockets is not None else [listen(settings)]
    try:
        server = uvicorn.Server(make_config(settings, engines))
        if on_server is not None:
            on_server(server)
        server.run(sockets=opened)
    finally:
        for one in opened:
            one.close()


def make_config(settings: ServerSettings, engines: Engines) -> uvicorn.Config:
    """uvicorn's configuration: no log of requests, whose paths hold names, and no header that tells versions."""
    return uvicorn.Config(
        create_app(settings, engines),
        http=bounded_protocol(settings.connections, settings.header_s),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=max(1, round(settings.header_s)),
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=32 << 10,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
