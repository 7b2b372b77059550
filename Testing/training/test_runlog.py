"""The log of a run that is continued."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from MedicalSAM3Lib.errors import RunError, SettingsError
from Training.runlog import RunLog


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, is_main=True) as log:
        log.write(0, {"loss": 0.1 + 0.2, "terms": {"dice": math.nan, "count": 3}, "name": "x"})
    assert lines(tmp_path) == [{"step": 0, "loss": 0.1 + 0.2, "terms": {"dice": None, "count": 3}, "name": "x"}]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_continued_log_drops_what_is_computed_again_and_what_was_cut_off(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0, is_main=True) as log:
        log.write(7, {"warm_start": {"loss": 1.0}})
        for step in range(4):
            log.write(step, {"loss": float(step)})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with RunLog(tmp_path, 2, is_main=True) as log:
        log.write(2, {"loss": 9.0})
    assert [(line["step"], line.get("loss")) for line in lines(tmp_path)] == [(7, None), (0, 0.0), (1, 1.0), (2, 9.0)]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", 0, is_main=False) as log:
        log.write(0, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


class FakeWandb:
    """What the log uses of the package, and what it was told."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.ended: list[int] = []
        self.metrics: list[tuple[str, str]] = []
        self.Settings = lambda **values: values

    def init(self, **values: Any) -> SimpleNamespace:
        self.begun.append(values)
        return SimpleNamespace(
            log=self.logged.append,
            finish=lambda exit_code: self.ended.append(exit_code),
            define_metric=lambda name, step_metric: self.metrics.append((name, step_metric)),
        )


def test_weights_and_biases_gets_the_numbers_only_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with RunLog(tmp_path, 0, is_main=True, wandb="mine") as log:
        log.write(0, {"loss": 1.0, "terms": {"dice": 2}, "name": "liver"})
    log = RunLog(tmp_path, 1, is_main=True, wandb="mine")
    log.write(1, {"loss": 0.5})
    log.__exit__(RunError, RunError("failed"), None)
    with RunLog(tmp_path / "other", 0, is_main=False, wandb="mine") as log:
        log.write(0, {"loss": 1.0})
    assert fake.logged == [{"loss": 1.0, "terms/dice": 2.0, "step": 0}, {"loss": 0.5, "step": 1}]
    first, second = fake.begun
    assert first == second
    assert (first["project"], first["resume"], first["dir"]) == ("mine", "allow", str(tmp_path))
    assert first["id"] == (tmp_path / "wandb.txt").read_text()
    # wandb 0.31 would send the machine's name, what it is made of, how busy it is, and what is installed there.
    kept_back = ("disable_code", "disable_git", "x_disable_meta", "x_disable_stats", "x_disable_machine_info")
    assert first["settings"] == {
        "host": "hidden", "console": "off", "x_save_requirements": False, **dict.fromkeys(kept_back, True)
    }  # fmt: skip
    assert not {"config", "name", "notes"} & first.keys()
    assert fake.metrics == [("*", "step")] * 2
    assert fake.ended == [0, 1]


def test_wandb_that_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r"run\.wandb: expected the package wandb"):
        RunLog(tmp_path / "run", 0, is_main=True, wandb="mine")
    assert not list(tmp_path.iterdir())


def test_nothing_is_imported_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with RunLog(tmp_path, 0, is_main=True) as log:
        log.write(0, {"loss": 1.0})
    assert len(lines(tmp_path)) == 1
