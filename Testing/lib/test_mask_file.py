"""Masks beyond a budget lie in a file, and are the same."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import mask_file
from MedicalSAM3Lib.feature_store import temporary_folder
from MedicalSAM3Lib.mask_file import MaskFile

SIDE = 40
SIZE = 2 * SIDE * SIDE

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere all masks stay in memory")


def some(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(SIDE, SIDE, generator=generator).half() for _ in range(count)]


@linux
def test_masks_beyond_the_budget_are_the_same_also_after_they_were_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_file, "CHUNK", 4 * SIZE)
    files = set(os.listdir(temporary_folder()))
    masks, given = MaskFile(2 * SIZE), some(12)
    kept = [masks.keep(one) for one in given]
    assert [one is other for one, other in zip(kept, given, strict=True)] == [True] * 2 + [False] * 10
    masks.let_go()
    assert all(torch.equal(one, other) for one, other in zip(kept, given, strict=True))
    del masks
    assert all(torch.equal(one, other) for one, other in zip(kept, given, strict=True)), "a mask outlives its keeper"
    assert set(os.listdir(temporary_folder())) == files


@linux
def test_what_is_let_go_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from MedicalSAM3Lib.process_memory import resident_bytes

    masks, large = MaskFile(0), torch.ones(1 << 19, dtype=torch.float16)
    kept = [masks.keep(large) for _ in range(64)]
    sum(float(one.sum()) for one in kept)
    read = resident_bytes()
    masks.let_go()
    left = resident_bytes()
    assert read is not None
    assert left is not None
    assert read - left > 0.9 * 64 * large.nbytes
    assert all(torch.equal(one, large) for one in kept)


def test_without_a_budget_nothing_is_copied() -> None:
    masks, given = MaskFile(), some(3)
    assert all(masks.keep(one) is one for one in given)
    masks.let_go()


def test_nothing_and_what_is_larger_than_the_file_stay_where_they_are() -> None:
    masks, large = MaskFile(0), torch.zeros(mask_file.CHUNK, dtype=torch.float16)
    assert masks.keep(large) is large
    masks = MaskFile(0)
    empty = torch.zeros(0, SIDE, SIDE).half()
    assert masks.keep(empty) is empty


@pytest.mark.parametrize("what", ["disk", "system"])
def test_where_there_is_no_file_masks_stay_in_memory(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    if what == "disk":
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    masks, given = MaskFile(SIZE), some(4)
    assert all(masks.keep(one) is one for one in given)
