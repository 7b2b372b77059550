"""The supervisor: engines that die, hang, break at their start, and end with their parent. Most are fakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Queue

import pytest

from MedicalSAM3Lib import engines as engines_module
from MedicalSAM3Lib.engine_port import Answer, Order
from MedicalSAM3Lib.engine_process import EngineOptions
from MedicalSAM3Lib.engines import ProcessEngines

FAKE = Path(__file__).with_name("fake_engine.py")
PATIENCE_S = 60.0


class Watched:
    """Engines and all that they said."""

    def __init__(self, *devices: str) -> None:
        options = EngineOptions(devices)
        self.engines = ProcessEngines(options, lambda device: [sys.executable, str(FAKE), device])
        self.answers: Queue[Answer] = Queue()
        self.changes: Queue[None] = Queue()
        self.engines.start(self.answers.put, lambda: self.changes.put(None))

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, self.states
            time.sleep(0.01)

    def ready(self) -> None:
        self.until(lambda: all(state == "idle" for state in self.states))

    @property
    def states(self) -> list[str]:
        return [state.state for state in self.engines.states()]

    def answer(self) -> Answer:
        return self.answers.get(timeout=PATIENCE_S)

    def give(self, word: str, job_id: str = "job", volume: str = "volume") -> bool:
        out = Path("out")
        return self.engines.give(Order(job_id, "segment", Path(volume), "v", (word,), {}, "auto", out))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    monkeypatch.setattr(engines_module, "TICK_S", 0.01)
    monkeypatch.setattr(engines_module, "SILENCE_TICKS", 10**9)
    started: list[Watched] = []

    def make(*devices: str) -> Watched:
        started.append(Watched(*(devices or ("cpu",))))
        return started[-1]

    yield make
    for watched in started:
        watched.engines.stop()


def gone(pids: Sequence[int]) -> bool:
    return not any(runs(pid) for pid in pids)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and not yet noticed by whoever inherited it


def test_an_order_is_done_and_the_engine_is_free_again(start: Callable[..., Watched]) -> None:
    watched = start()
    assert not watched.give("x"), "an engine that starts is not free"
    watched.ready()
    model = watched.engines.model()
    assert model is not None
    assert model.name == "fake"
    assert watched.give("x")
    assert watched.answer().kind == "done"
    assert watched.states == ["idle"]


def test_one_order_at_a_time(start: Callable[..., Watched]) -> None:
    watched = start()
    watched.ready()
    assert watched.give("wait")
    assert not watched.give("x", "other")
    watched.engines.cancel("other")
    watched.engines.cancel("job")
    assert watched.answer() == Answer("job", "cancelled")
    assert watched.answers.empty()


def test_a_killed_engine_fails_its_order_and_another_does_the_next(start: Callable[..., Watched]) -> None:
    watched = start()
    watched.ready()
    before = watched.engines.pids()
    watched.give("die")
    assert watched.answer().kind == "progress"
    failed = watched.answer()
    assert (failed.kind, failed.data["code"]) == ("failed", "engine_died")
    assert "memory" in failed.data["message"]
    watched.ready()
    assert watched.give("x", "next")
    assert watched.answer().data["pid"] == watched.engines.pids()[0] != before[0]


def test_a_silent_engine_is_ended_and_says_so(start: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    watched = start()
    watched.ready()
    watched.give("hang")
    monkeypatch.setattr(engines_module, "SILENCE_TICKS", 3)
    failed = watched.answer()
    monkeypatch.setattr(engines_module, "SILENCE_TICKS", 10**9)
    assert "did not answer" in failed.data["message"]
    watched.ready()


def test_a_cancel_that_is_not_heard_ends_the_engine(
    start: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = start()
    watched.ready()
    watched.give("hang")
    monkeypatch.setattr(engines_module, "CANCEL_TICKS", 3)
    watched.engines.cancel("job")
    assert watched.answer().kind == "cancelled"
    watched.ready()


def test_an_engine_that_breaks_at_its_start_is_tried_later_and_later(start: Callable[..., Watched]) -> None:
    watched = start("cpu", "broken")
    watched.until(lambda: watched.states == ["idle", "dead"])
    slot = watched.engines._slots[1]
    watched.until(lambda: slot.failed_starts >= 3)
    assert watched.give("x")
    assert watched.answer().kind == "done"


def test_two_engines_work_at_the_same_time_and_a_volume_comes_back_to_its_own(start: Callable[..., Watched]) -> None:
    watched = start("cpu", "cuda:1")
    watched.ready()
    assert watched.give("wait", "one", "a")
    assert watched.give("x", "two", "b")
    assert watched.answer().data["device"] == "cuda:1"
    watched.engines.cancel("one")
    assert watched.answer().kind == "cancelled"
    for _ in range(3):
        watched.ready()
        watched.give("x", "again", "b")
        assert watched.answer().data["device"] == "cuda:1"


def test_features_are_dropped_in_all_engines(start: Callable[..., Watched]) -> None:
    watched = start("cpu", "cpu")
    watched.ready()
    watched.give("wait")
    assert watched.engines.drop_features(None) == 200
    assert watched.engines.drop_features([Path("a")]) == 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes")
def test_stop_leaves_no_process_whatever_it_does(start: Callable[..., Watched]) -> None:
    watched = start("cpu", "cpu")
    watched.ready()
    pids = watched.engines.pids()
    assert len(pids) == 2
    watched.give("hang")
    monkey_patience, engines_patience = 0.1, "MedicalSAM3Lib.engine_process._PATIENCE_S"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines_patience, monkey_patience)
        watched.engines.stop()
    assert gone(pids)
    assert not watched.give("x")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system for processes")
def test_an_engine_ends_with_a_parent_that_was_killed(repository: Path) -> None:
    # The real engine, which listens while it imports: it must not wait for torch to end.
    script = (
        "import sys, time\n"
        "from MedicalSAM3Lib.engine_process import EngineOptions\n"
        "from MedicalSAM3Lib.engines import ProcessEngines\n"
        "engines = ProcessEngines(EngineOptions(('cpu',), 'nothing-of-that-name'))\n"
        "engines.start(print, lambda: None)\n"
        "print(*engines.pids(), flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=repository, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids
        assert not gone(pids)
        os.kill(parent.pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE_S
    while not gone(pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_cores_are_shared_among_engines_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MedicalSAM3Lib.guards.usable_cores", lambda: 8)

    def threads(*devices: str, asked: int = 0) -> list[str]:
        command = EngineOptions(devices, threads=asked, memory_budget_gb=3.0).command(devices[0])
        assert command[command.index("--memory-budget") + 1] == "3.0"
        return command[command.index("--threads") + 1 :][:1]

    assert threads("cpu") == ["0"]
    assert threads("cpu", "cpu") == ["4"]
    assert threads("cpu", "cpu", asked=1) == ["1"]
    assert threads("cuda:0", "cuda:1") == ["0"]
