"""The one module that knows Ray: join a cluster or start one here, start actors in it, hear that they have ended."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from MedicalSAM3Lib.engine_process import EngineOptions
from MedicalSAM3Lib.errors import OutputError, SettingsError
from MedicalSAM3Lib.ray_engines import EngineGoneError
from MedicalSAM3Lib.ray_worker import Worker
from MedicalSAM3Lib.session_folder import SessionFolder

LOCAL, AUTO = "local", "auto"
TOKEN = "token"

_PROBE_S = 5.0


def connect(address: str, options: EngineOptions) -> RayCluster:
    """Join the cluster at an address ("auto" is the one of this host), with nothing told to Ray's makers.

    "local" starts one of this machine's own, which listens on 127.0.0.1 alone and wants a token that only this user
    can read.

    Raises:
        SettingsError: Ray is not installed, or there is no such cluster.
        OutputError: There is no place for the files of a cluster of one's own.
    """
    if address != LOCAL:
        _probe(address)
        return _join(address, options, None)
    session = _own_session()
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(session.path / TOKEN),
        # Ray's name for "this host is 127.0.0.1"; asked for by its address, Ray takes another one in its place.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    try:
        return _join(address, options, session)
    except BaseException:
        session.close()
        raise


def _join(address: str, options: EngineOptions, session: SessionFolder | None) -> RayCluster:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError("ray: expected the package Ray, it is missing; pip install 'medical-sam3[ray]'.") from error
    try:
        with _signals_kept():
            ray.init(address, **_choices(options, session))
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as failure:
        raise _no_cluster(address, type(failure).__name__) from failure
    return RayCluster(ray, options, session)


def _own_session() -> SessionFolder:
    # Ray makes sockets in it, whose paths may have 103 characters: macOS' own place for such files is too deep.
    place = Path("/tmp" if sys.platform == "darwin" else tempfile.gettempdir())
    owner = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    try:
        session = SessionFolder(place / f"msam3-ray{owner}", name_bytes=4)
        with open(os.open(session.path / TOKEN, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        reason = (error.strerror or "it refused").lower()
        raise OutputError(f"ray: expected a folder for Ray's files that can be written to, but {reason}.") from error
    return session


def _choices(options: EngineOptions, session: SessionFolder | None) -> dict[str, Any]:
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if session is None:
        return common
    if os.path.isdir("/dev/shm"):
        common["_plasma_directory"] = "/dev/shm"
    return common | {
        "include_dashboard": False,
        "num_cpus": max(len(options.devices), os.cpu_count() or 1),
        "_temp_dir": str(session.path),
        # What does not fit into shared memory is an error: a volume must not lie on a disk.
        "_system_config": {"automatic_object_spilling_enabled": False},
    }


def _probe(address: str) -> None:
    """Find out whether something listens there: Ray itself tries for a minute, and then ends this process."""
    place = _known_place() if address == AUTO else address
    if place is None:
        return  # Ray looks for one on this host, and says at once if there is none
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or "/" in place:
        raise SettingsError(f"ray: expected 'local', 'auto' or an address like 10.0.0.5:6379, got '{address}'.")
    try:
        socket.create_connection((host, port), _PROBE_S).close()
    except OSError as error:
        raise _no_cluster(place, (error.strerror or "no answer").lower()) from error


def _known_place() -> str | None:
    """What Ray takes for "auto" without looking whether it is still there."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    last = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        return last.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _no_cluster(address: str, reason: str) -> SettingsError:
    return SettingsError(
        f"ray: expected a Ray cluster at '{address}' that this host is a part of, got none ({reason}); start one with "
        "'ray start', give the token of one that wants it (RAY_AUTH_TOKEN_PATH), or say 'local'."
    )


class RayCluster:
    """A cluster that was joined."""

    def __init__(self, ray: Any, options: EngineOptions, session: SessionFolder | None) -> None:
        self._ray, self._options, self._session = ray, options, session
        gpus = int(ray.cluster_resources().get("GPU", 0))
        self.devices = ("cuda",) * gpus if options.devices == ("auto",) and gpus else options.devices
        self._actor = ray.remote(max_restarts=0, concurrency_groups={"hear": 1, "take": 1})(Worker)

    def start(self, device: str) -> RayRemote:
        """Ask for an actor with a GPU or with threads of a processor. It is never started again by Ray itself."""
        needs = {"num_gpus": 1} if device.startswith("cuda") else {"num_cpus": max(1, self._options.threads)}
        actor = self._actor.options(**needs)
        # Ray shows an actor only the GPU that it has, as number 0.
        shown = "cuda" if device.startswith("cuda") else device
        return RayRemote(self._ray, actor.remote(shown, self._options))

    def close(self) -> None:
        """As ``Cluster.close``."""
        self._ray.shutdown()
        if self._session is not None:
            self._session.close()


class RayRemote:
    """An actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def hear(self, message: dict[str, Any], array: np.ndarray | None = None) -> None:
        """As ``Worker.hear``. Returns once the voxels are in the object store."""
        try:
            stored = None if array is None else self._ray.put(np.asarray(array))
            self._actor.hear.options(concurrency_group="hear").remote(message, stored)
        except self._ray.exceptions.RayError as error:
            raise EngineGoneError(type(error).__name__) from error

    def take(self) -> list[dict[str, Any]]:
        """As ``Worker.take``."""
        try:
            said: list[dict[str, Any]] = self._ray.get(self._actor.take.options(concurrency_group="take").remote())
        except self._ray.exceptions.RayError as error:
            raise EngineGoneError(type(error).__name__) from error
        return said

    def kill(self) -> None:
        """As ``Remote.kill``."""
        self._ray.kill(self._actor, no_restart=True)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes the signals of a main thread, which are the server's.

    It cannot be kept from them by a thread that ends: its processes end with the thread that started them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
