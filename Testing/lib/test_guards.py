"""Guards: memory, frames and finite voxels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from MedicalSAM3Lib import guards
from MedicalSAM3Lib.errors import InputError


def test_free_memory_is_plausible() -> None:
    assert 10_000_000 < guards.available_memory_bytes() < 1e14


def test_what_needs_more_memory_than_is_free_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "available_memory_bytes", lambda: 1000)
    guards.require_memory((5, 5, 5), 4)
    with pytest.raises(InputError, match="promises 5 x 5 x 6 values"):
        guards.require_memory((5, 5, 6), 4)


def test_sizes_beyond_64_bit_do_not_wrap_around() -> None:
    with pytest.raises(InputError, match="fits in memory"):
        guards.require_memory((2**40, 2**40, 2**40), 4)


def test_a_containers_limit_counts_but_not_the_copies_of_files_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {"max": "5000000", "current": "4000000", "stat": "anon 1\nactive_file 1000000\ninactive_file 500000"}
    for name, text in contents.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(guards, "CGROUP_FILES", (tuple(str(tmp_path / name) for name in contents),))
    if sys.platform.startswith("linux"):
        assert guards.available_memory_bytes() == 2_500_000


@pytest.mark.parametrize(("frame", "count", "index"), [(None, 1, 0), (0, 1, 0), (3, 4, 3)])
def test_a_frame_is_picked(frame: int | None, count: int, index: int) -> None:
    assert guards.pick_frame(frame, count) == index


@pytest.mark.parametrize("frame", [None, -1, 4])
def test_a_frame_that_is_not_there_is_refused(frame: int | None) -> None:
    with pytest.raises(InputError, match="0 to 3"):
        guards.pick_frame(frame, 4)


def test_voxels_that_are_not_finite_are_counted() -> None:
    array = np.zeros((2, 3), np.float32)
    guards.check_finite(array)
    array[0] = (np.nan, np.inf, -np.inf)
    with pytest.raises(InputError, match="got 1 NaN and 2 infinite of 6; replace them"):
        guards.check_finite(array)
