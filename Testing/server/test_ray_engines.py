"""Engines in a Ray cluster: the seam with a cluster of threads, and what is said where there is no cluster."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from MedicalSAM3Lib import result_files
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.engine_port import Answer, ModelFacts
from MedicalSAM3Lib.engine_process import EngineOptions
from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.ray_cluster import connect
from MedicalSAM3Lib.ray_engines import EngineGoneError, RayEngines
from MedicalSAM3Lib.ray_worker import Worker
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord
from MedicalSAM3Lib.structures import Finding, Segmentation
from Testing.server.live import cli, wait_until
from Testing.server.orders import Bench, oblique_volume

PATIENCE_S = 60.0


class FakeWorkshop:
    """Finds the voxels above the mean; "wait" lasts until it is cancelled, "die" ends the worker."""

    is_lost = False

    def __init__(self, device: str, options: EngineOptions, volumes: dict[str, Any], results: dict[str, Any]) -> None:
        self.device, self._volumes, self._results = device, volumes, results

    def warm_up(self) -> ModelFacts:
        return ModelFacts("fake", "0" * 64, True, False)

    def do(self, order: Any, answer: Callable[[Answer], None], is_cancelled: Callable[[], bool]) -> None:
        volume = self._volumes[order.job_id]
        answer(Answer(order.job_id, "progress", {"stage": "features"}))
        if order.concepts == ("die",):
            self.is_lost = True
            return
        if order.concepts == ("wait",):
            while not is_cancelled():
                time.sleep(0.01)
            answer(Answer(order.job_id, "cancelled"))
            return
        mask = np.asarray(volume.array) > float(volume.array.mean())
        finding = Finding(order.concepts[0], "not_found", reason="A fake.", presence=0.1)
        record = RunRecord(
            input=InputRecord.of(volume), model=ModelRecord("fake", "0" * 64, True, ""), settings=SegmentSettings(),
            axis=2, slices=len(mask), device="cpu", dtype="float32", timings_s={},
            peak_memory_mb={"host": 1.0, "device": None}, findings=(finding,),
        )  # fmt: skip
        segmentation = Segmentation((mask.astype(np.uint16),), volume.ijk_to_lps, (finding,), None)
        self._results[order.job_id] = (segmentation, record)
        answer(Answer(order.job_id, "done", {"notices": [self.device]}))

    def drop_features(self, volumes: list[str] | None) -> int:
        return 100 if volumes is None else len(volumes)


class FakeRemote:
    """A worker in this process that can be killed."""

    def __init__(self, device: str) -> None:
        self._is_gone = threading.Event()
        self.worker = Worker(device, EngineOptions(), FakeWorkshop, lambda code: self._is_gone.set())  # type: ignore[arg-type]

    def hear(self, message: dict[str, Any], array: np.ndarray | None = None) -> None:
        if self._is_gone.is_set():
            raise EngineGoneError("gone")
        self.worker.hear(message, array)

    def take(self) -> list[dict[str, Any]]:
        said = self.worker.take()
        if not said and self._is_gone.is_set():
            raise EngineGoneError("gone")
        return said

    def kill(self) -> None:
        self._is_gone.set()


class FakeCluster:
    """Workers in threads."""

    def __init__(self, *devices: str) -> None:
        self.devices = devices
        self.remotes: list[FakeRemote] = []
        self.is_closed = False

    def start(self, device: str) -> FakeRemote:
        self.remotes.append(FakeRemote(device))
        return self.remotes[-1]

    def close(self) -> None:
        self.is_closed = True


class World:
    def __init__(self, folder: Path) -> None:
        self.bench, self.cluster = Bench(folder), FakeCluster("cpu", "cuda")
        self.engines = RayEngines(self.cluster, EngineOptions(self.cluster.devices))
        self.answers: queue.Queue[Answer] = queue.Queue()
        self.engines.start(self.answers.put, lambda: None)
        self.ready()

    def ready(self) -> None:
        wait_until(lambda: all(one.state == "idle" for one in self.engines.states()))

    def end(self, job_id: str) -> Answer:
        while True:
            answer = self.answers.get(timeout=PATIENCE_S)
            if answer.job_id == job_id and answer.kind in ("done", "failed", "cancelled"):
                return answer


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("MedicalSAM3Lib.ray_worker.BEAT_S", 0.05)
    world = World(tmp_path)
    yield world
    world.engines.stop()
    assert world.cluster.is_closed


def test_a_volume_goes_by_content_and_results_are_written_here(world: World) -> None:
    order = world.bench.order(oblique_volume(), "liver")
    assert world.engines.give(order)
    assert world.end(order.job_id).kind == "done"
    stored = result_files.read_segmentation(order.out)
    whole = oblique_volume().array
    assert np.array_equal(stored.layers[0] > 0, whole > whole.mean())
    assert np.array_equal(stored.ijk_to_lps, oblique_volume().ijk_to_lps)
    for remote in world.cluster.remotes:
        assert not remote.worker._volumes
        assert not remote.worker._results
    model = world.engines.model()
    assert model is not None
    assert model.name == "fake"


def test_a_volume_comes_back_to_its_own_engine_and_a_cancel_is_heard(world: World) -> None:
    first = world.bench.order(oblique_volume(), "wait")
    second = world.bench.order(oblique_volume(), "liver")
    assert world.engines.give(first)
    assert world.engines.give(second)
    assert world.end(second.job_id).data["notices"] == ["cuda"]
    world.engines.cancel(first.job_id)
    assert world.end(first.job_id).kind == "cancelled"
    again = world.bench.order(None, "spleen", place=second.volume)
    assert world.engines.give(again)
    assert world.end(again.job_id).data["notices"] == ["cuda"]


def test_a_worker_that_died_fails_its_job_and_another_does_the_next(world: World) -> None:
    order = world.bench.order(oblique_volume(), "die")
    world.engines.give(order)
    failed = world.end(order.job_id)
    assert (failed.kind, failed.data["code"]) == ("failed", "engine_died")
    world.ready()
    assert len(world.cluster.remotes) == 3
    after = world.bench.order(oblique_volume(), "liver")
    assert world.engines.give(after)
    assert world.end(after.job_id).kind == "done"


def test_features_are_dropped_on_all_hosts(world: World) -> None:
    assert world.engines.drop_features(None) == 200
    assert world.engines.drop_features([Path("a")]) == 2


def test_a_volume_that_is_gone_and_a_disk_that_is_full_are_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    order = world.bench.order(None, "liver")
    world.engines.give(order)
    assert world.end(order.job_id).data["code"] == "internal"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("MedicalSAM3Lib.result_files.write_results", full)
    order = world.bench.order(oblique_volume(), "liver")
    assert world.engines.give(order)
    assert world.end(order.job_id).data["code"] == "results"


def test_another_version_on_a_host_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr("MedicalSAM3Lib.ray_worker.BEAT_S", 0.05)
    monkeypatch.setattr("MedicalSAM3Lib.ray_worker.__version__", "0.0.1")
    cluster = FakeCluster("cpu")
    engines = RayEngines(cluster, EngineOptions(("cpu",)))
    engines.start(print, lambda: None)
    wait_until(lambda: "0.0.1" in caplog.text)
    engines.stop()
    assert cluster.remotes[0]._is_gone.is_set()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1", "ray://127.0.0.1:10001", "127.0.0.1:x", "[::1"])
def test_an_address_without_a_cluster_is_said(address: str) -> None:
    with pytest.raises(SettingsError, match="ray: expected") as refused:
        connect(address, EngineOptions())
    assert address in str(refused.value)


def test_the_command_line_ends_where_there_is_no_cluster() -> None:
    done = cli("serve", "--ray", "127.0.0.1:9", "--port", "0")
    assert done.returncode == SettingsError.exit_code
    assert "'127.0.0.1:9'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_is_no_more_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9\n")
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:9"):
        connect("auto", EngineOptions())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:7")
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:7"):
        connect("auto", EngineOptions())
