"""The one module that knows Ray: join a cluster or start one here, start actors in it, hear that they have ended."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.engine_process import EngineOptions
from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.ray_engines import EngineGoneError
from MedicalSAM3Lib.ray_worker import Worker

LOCAL = "local"


def connect(address: str, options: EngineOptions) -> RayCluster:
    """Join the cluster at an address ("local" starts one of this machine's own), with nothing told to Ray's makers.

    Raises:
        SettingsError: Ray is not installed, or there is no such cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise SettingsError(
            "ray: expected the package Ray, it is missing; pip install 'medical-sam3[batch]'."
        ) from error
    folder = Path(tempfile.mkdtemp(prefix="msam3-ray-")) if address == LOCAL else None
    common: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    if folder is not None:
        common |= {
            "num_cpus": max(len(options.devices), os.cpu_count() or 1),
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(folder),
            # What does not fit into shared memory is an error: a volume must not lie on a disk.
            "_system_config": {"automatic_object_spilling_enabled": False},
        }
        if os.path.isdir("/dev/shm"):
            common["_plasma_directory"] = "/dev/shm"
    else:
        del common["include_dashboard"]
    try:
        with _signals_kept():
            ray.init(address, **common)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as failure:
        _remove(folder)
        raise SettingsError(
            f"ray: expected a Ray cluster at '{address}', got none ({type(failure).__name__}); "
            "start one with 'ray start --head', or say 'local'."
        ) from failure
    return RayCluster(ray, options, folder)


class RayCluster:
    """A cluster that was joined."""

    def __init__(self, ray: Any, options: EngineOptions, folder: Path | None) -> None:
        self._ray, self._options, self._folder = ray, options, folder
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
        _remove(self._folder)


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


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
