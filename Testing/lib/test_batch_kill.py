"""kill -9 at random moments of a batch: nothing corrupt, and nothing done twice but what an engine had in its hands."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from Testing.lib.small_world import write_image

CASES, VOXELS = 20, 200
PATIENCE_S = 120.0

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")


@dataclass
class Cohort:
    """A folder of images and what runs over it leave behind."""

    folder: Path
    workers: int
    number: int = 0

    def make(self) -> Cohort:
        grey = np.zeros((4, 24, 24), np.float32)
        grey[1:3, 5:15, 5:15] = 255
        (self.folder / "in").mkdir()
        for n in range(CASES):
            write_image(self.folder / "in" / f"{n:02}.nrrd", grey)
        return self

    @property
    def out(self) -> Path:
        return self.folder / f"out-{self.number}"

    @property
    def log(self) -> Path:
        return self.folder / f"log-{self.number}"

    def start(self) -> subprocess.Popen[bytes]:
        """A run; its engines write to the same stderr, which ends when the last of these processes is gone."""
        words = [str(self.folder / "in"), str(self.out), str(self.log), str(self.workers)]
        command = [sys.executable, "-m", "Testing.lib.batch_run", *words]
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)

    def begun(self) -> list[str]:
        """Cases in the order in which engines began them, all runs over this cohort together."""
        return self.log.read_text(encoding="utf-8").split() if self.log.is_file() else []

    def done(self) -> dict[str, int]:
        """Finished cases, and the inode of their record: one that was made anew has another."""
        records = sorted((self.out / "cases").glob("*/case.json"))
        for path in records:
            assert json.loads(path.read_text(encoding="utf-8"))["findings"][0]["voxels"] == VOXELS
            assert json.loads((path.parent / "report.json").read_text(encoding="utf-8"))["input"]["name"]
        return {path.parent.name: path.stat().st_ino for path in records}

    def segmented(self) -> set[str]:
        """Cases of which only the writing is left."""
        reports = [mark.parent / "results" / "report.json" for mark in self.out.glob(".work/*/segmented.json")]
        return {json.loads(report.read_text(encoding="utf-8"))["input"]["name"] for report in reports}

    def check_whole(self) -> None:
        """A run that ended by itself left everything, and nothing else."""
        assert len(self.done()) == CASES
        for path in (self.out / "cases").glob("*/segmentation.seg.nrrd"):
            assert np.count_nonzero(SimpleITK.GetArrayViewFromImage(SimpleITK.ReadImage(str(path)))) == VOXELS
        lines = (self.out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        assert sorted(json.loads(line)["case"] for line in lines) == sorted(self.done())
        assert list((self.out / ".work").iterdir()) == []
        assert list((self.out / "failed").iterdir()) == []


def kill_at_a_moment(process: subprocess.Popen[bytes], cohort: Cohort, chance: random.Random) -> bool:
    """Kill it after some cases were begun, or while it starts, and wait for its engines; return if it was alive."""
    more = chance.randint(0, 5)
    deadline, wanted = time.monotonic() + PATIENCE_S, len(cohort.begun()) + more
    while len(cohort.begun()) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(chance.random() * (0.15 if more else 3.0))
    process.kill()
    _, complaints = process.communicate(timeout=PATIENCE_S)  # an engine that outlives its parent ends here
    assert complaints == b""
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def kill_and_go_on(folder: Path, workers: int, moments: int) -> None:
    """Kill runs over one cohort until enough moments have come; a cohort that is finished is begun from the start."""
    cohort, chance, kills, repeated = Cohort(folder, workers).make(), random.Random(workers), 0, 0
    while kills < moments:
        done, kept, n = cohort.done(), cohort.segmented(), len(cohort.begun())
        is_killed = kill_at_a_moment(cohort.start(), cohort, chance)
        session, earlier = cohort.begun()[n:], set(cohort.begun()[:n])
        assert done.items() <= cohort.done().items()
        assert len(set(session)) == len(session)
        assert not set(session) & (done.keys() | kept)
        assert len(set(session) - cohort.done().keys() - cohort.segmented()) <= (workers if is_killed else 0)
        kills, repeated = kills + is_killed, repeated + len(set(session) & earlier)
        if not is_killed:
            cohort.check_whole()
            cohort.number += 1
    assert repeated <= workers * kills
    process = cohort.start()
    assert process.communicate(timeout=PATIENCE_S)[1] == b""
    assert process.returncode == 0
    cohort.check_whole()


@pytest.mark.parametrize(("workers", "moments"), [(1, 3), (2, 5)])
def test_killed_now_and_then(tmp_path: Path, workers: int, moments: int) -> None:
    kill_and_go_on(tmp_path, workers, moments)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_fifty_moments(tmp_path: Path, workers: int) -> None:
    kill_and_go_on(tmp_path, workers, 50)
