"""The engine on this computer: started, used with the bundled model, killed, started again, ended with its owner."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [
    pytest.mark.slicer,
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes"),
]
pytest.importorskip("slicer")

import slicer

from MedicalSAM3.MedicalSAM3Slicer import local_engine
from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic
from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.demo import sample_path
from MedicalSAM3Lib.files import read_volume
from Testing.server.live import environment, runs, wait_until
from Testing.slicer import mrml

MANY = 30
"""Concepts of a prediction that goes on for some seconds, whatever the machine."""


@pytest.fixture
def logic(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    logic = MedicalSAM3Logic(EngineSettings("local", model="tiny", device="cpu"))
    yield logic
    logic.close()


def pid(logic: Any) -> int:
    """Process of the local engine."""
    return int(logic._connection.local._process.pid)


def test_a_typed_concept_becomes_a_segment_and_a_killed_engine_starts_anew(logic: Any) -> None:
    ct = read_volume(sample_path())
    volume = mrml.volume(ct.array[9:11].astype(np.int16), np.diag([-1, -1, 1, 1]) @ ct.ijk_to_lps)
    seen: list[Any] = []
    result = logic.segment(
        volume, ["liver", "uterus"], onProgress=seen.append, modality="CT", settings={"mode": "detect"}
    )
    assert [outcome.state for outcome in result.outcomes] == ["found", "not_found"]
    assert [name for _, name, *_ in mrml.contents(result.segmentationNode)] == ["liver"]
    assert any("demonstration" in notice for notice in result.notices)
    assert {"Starting the engine", "Looking at the slices"} <= {progress.stage for progress in seen}
    before = mrml.contents(result.segmentationNode)
    run = logic.start(volume, ["spleen"])
    first, folder = pid(logic), logic._connection.local._folder
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not run.poll())
    assert run.state == "failed"
    assert "Try again: it starts anew" in run.error
    assert mrml.contents(result.segmentationNode) == before
    assert logic.segment(volume, ["liver"], settings={"mode": "detect"}).outcomes[0].state == "found"
    second = pid(logic)
    assert second != first
    assert logic.verifyModel("tiny").wait()["state"] == "done"
    logic.close()
    assert not runs(second)
    assert not folder.exists()


def test_an_engine_that_does_not_start_says_why(logic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine, "MODULE", "no_such_module")
    with pytest.raises(UserError, match=r"The engine did not start: .*No module named no_such_module"):
        logic.testEngine().wait()
    assert logic.freeMemory().wait() == 0


def test_a_python_that_is_none_is_refused(logic: Any) -> None:
    logic.setEngine(EngineSettings("local", python="no-such-python"))
    with pytest.raises(UserError, match="'no-such-python'; choose it again"):
        logic.testEngine().wait()


def test_cancel_while_it_starts_ends_it(logic: Any) -> None:
    task = logic.testEngine()
    wait_until(lambda: task.poll() and logic._connection.local._process is not None)
    process = logic._connection.local._process
    task.cancel()
    assert task.state == "cancelled"
    wait_until(lambda: process.poll() is not None)


def test_another_python_gets_the_environment_of_before_slicer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: {"PATH": "p", "PYTHONPATH": "theirs"})
    settings = EngineSettings("local", python=sys.executable, model="tiny", device="cuda:0")
    found = local_engine.environment(settings)
    library = str(Path(local_engine.MedicalSAM3Lib.__file__).parent.parent)
    assert found == {"PATH": "p", "PYTHONPATH": os.pathsep.join([library, "theirs"])}
    words = local_engine.command(settings, tmp_path / "c.json")
    assert words[0] == sys.executable
    assert words[-4:] == ["--model", "tiny", "--devices", "cuda:0"]
    assert words[words.index("--parent") + 1] == str(os.getpid())


def test_a_prediction_is_cancelled_while_the_engine_computes_it(logic: Any) -> None:
    ct = read_volume(sample_path())
    volume = mrml.volume(ct.array.astype(np.int16), np.diag([-1, -1, 1, 1]) @ ct.ijk_to_lps)
    phrases = [concept.name for concept in load_concepts()][:MANY]
    logic.testEngine().wait()
    client, first = logic._connection.running(), pid(logic)
    wait_until(lambda: engine_is(client, "idle"))
    task = logic.estimate(volume, phrases)
    wait_until(lambda: task.poll() and engine_is(client, "busy"))
    task.cancel()
    assert (task.state, task.result, task.poll()) == ("cancelled", None, False)
    wait_until(lambda: engine_is(client, "idle"))
    counted = client._http.request("GET", "/metrics").body.decode()
    assert 'medsam3_jobs_total{kind="estimate",state="cancelled"} 1.0' in counted
    assert 'kind="estimate",state="done"' not in counted
    assert client.jobs() == []
    assert "About " in logic.estimate(volume, ["liver"]).wait().sentence
    assert pid(logic) == first, "the same engine goes on"


def engine_is(client: Any, state: str) -> bool:
    """Whether all engines are in a state."""
    return all(engine["state"] == state for engine in client.health()["engines"])
