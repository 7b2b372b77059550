"""The server under load: nothing lost, nothing twice, nothing to strangers, and how quick it stays.

    python -m Testing.benchmarks.bench_server --seconds 180

The server is a process of its own with one engine of one thread; clients are threads of this one, half of them behind a
proxy that cuts connections. Clients and server share the machine, so times are those of a busy one.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from rich.console import Console

from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.demo import sample_path
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.structures import Volume
from Testing.benchmarks.server_load import LoadClient, Seen
from Testing.benchmarks.tables import Table, number, ratio, show
from Testing.benchmarks.worlds import Options
from Testing.server.flaky_proxy import flaky
from Testing.server.live import children, environment, wait_until

CLIENTS = 32
CUT_SHARE = 0.1
REPEATS = 3
BUSY_SLICES = 400

SPEED = ("What", "Seconds", "Times the first")
HEALTH = ("/health while", "Requests", "Median (ms)", "p99 (ms)", "Most (ms)")
LOAD = ("Under load", "Number")
MEMORY = ("Memory (MB)", "After a quarter", "At the end", "Ratio")


@dataclass
class Bench:
    """A server, and a token for each of many clients."""

    url: str
    process: subprocess.Popen[str]
    tokens: list[str]

    def client(self, place: int = 0, url: str | None = None) -> Client:
        """The client of a token, with the patience that a bad network asks for."""
        return Client(url or self.url, self.tokens[place], attempts=12)


def run(options: Options) -> Iterator[Table]:
    """Tables: second concept against first, /health beside a busy engine, and the load."""
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), options) as bench:
        volume = read_volume(sample_path())
        yield Table("Second concept on a volume, by a server", SPEED, tuple(speed_rows(bench.client(), volume)))
        yield Table("How quick /health stays", HEALTH, (busy_row(bench, volume),))
        yield from load_tables(bench, options.seconds)


@contextmanager
def serving(folder: Path, options: Options) -> Iterator[Bench]:
    """Run a server with one engine of one thread."""
    tokens = [secrets.token_urlsafe(24) for _ in range(CLIENTS)]
    file = folder / "tokens"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.writelines(f"client-{place} {token}\n" for place, token in enumerate(tokens))
    device = "cpu" if options.device == "auto" else options.device
    command = [sys.executable, "-m", "MedicalSAM3Lib.cli", "serve", "--port", "0", "--token-file", str(file)]
    command += ["-m", options.model, "--devices", device, "--threads", "1", "--set", f"spool={folder / 'spool'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2]
        bench = Bench(url, process, tokens)
        health = bench.client()
        wait_until(lambda: all(engine["state"] == "idle" for engine in health.health()["engines"]))
        yield bench
    finally:
        process.terminate()
        process.communicate()


def speed_rows(client: Client, volume: Volume) -> Iterator[tuple[str, str, str]]:
    """From asking to the end of a job: the first concept on a volume, and the next ones."""
    volume_id = client.upload(volume.array, volume.ijk_to_lps, modality="CT")["volume_id"]

    def ask(concept: str) -> float:
        start = time.perf_counter()
        client.wait(client.submit(volume_id, [concept], {"mode": "detect"})["job_id"])
        return time.perf_counter() - start

    ask("liver")
    first, second = [], []
    for _ in range(REPEATS):
        client.drop_features()
        first.append(ask("liver"))
        second.append(ask("spleen"))
    yield f"First concept, {len(volume.array)} slices", number(min(first)), ratio(min(first), min(first))
    yield "Second concept", number(min(second)), ratio(min(second), min(first))


def busy_row(bench: Bench, volume: Volume) -> tuple[str, ...]:
    """/health while the engine does one long job."""
    client = bench.client()
    array = np.concatenate([volume.array] * (BUSY_SLICES // len(volume.array)))
    volume_id = client.upload(array, volume.ijk_to_lps, modality="CT")["volume_id"]
    job_id = client.submit(volume_id, ["liver"], {"mode": "detect"})["job_id"]
    wait_until(lambda: client.job(job_id)["state"] == "running")
    probe = Probe(bench.url)
    probe.start()
    wait_until(lambda: client.job(job_id)["state"] != "running" or len(probe.seconds) > 1000)
    probe.stop()
    client.cancel(job_id)
    for _ in client.events(job_id):  # until the engine has let go of the volume
        pass
    client.forget_volume(volume_id)
    return probe.row("the engine works")


def load_tables(bench: Bench, seconds: float) -> Iterator[Table]:
    """Let all clients loose for some time."""
    seen, until, before = Seen(), time.monotonic() + seconds, ended_jobs(bench)
    parts = urlsplit(bench.url)
    assert parts.hostname is not None
    assert parts.port is not None
    probe, memory = Probe(bench.url), MemoryWatch(bench.process.pid)
    with flaky((parts.hostname, parts.port), CUT_SHARE) as proxy:
        urls = [proxy.url if place % 2 else bench.url for place in range(CLIENTS)]
        clients = [LoadClient(place, bench.client(place, url), seen, until) for place, url in enumerate(urls)]
        for thread in (probe, memory, *clients):
            thread.start()
        for client in clients:
            client.join()
        probe.stop()
        memory.stop()
        cuts = proxy.cuts
    ended = ended_jobs(bench) - before
    yield Table(f"{CLIENTS} clients for {seconds:.0f} s", LOAD, tuple(load_rows(seen, cuts, ended)))
    yield Table("How quick /health stays", HEALTH, (probe.row(f"{CLIENTS} clients work"),))
    yield Table("Memory under load", MEMORY, tuple(memory.rows()))


def ended_jobs(bench: Bench) -> int:
    """Jobs on volumes that have ended, by the server's own count."""
    request = Request(f"{bench.url}/metrics", headers={"Authorization": f"Bearer {bench.tokens[0]}"})
    with urlopen(request) as reply:
        lines = reply.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith('medsam3_jobs_total{kind="segment"'))


