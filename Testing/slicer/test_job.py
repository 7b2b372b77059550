"""The child process and its folder, with stand-ins for Qt and Slicer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest


class FakeProcess:
    """What ``job`` uses of QProcess. ``end`` and ``refuse`` do what Qt would do."""

    NotRunning, Running = 0, 2
    NormalExit, CrashExit = 0, 1
    FailedToStart, Crashed = 0, 1

    def __init__(self) -> None:
        self.slots: dict[str, Callable[..., None]] = {}
        self.command: list[str] = []
        self._state = self.NotRunning
        self.stderr = Path()

    def setStandardErrorFile(self, path: str) -> None:
        self.stderr = Path(path)

    def setStandardOutputFile(self, path: str) -> None: ...

    def setProcessEnvironment(self, environment: object) -> None:
        self.environment = environment

    def connect(self, signal: str, slot: Callable[..., None]) -> None:
        self.slots[signal] = slot

    def start(self, program: str, arguments: list[str]) -> None:
        self.command, self._state = [program, *arguments], self.Running

    def state(self) -> int:
        return self._state

    def kill(self) -> None:
        self.end(9, self.CrashExit)

    def waitForFinished(self, milliseconds: int) -> None: ...

    def end(self, exitCode: int, status: int = NormalExit) -> None:
        self._state = self.NotRunning
        if status == self.CrashExit:
            self.slots["errorOccurred(QProcess::ProcessError)"](self.Crashed)
        self.slots["finished(int,QProcess::ExitStatus)"](exitCode, status)

    def refuse(self) -> None:
        self._state = self.NotRunning
        self.slots["errorOccurred(QProcess::ProcessError)"](self.FailedToStart)

    @staticmethod
    def nullDevice() -> str:
        return "null"


class Answers(list):
    """What ``onDone`` was told, and whether the folder was still there to read the result from."""

    def __call__(self, exitCode: int | None, stderr: str) -> None:
        self.append((exitCode, stderr))


@pytest.fixture
def job_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    environment = type("Environment", (dict,), {"insert": dict.__setitem__})
    monkeypatch.setitem(sys.modules, "qt", SimpleNamespace(QProcess=FakeProcess, QProcessEnvironment=environment))
    util = SimpleNamespace(startupEnvironment=lambda: {"PATH": "bin"})
    app = SimpleNamespace(temporaryPath=str(tmp_path))
    monkeypatch.setitem(sys.modules, "slicer", SimpleNamespace(util=util, app=app))
    name = "MedicalSAM3.MedicalSAM3Slicer.job"
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def job(job_module: ModuleType, answers: Answers) -> SimpleNamespace:
    started = job_module.Job(answers)
    (started.folder / "volume.nrrd").write_bytes(b"voxels of a patient")
    started.start(["medsam3", "segment"])
    return started


def test_success_is_told_once_and_leaves_no_folder(job: SimpleNamespace, answers: Answers) -> None:
    assert job._process.command == ["medsam3", "segment"]
    assert job._process.environment == {"PATH": "bin"}
    job._process.end(0)
    assert answers == [(0, "")]
    assert not job.folder.exists()


def test_failure_brings_what_the_command_said(job: SimpleNamespace, answers: Answers) -> None:
    job._process.stderr.write_text("medsam3: no", encoding="utf-8")
    job._process.end(2)
    assert answers == [(2, "medsam3: no")]
    assert not job.folder.exists()


def test_program_that_does_not_start_is_an_answer(job: SimpleNamespace, answers: Answers) -> None:
    job._process.refuse()
    assert answers == [(-1, "")]
    assert not job.folder.exists()


def test_crash_is_told_once(job: SimpleNamespace, answers: Answers) -> None:
    job._process.end(0, FakeProcess.CrashExit)
    assert answers == [(-1, "")]


def test_cancel_kills_and_tells(job: SimpleNamespace, answers: Answers) -> None:
    job.cancel()
    assert answers == [(None, "")]
    assert not job.folder.exists()
    job.cancel()
    assert len(answers) == 1


def test_discard_kills_and_tells_nobody(job: SimpleNamespace, answers: Answers) -> None:
    job.discard()
    assert answers == []
    assert not job.folder.exists()


def test_folder_goes_even_when_the_answer_cannot_be_used(job_module: ModuleType) -> None:
    def break_down(exitCode: int | None, stderr: str) -> None:
        raise RuntimeError("no scene")

    job = job_module.Job(break_down)
    job.start(["medsam3"])
    with pytest.raises(RuntimeError, match="no scene"):
        job._process.end(0)
    assert not job.folder.exists()
