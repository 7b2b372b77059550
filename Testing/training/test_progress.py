"""The line that tells how far a run is."""

from __future__ import annotations

import io
import logging
import sys
from typing import Any

import pytest
from rich.console import Console

from Training import progress
from Training.progress import STEPS_PER_LINE, StderrHandler, progress_line

NUMBERS: dict[str, Any] = {
    "loss": 2.5, "grad_norm": 1.25, "seconds": 0.5, "wait_seconds": 0.25, "slices_per_second": 6.0
}  # fmt: skip


def test_in_a_file_there_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), progress_line(50, 0, is_main=True) as tell:
        for step in range(STEPS_PER_LINE + 1):
            tell(step, NUMBERS)
    first = "step 0/50  loss 2.500  gradient 1.250  0.50 s (0.25 s waiting)"
    assert caplog.messages == [first, first.replace("0/50", f"{STEPS_PER_LINE}/50")]


def test_other_ranks_say_nothing(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO), progress_line(50, 0, is_main=False) as tell:
        tell(0, NUMBERS)
    assert caplog.messages == []
    assert capsys.readouterr() == ("", "")


def test_a_person_sees_a_line_that_moves_and_other_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    handler = StderrHandler()
    with progress_line(50, 3, is_main=True) as tell:
        tell(3, NUMBERS)
        handler.emit(logging.makeLogRecord({"msg": "validation is done"}))
    shown = screen.getvalue()
    assert " 4/50" in shown
    assert "loss 2.500  6 slices/s" in shown
    assert "validation is done\n" in shown
    assert shown.rindex("4/50") > shown.index("validation is done")