def load_rows(seen: Seen, cuts: int, ended: int) -> Iterator[tuple[str, str]]:
    """What was done, and what must be 0; ``ended`` is what the server says."""
    yield "Jobs asked for", str(len(seen.job_ids))
    for state, count in sorted(seen.ends.items()):
        yield f"- {state}", str(count)
    yield "Connections cut", str(cuts)
    yield "Median of a job, asked to ended (s)", number(statistics.median(seen.seconds or [float("nan")]))
    yield "Jobs lost", str(max(0, len(seen.job_ids) - ended))
    yield "Jobs run that nobody, or nobody again, asked for", str(max(0, ended - len(seen.job_ids)))
    yield "Faults (served to another token, wrong answers, errors)", str(sum(seen.faults.values()))
    for fault, count in sorted(seen.faults.items()):
        yield f"- {fault}", str(count)


class Probe(threading.Thread):
    """Asks for /health again and again, as a monitor would, and takes the time."""

    def __init__(self, url: str) -> None:
        super().__init__(name="probe", daemon=True)
        self.seconds: list[float] = []
        self._client, self._over = Client(url), threading.Event()

    def run(self) -> None:
        """Ask until stopped."""
        while not self._over.wait(0.02):
            start = time.perf_counter()
            self._client.health()
            self.seconds.append(time.perf_counter() - start)

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()

    def row(self, title: str) -> tuple[str, ...]:
        """Of a table: number, median, 99th percentile and maximum."""
        milliseconds = 1e3 * np.array(self.seconds or [np.nan])
        numbers = (np.median(milliseconds), np.percentile(milliseconds, 99), milliseconds.max())
        return (title, str(len(self.seconds)), *(number(float(value), 1) for value in numbers))


class MemoryWatch(threading.Thread):
    """Resident memory of the server and of its engines, every half second."""

    def __init__(self, pid: int) -> None:
        super().__init__(name="memory", daemon=True)
        self._front, self._engine, self._pid = [0.0], [0.0], pid
        self._over = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._over.wait(0.5):
            self._front.append(resident_mb(self._pid))
            self._engine.append(max((resident_mb(pid) for pid in children(self._pid)), default=0.0))

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()

    def rows(self) -> Iterator[tuple[str, ...]]:
        """Of a table: the median of the second and of the last quarter."""
        for title, values in (("Front", self._front), ("Engine", self._engine)):
            quarter = max(1, len(values) // 4)
            early = statistics.median(values[quarter : 2 * quarter] or values)
            late = statistics.median(values[-quarter:])
            yield title, number(early, 0), number(late, 0), ratio(late, early)


def resident_mb(pid: int) -> float:
    """Memory of a process in 10^6 bytes; 0 where the system does not tell or it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:")), 0.0)


def main() -> None:
    """Read the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Options().seconds, help="of load; default: %(default)s")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    for table in run(replace(Options(chosen.model, chosen.device), seconds=chosen.seconds)):
        show(table, Console(width=120))


if __name__ == "__main__":
    main()
