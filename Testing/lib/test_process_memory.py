"""Memory of this process: what the system says, and a peak that is not lost when its mark is set back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from MedicalSAM3Lib import meter as meters
from MedicalSAM3Lib import process_memory as module
from MedicalSAM3Lib.meter import Meter
from MedicalSAM3Lib.process_memory import Trimmer, marked_peak_bytes, peak_bytes, resident_bytes, set_mark_back

KB = 1024


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A system that says what the test wants it to say."""
    status = tmp_path / "status"
    monkeypatch.setattr(module, "STATUS_FILE", status)
    monkeypatch.setattr(module, "MARK_FILE", tmp_path / "clear_refs")
    monkeypatch.setattr(module, "_earlier_peak", 0)

    def say(now: int, peak: int) -> None:
        status.write_text(f"Name:\tpython\nVmHWM:\t {peak} kB\nVmRSS:\t {now} kB\n", encoding="ascii")

    return say


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems know the peak alone")
def test_what_is_in_use_lies_between_nothing_and_the_peak() -> None:
    now, peak = resident_bytes(), peak_bytes()
    assert now is not None
    assert peak is not None
    assert 30e6 < now <= peak


def test_the_status_of_the_process_is_read(says) -> None:
    says(now=300, peak=900)
    assert (resident_bytes(), peak_bytes(), marked_peak_bytes()) == (300 * KB, 900 * KB, 900 * KB)


def test_the_peak_of_the_process_outlives_its_mark(says, tmp_path: Path) -> None:
    says(now=300, peak=900)
    assert set_mark_back()
    assert (tmp_path / "clear_refs").read_text() == "5"
    says(now=300, peak=400)
    assert marked_peak_bytes() == 400 * KB
    assert peak_bytes() == 900 * KB
    assert set_mark_back()
    says(now=300, peak=300)
    assert peak_bytes() == 900 * KB


def test_where_the_mark_stays_the_meter_takes_the_arithmetic(says, tmp_path: Path, monkeypatch) -> None:
    says(now=300, peak=900)
    meter = Meter(100 * KB)
    assert meter.run(lambda: "done", 7)[::2] == ("done", 800 * KB)
    monkeypatch.setattr(module, "MARK_FILE", tmp_path)  # a folder cannot be written
    assert not set_mark_back()
    assert meter.run(lambda: "done", 7)[::2] == ("done", 7)
    assert Meter(None).run(lambda: "done", 7)[::2] == ("done", 7)


def test_memory_is_trimmed_at_first_and_whenever_it_has_grown_enough_since(says, monkeypatch) -> None:
    trimmed: list[str] = []
    trim = Trimmer(100 * KB, lambda: None)

    def grows_to(before: int, after: int) -> None:
        """A step ends with so much; a trim leaves so much."""
        says(now=before, peak=900)
        monkeypatch.setattr(module, "trim", lambda: (trimmed.append(f"at {before}"), says(now=after, peak=900)))
        trim()

    grows_to(500, 300)
    grows_to(399, 0)  # not yet
    grows_to(400, 350)
    grows_to(449, 0)
    grows_to(200, 0)  # what was in use is gone: growth counts from here
    grows_to(300, 250)
    assert trimmed == ["at 500", "at 400", "at 300"]


def test_a_system_that_tells_nothing_is_trimmed_once(says, monkeypatch) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(module, "trim", lambda: trimmed.append(1))
    monkeypatch.setattr(module, "_resource_peak", lambda: None)
    trim = Trimmer(100 * KB, lambda: trimmed.append(0))
    trim()
    trim()
    assert trimmed == [0, 1], "what else can be given back comes first"


def test_a_system_without_a_status_file_tells_the_peak_or_nothing(says, monkeypatch) -> None:
    monkeypatch.setattr(module, "_resource_peak", lambda: 5 * KB)
    assert (resident_bytes(), peak_bytes(), marked_peak_bytes()) == (5 * KB, 5 * KB, None)
    monkeypatch.setattr(module, "_resource_peak", lambda: None)
    assert (resident_bytes(), peak_bytes(), Meter(None).growth()) == (None, None, 0)


def test_the_meter_counts_seconds_and_what_was_kept(says, monkeypatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(meters, "clock", lambda: next(ticks))
    says(now=300, peak=900)
    meter = Meter(100 * KB)
    assert meter.run(lambda: None)[1] == 2.5
    assert meter.growth() == 200 * KB
