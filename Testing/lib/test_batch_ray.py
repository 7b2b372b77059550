"""A batch over a real Ray: the bytes of one process, and a worker that is killed is replaced."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from MedicalSAM3Lib.resources import resource
from Testing.server.live import REPOSITORY, children, command_line, environment, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes"),
]
CASES = 4


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of the bundled CT."""
    folder = tmp_path_factory.mktemp("cohort")
    whole = sitk.ReadImage(str(resource("samples", "ct_upper_abdomen.nii.gz")))
    for number in range(CASES):
        sitk.WriteImage(whole[:, :, 4 * number : 4 * number + 6], str(folder / f"part{number}.nii.gz"))
    return folder


def started(images: Path, out: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "MedicalSAM3Lib.cli", "batch", str(images), "-c", "liver", "-c", "spleen"]
    command += ["-o", str(out), "-m", "tiny", "--speed", "exact", "--threads", "1", "--quiet", *flags]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def here(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process of this machine makes of them."""
    out = tmp_path_factory.mktemp("here") / "out"
    assert started(images, out, "--device", "cpu").wait() == 0
    return out


def test_two_workers_of_a_cluster_give_the_bytes_of_one_process(images: Path, here: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'medical-sam3[ray]'")
    out = tmp_path / "out"
    assert started(images, out, "--device", "cpu,cpu", "--ray", "local").wait() == 0
    same(here, out)


def test_a_worker_that_is_killed_in_the_middle_is_replaced(images: Path, here: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs ray: pip install 'medical-sam3[ray]'")
    out = tmp_path / "out"
    with started(images, out, "--device", "cpu,cpu", "--ray", "local") as process:
        cases = out / "cases"
        wait_until(lambda: (cases.is_dir() and any(cases.iterdir())) or process.poll() is not None)
        assert process.poll() is None
        workers = [pid for pid in below(process.pid) if b"ray::Worker" in command_line(pid)]
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait() == 0
    same(here, out)


def below(pid: int) -> list[int]:
    """A process's children, theirs, and so on."""
    return [one for child in children(pid) for one in (child, *below(child))]


def same(one: Path, other: Path) -> None:
    names = sorted(path.name for path in (one / "cases").iterdir())
    assert names == sorted(path.name for path in (other / "cases").iterdir())
    assert len(names) == CASES
    for name in names:
        files = [out / "cases" / name / "segmentation.seg.nrrd" for out in (one, other)]
        assert files[0].read_bytes() == files[1].read_bytes()
        reports = [timeless(out / "cases" / name / "report.json") for out in (one, other)]
        assert reports[0] == reports[1]


def timeless(path: Path) -> dict[str, Any]:
    """A report without what may differ: times, and the memory of the process."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name in ("timings_s", "peak_memory_mb"):
        del report["run"][name]
    return report
