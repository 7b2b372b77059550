"""A server whose engines run in a real Ray: clients get what the library gives, and Ray keeps nothing of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, JobFailed
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.structures import Volume
from Testing.server.live import Live, children, command_line, live, wait_until
from Testing.server.test_round_trip import CONCEPTS, EXACT, as_many_threads, many, same_masks, volume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes"),
]
__all__ = ["as_many_threads", "volume"]

ANY_ADDRESS = {"00000000", "0" * 32}
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "0" * 24 + "01000000"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One with a Ray of its own, after one that was killed."""
    pytest.importorskip("ray", reason="needs ray: pip install 'medical-sam3[ray]'")
    left = Path(f"/tmp/msam3-ray-{os.getuid()}/session-left")
    left.mkdir(parents=True, exist_ok=True)
    (left / "plasma").write_bytes(b"patient")
    folder = tmp_path_factory.mktemp("ray")
    with live(folder, "--ray", "local", devices="cpu,cpu") as running:
        running.wait_ready()
        assert not left.exists(), "what a killed one left is removed at the next start"
        yield running
        below, own = list(all_below(running.process.pid)), session_of(running)
        assert own.is_dir()
    wait_until(lambda: not any(is_ray(pid) for pid in below))
    assert not own.exists()
    assert (folder / "log.txt").read_text().count("has ended") <= 1, "only that of the one that a test killed"


@pytest.fixture(scope="module")
def volume_id(server: Live, volume: Volume) -> str:
    return str(server.client().upload(volume.array, volume.ijk_to_lps, modality="CT")["volume_id"])


def test_masks_equal_the_library_to_the_voxel(server: Live, volume: Volume, volume_id: str) -> None:
    client = server.client()
    job_id = client.submit(volume_id, CONCEPTS, EXACT)["job_id"]
    assert [event.kind for event in client.events(job_id)][-1] == "done"
    own = segment(volume, CONCEPTS, load_model("tiny", "cpu"), make_settings(device="cpu", **EXACT))
    same_masks(client, job_id, own)
    assert client.report(job_id)["input"]["name"] == volume_id


def test_nobody_else_on_the_network_can_reach_it(server: Live) -> None:
    addresses = listening([server.process.pid, *all_below(server.process.pid)])
    assert len(addresses) > 1
    assert addresses <= LOOPBACK
    token = session_of(server) / "token"
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)


def test_an_order_is_cancelled(server: Live, volume: Volume, volume_id: str) -> None:
    client = server.client()
    job_id = client.submit(many(client, volume), CONCEPTS, EXACT)["job_id"]
    wait_until(lambda: client.job(job_id)["progress"]["done"] > 0)
    client.cancel(job_id)
    with pytest.raises(Cancelled):
        client.wait(job_id)
    assert client.wait(client.submit(volume_id, ["liver"], EXACT)["job_id"])["state"] == "done"


def test_a_worker_that_is_killed_fails_its_job_and_the_next_one_runs(
    server: Live, volume: Volume, volume_id: str
) -> None:
    client = server.client()
    workers = workers_of(server)
    assert len(workers) == 2
    before = {pid: cpu_ticks(pid) for pid in workers}
    job_id = client.submit(many(client, volume), CONCEPTS, EXACT)["job_id"]
    wait_until(lambda: client.job(job_id)["progress"]["done"] > 0)
    os.kill(max(workers, key=lambda pid: cpu_ticks(pid) - before[pid]), signal.SIGKILL)
    with pytest.raises(JobFailed, match="engine ended") as failed:
        client.wait(job_id)
    assert failed.value.code == "engine_died"
    assert client.wait(client.submit(volume_id, ["liver"], EXACT)["job_id"])["state"] == "done"
    server.wait_ready()
    assert len(workers_of(server)) == 2


def test_rays_files_hold_nothing_of_a_client(server: Live, volume_id: str) -> None:
    secrets = [volume_id, str(server.spool), server.token, "spleen"]
    files = [file for file in session_of(server).rglob("*") if file.is_file()]
    assert any("worker" in file.name for file in files)
    for file in files:
        text = file.read_bytes()
        assert [secret for secret in secrets if secret.encode() in text] == [], file.name


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray that was started as an operator does, with a token; yields its address."""
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    port, client_port = (opened.getsockname()[1] for opened in ports)
    for opened in ports:
        opened.close()
    words = ["start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={client_port}", "--num-cpus=1"]
    words += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]
    # Not pytest's folder: the paths of sockets must be short.
    with TemporaryDirectory(prefix="ray-") as folder, pytest.MonkeyPatch.context() as patch:
        token = Path(folder) / "ray-token"
        token.write_text("a" * 64)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # no network: this host is 127.0.0.1
        command = [sys.executable, "-m", "ray.scripts.scripts", *words, f"--temp-dir={folder}/r"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
            wait_until(lambda: (Path(folder) / "r" / "ray_current_cluster").exists() or head.poll() is not None)
            assert head.poll() is None
            yield f"127.0.0.1:{port}"
            head.terminate()


def test_a_cluster_that_is_there_already_is_joined_and_left(tmp_path: Path, volume: Volume) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'medical-sam3[ray]'")
    with cluster() as address:
        with live(tmp_path, "--ray", address) as server:
            server.wait_ready()
            client = server.client()
            volume_id = str(client.upload(volume.array, volume.ijk_to_lps, modality="CT")["volume_id"])
            job_id = client.submit(volume_id, CONCEPTS, EXACT)["job_id"]
            assert client.wait(job_id)["state"] == "done"
            own = segment(volume, CONCEPTS, load_model("tiny", "cpu"), make_settings(device="cpu", **EXACT))
            same_masks(client, job_id, own)
        host, _, port = address.partition(":")
        socket.create_connection((host, int(port))).close()


def all_below(pid: int) -> Iterator[int]:
    """A process's children, theirs, and so on."""
    for child in children(pid):
        yield child
        yield from all_below(child)


def is_ray(pid: int) -> bool:
    line = command_line(pid)
    return b"ray::" in line or b"/ray/" in line


def workers_of(server: Live) -> list[int]:
    return [pid for pid in all_below(server.process.pid) if b"ray::Worker" in command_line(pid)]


def session_of(server: Live) -> Path:
    """Where Ray's files of a server lie."""
    [line] = [line for pid in children(server.process.pid) if b"raylet" in (line := command_line(pid))]
    [place] = [word for word in line.decode().split("\0") if word.startswith("--raylet_socket_name=")]
    return Path(place.partition("=")[2]).parents[2]


def cpu_ticks(pid: int) -> int:
    """Processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def listening(pids: list[int]) -> set[str]:
    """The addresses on which processes listen, as the system writes them."""
    own = {link for pid in pids for link in open_files(pid)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                found.add(fields[1].partition(":")[0])
    return found


def open_files(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield os.readlink(link)
        except OSError:  # closed in the meantime
            continue
