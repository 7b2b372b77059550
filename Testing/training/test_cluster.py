"""The launchers: a run that was stopped is queued again and goes on, one that is done or failed is not."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from MedicalSAM3Lib.errors import RunError
from Training.signals import STOPPED, stop_signals

submitit = pytest.importorskip("submitit")
from submitit.core.job_environment import SignalHandler  # noqa: E402
from submitit.core.utils import DelayedSubmission, JobPaths  # noqa: E402

from Training.cluster import submitit_launch as module  # noqa: E402
from Training.cluster.submitit_launch import Job, main  # noqa: E402

CLUSTER = Path(module.__file__).parent
RECIPE = CLUSTER.parent / "recipes" / "tiny.yaml"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What training was called with; it succeeds."""
    seen: list[list[str]] = []
    monkeypatch.setattr(module, "train", lambda arguments: seen.append(arguments) or 0)
    return seen


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def inside_a_job(monkeypatch: pytest.MonkeyPatch, tasks: int = 1) -> None:
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: SimpleNamespace(num_tasks=tasks))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit leaves its log files open
def test_a_run_is_launched_with_its_settings_and_goes_on_where_it_ended(tmp_path: Path, calls: list[list[str]]) -> None:
    logs = str(tmp_path / "logs")
    assert main(["--config", str(RECIPE), "--cluster", "debug", "--logs", logs, "--gpus", "1", "run.steps=5"]) == 0
    assert calls == [["--config", str(RECIPE), "--resume", "auto", "run.steps=5"]]


def test_a_run_that_was_stopped_is_queued_again_by_submitits_own_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handlers: None
) -> None:
    queued: list[int] = []
    job = Job("recipe.yaml", ("run.steps=5",))
    delayed = DelayedSubmission(job)
    delayed.set_timeout(60, 3)
    paths = JobPaths(tmp_path, "7", 0)
    environment: Any = SimpleNamespace(global_rank=0, _requeue=queued.append)
    inside_a_job(monkeypatch)
    signal.signal(signal.SIGUSR2, SignalHandler(environment, paths, delayed).checkpoint_and_try_requeue)

    def stopped(arguments: list[str]) -> int:
        with stop_signals() as asked:
            signal.raise_signal(signal.SIGUSR2)  # the time is up: nothing is queued before the checkpoint is written
            assert asked()
            assert not queued
        return STOPPED

    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(SystemExit):
        job()
    assert queued == [3]
    assert DelayedSubmission.load(paths.submitted_pickle).function == job


def test_a_run_that_failed_is_not_queued_again(monkeypatch: pytest.MonkeyPatch, handlers: None) -> None:
    queued: list[int] = []
    inside_a_job(monkeypatch)
    signal.signal(signal.SIGUSR2, lambda number, frame: queued.append(number))
    monkeypatch.setattr(module, "train", lambda arguments: 3)
    with pytest.raises(RunError, match="exit code 3"):
        Job("recipe.yaml")()
    assert not queued


def test_ranks_of_a_job_find_each_other(monkeypatch: pytest.MonkeyPatch, calls: list[list[str]]) -> None:
    exported: list[bool] = []
    inside_a_job(monkeypatch, tasks=4)
    environment = SimpleNamespace(export=lambda set_cuda_visible_devices: exported.append(set_cuda_visible_devices))
    monkeypatch.setattr(submitit.helpers, "TorchDistributedEnvironment", lambda: environment)
    Job("recipe.yaml")()
    assert exported == [False]
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "message"), [(["run.stops=5"], "run.stops"), (["--slurm", "partition"], "partition=gpu")]
)
def test_a_wrong_setting_is_refused_before_it_waits_in_a_queue(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(RECIPE), "--logs", str(tmp_path / "logs"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("code", "queued"), [(0, ""), (STOPPED, "requeue 42\n"), (3, "")])
def test_the_batch_script_queues_only_what_was_stopped(tmp_path: Path, code: int, queued: str) -> None:
    said, asked = tmp_path / "srun.txt", tmp_path / "scontrol.txt"
    for name, text in (("srun", f'echo "$@" > {said}\nexit {code}'), ("scontrol", f'echo "$@" >> {asked}')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42"}
    script = ["bash", str(CLUSTER / "medical_sam3.sbatch"), "data.manifest=here"]
    assert subprocess.run(script, env=environment, check=False, timeout=60).returncode == code
    assert (asked.read_text() if asked.exists() else "") == queued
    recipe = "Training/recipes/medical_sam3.yaml"
    assert said.read_text() == f"python -m Training.train --config {recipe} --resume auto data.manifest=here\n"
