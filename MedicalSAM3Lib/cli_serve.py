"""``medsam3 serve``: the server in this process, the engines in others, until it is told to end."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib import cli_serve_options as options
from MedicalSAM3Lib.errors import SettingsError

if TYPE_CHECKING:
    from MedicalSAM3Lib.engine_port import Engines
    from MedicalSAM3Lib.server_settings import ServerSettings

LOCAL_IDLE_S = 1800.0

_NO_PAIRS: list[str] = []


def serve(
    host: options.Host = None,
    port: options.Port = None,
    token_file: options.TokenFile = None,
    tls_certificate: options.TlsCertificate = None,
    tls_key: options.TlsKey = None,
    model: options.Model = None,
    devices: options.Devices = None,
    threads: options.Threads = None,
    feature_gb: options.FeatureGb = None,
    ray: options.Ray = None,
    config: options.Config = None,
    more: options.More = _NO_PAIRS,
    local: options.Local = False,
    connection_file: options.ConnectionFile = None,
    parent: options.Parent = None,
    idle: options.Idle = LOCAL_IDLE_S,
) -> None:
    """Serve segmentation over HTTP, with a page for browsers at /, until Ctrl-C.

    Every setting can also be given in the environment: MEDSAM3_SERVER_PORT=9000.
    """
    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "token_file": token_file,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "model": model,
        "devices": devices.split(",") if devices else None,
        "threads": threads,
        "feature_gb": feature_gb,
        "ray": ray,
        **_pairs(more),
    }
    if not local and (connection_file or parent):
        raise SettingsError("Expected --connection-file and --parent with --local only; add it or leave them out.")
    _end_by_signals()
    with suppress(KeyboardInterrupt):  # the usual end of a server
        if local:
            _serve_local(_settings(config, flags, local=True), connection_file, parent, idle)
        else:
            _serve(_settings(config, flags, local=False))


def _settings(config: Path | None, flags: dict[str, Any], *, local: bool) -> ServerSettings:
    """Read the settings.

    Raises:
        SettingsError: One of them cannot be used, or the server's packages are missing.
    """
    try:
        import uvicorn  # noqa: F401

        from MedicalSAM3Lib.server_settings import load_settings
    except ImportError as error:
        raise SettingsError(
            f"Expected the packages of the server, '{error.name}' is missing; pip install 'medical-sam3[server]'."
        ) from error
    if not local:
        return load_settings(config, flags)
    given = [name for name in ("host", "port", "token_file", "tls_certificate", "tls_key") if flags[name] is not None]
    if given:
        raise SettingsError(f"Expected no {given[0]} with --local, which has its own; leave one of them out.")
    return load_settings(config, flags | {"host": "127.0.0.1", "port": 0})


def _serve(settings: ServerSettings) -> None:
    from MedicalSAM3Lib.server_watch import ServerWatch
    from MedicalSAM3Lib.serving import listen
    from MedicalSAM3Lib.serving import serve as run

    _log_to_stderr()
    for warning in settings.warnings():
        print(warning, file=sys.stderr)
    with listen(settings) as opened:
        url = _url(settings, opened.getsockname()[1])
        engines = make_engines(settings)
        watch = ServerWatch(engines, on_ready=lambda: print(f"Serving on {url} (Ctrl-C ends)", flush=True))
        run(settings, engines, sockets=[opened], on_server=watch.attach)
    watch.end()


def _serve_local(settings: ServerSettings, file: Path | None, parent: int | None, idle_s: float) -> None:
    from MedicalSAM3Lib import local_server
    from MedicalSAM3Lib.server_watch import ServerWatch
    from MedicalSAM3Lib.serving import listen
    from MedicalSAM3Lib.serving import serve as run
    from MedicalSAM3Lib.tokens import Token

    local_server.open_missing_streams()
    _log_to_stderr()
    is_parent_there = local_server.parent_watch(parent)
    file, secret = file or local_server.default_file(), local_server.new_token()
    settings = settings.model_copy(update={"tokens": (Token.of("local", secret),)})
    with local_server.only_one(file), listen(settings) as opened:
        url = _url(settings, opened.getsockname()[1])
        engines = make_engines(settings)

        def publish() -> None:
            local_server.publish(file, url, secret)
            print(f"Serving on {url}; the token is in {file}", flush=True)

        watch = ServerWatch(engines, publish, is_parent_there, idle_s)
        run(settings, engines, sockets=[opened], on_server=watch.attach)
    watch.end()


def make_engines(settings: ServerSettings) -> Engines:
    """The engines that the settings ask for; none is started yet.

    Raises:
        SettingsError: The Ray cluster cannot be had.
    """
    from MedicalSAM3Lib.engine_choice import choose_engines
    from MedicalSAM3Lib.engine_process import EngineOptions

    options = EngineOptions(settings.devices, settings.model, settings.threads or 0, settings.feature_gb)
    return choose_engines(options, settings.ray)


def _url(settings: ServerSettings, port: int) -> str:
    scheme = "http" if settings.tls_certificate is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host and "[" not in settings.host else settings.host
    return f"{scheme}://{host}:{port}"


def _pairs(more: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in more:
        name, separator, value = text.partition("=")
        if not separator:
            raise SettingsError(f"set: expected NAME=VALUE, got '{text}'.")
        pairs[name.strip().replace("-", "_")] = value
    return pairs


def _log_to_stderr() -> None:
    """Warnings and errors; nothing that is written anywhere holds a name, a path or a token of a client."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def _end_by_signals() -> None:
    """Let the signals that end a program end this one in order, so that nothing is left behind.

    uvicorn hears SIGTERM while it serves, and raises it again once it has ended: an exit like any other.
    """

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(0)

    def hang_up(_number: int, _frame: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
