"""The log of a run that is continued."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

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
