"""kill -9 at random moments of a batch: nothing corrupt, nothing done twice but what an engine had in its hands."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from Testing.lib.small_world import write_image

CASES = 20


def command(tmp_path: Path, workers: int) -> list[str]:
    words = [str(tmp_path / "in"), str(tmp_path / "out"), str(tmp_path / "log"), str(workers)]
    return [sys.executable, "-m", "Testing.lib.batch_run", *words]


def started(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").split() if log.is_file() else []


def done(out: Path) -> dict[str, int]:
    """Finished cases, and the inode of their record: one that was made anew has another."""
    records = sorted((out / "cases").glob("*/case.json"))
    assert all(json.loads(path.read_text(encoding="utf-8"))["findings"][0]["voxels"] == 200 for path in records)
    return {path.parent.name: path.stat().st_ino for path in records}


def kill_at_moments(tmp_path: Path, workers: int, moments: int, seed: int) -> None:
    """Kill runs over one cohort until each moment has come; a cohort that is finished is begun again."""
    (tmp_path / "in").mkdir()
    grey = np.zeros((4, 24, 24), np.float32)
    grey[1:3, 5:15, 5:15] = 255
    for n in range(CASES):
        write_image(tmp_path / "in" / f"{n:02}.nrrd", grey)
    chance, out, log = random.Random(seed), tmp_path / "out", tmp_path / "log"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for _ in range(moments):
        before, begun = done(out), len(started(log))
        if len(before) == CASES:
            out.rename(tmp_path / f"out-{len(list(tmp_path.iterdir()))}")
            log.unlink()
            before, begun = {}, 0
        process = subprocess.Popen(command(tmp_path, workers), env=environment)
        deadline = time.monotonic() + 120  # a moment is a number of cases that were begun, and a while
        wanted = begun + chance.randint(0, 4)
        while len(started(log)) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.wait()
        after = done(out)
        assert before.items() <= after.items()
        again = [case for case in started(log)[begun:] if case in before]
        assert not again
        twice = sum(count - 1 for count in Counter(started(log)).values())
        assert twice <= workers * moments
    earlier, last = done(out), started(log)
    subprocess.run(command(tmp_path, workers), env=environment, check=True, timeout=300)
    assert earlier.items() <= done(out).items()
    assert len(done(out)) == CASES
    in_flight_at_the_last_kill = [case for case in started(log)[len(last) :] if case in last]
    assert len(in_flight_at_the_last_kill) <= workers
    assert list((out / ".work").iterdir()) == []
    assert len((out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()) == CASES


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize(("workers", "moments"), [(1, 2), (2, 2)])
def test_killed_now_and_then(tmp_path: Path, workers: int, moments: int) -> None:
    kill_at_moments(tmp_path, workers, moments, seed=7)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_fifty_moments(tmp_path: Path, workers: int) -> None:
    kill_at_moments(tmp_path, workers, 50, seed=workers)
