"""Features under a memory budget: the same bits wherever they lie, copies only, and nothing left behind."""

from __future__ import annotations

import errno
import gc
import io
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import feature_store as module
from MedicalSAM3Lib.errors import RunError
from MedicalSAM3Lib.feature_store import FeatureStore, temporary_folder

SHAPE = (37, 53)
"""Odd sizes: a slice begins in the middle of a page of memory."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files that must be empty at all times."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def tokens_of(num_slices: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num_slices, *SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def filled(tokens: Tensor, in_memory: int) -> FeatureStore:
    """A store with so many slices in memory, filled in pieces of three."""
    store = FeatureStore(len(tokens), SHAPE, tokens.dtype, in_memory * tokens[:1].nbytes)
    for start in range(0, len(tokens), 3):
        store.put(slice(start, start + 3), tokens[start : start + 3])
    return store


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("in_memory", [0, 2, 7, 100])
def test_what_comes_out_is_what_went_in_bit_for_bit(dtype, in_memory):
    tokens = tokens_of(7, dtype)
    tokens[3, 0, :3] = torch.tensor([torch.nan, torch.inf, -0.0]).to(dtype)
    with filled(tokens, in_memory) as store:
        assert (len(store), store.in_memory) == (7, min(in_memory, 7))
        assert (store.nbytes, store.memory_bytes) == (tokens.nbytes, store.in_memory * tokens[0].nbytes)
        for indices in (slice(0, 7), slice(1, 4), slice(5, None), slice(3, 3)):
            same_bits(store.tokens(indices), tokens[indices])
        for numbers in ([6, 0, 2, 2, 1], [4], []):
            same_bits(store.take(numbers), tokens[numbers])


@pytest.mark.parametrize("num_slices", [0, 1])
@pytest.mark.parametrize("in_memory", [0, 1])
def test_no_slice_and_one_slice(num_slices, in_memory):
    tokens = tokens_of(num_slices)
    with filled(tokens, in_memory) as store:
        assert len(store) == num_slices
        same_bits(store.tokens(slice(0, num_slices)), tokens)


@pytest.mark.parametrize("in_memory", [0, 4])
def test_neither_what_was_put_nor_what_is_handed_out_can_change_the_store(in_memory):
    tokens = tokens_of(4)
    given = tokens.clone()
    with filled(given, in_memory) as store:
        given.zero_()
        store.tokens(slice(0, 4)).zero_()
        store.take([2])[0].fill_(7)
        same_bits(store.tokens(slice(0, 4)), tokens)


def test_features_of_a_network_at_work_can_be_kept():
    with torch.inference_mode():
        tokens = tokens_of(3)
    with filled(tokens, 1) as store:
        taken = store.tokens(slice(0, 3))
        same_bits(taken, tokens)
        assert not taken.is_inference()


def test_many_threads_read_at_once():
    tokens = tokens_of(12)
    with filled(tokens, 3) as store, ThreadPoolExecutor(8) as pool:
        orders = [torch.randperm(12).tolist() for _ in range(40)]
        for order, taken in zip(orders, pool.map(store.take, orders), strict=True):
            same_bits(taken, tokens[order])


def test_the_file_is_closed_with_its_store_and_when_nobody_holds_it():
    store = filled(tokens_of(4), 1)
    file = store._file
    assert not file.closed
    store.close()
    store.close()
    assert file.closed
    assert (store.nbytes, store.memory_bytes) == (0, 0)
    with pytest.raises(ValueError, match="closed"):
        store.take([0])

    forgotten = filled(tokens_of(4), 1)
    file = forgotten._file
    del forgotten
    gc.collect()
    assert file.closed


def test_an_error_in_the_block_closes_it():
    with pytest.raises(KeyError), filled(tokens_of(4), 1) as store:
        raise KeyError
    assert store._file.closed


def test_a_wrong_slice_and_a_wrong_format_are_refused():
    with filled(tokens_of(3), 1) as store:
        for number in (-1, 3):
            with pytest.raises(IndexError, match="from 0 to 2"):
                store.take([0, number])
        with pytest.raises(ValueError, match=r"Expected features in torch\.float32, got torch\.float16"):
            store.put(slice(0, 1), tokens_of(1, torch.float16))
        with pytest.raises(ValueError, match="zip"):
            store.put(slice(0, 2), tokens_of(1))


def test_memory_that_the_machine_does_not_have_is_one_clear_line():
    with pytest.raises(RunError, match=r"Expected 1152921504\.6 GB of memory .* lower the memory budget"):
        FeatureStore(1, (1 << 60,), torch.uint8, 1 << 60)


class Disk(io.RawIOBase):
    """A file on a disk with room for some bytes, that takes at most a thousand at a time."""

    def __init__(self, file: io.RawIOBase, room: int) -> None:
        self._to, self._room = file, room

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._to.seek(offset)

    def write(self, data: memoryview) -> int:
        if self._room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._to.write(data[: min(1000, self._room)])
        self._room -= written
        return written

    def fileno(self) -> int:
        return self._to.fileno()


@pytest.mark.parametrize("room", [1 << 30, 20_000])
def test_a_disk_that_takes_little_at_a_time_is_enough_and_a_full_one_is_one_clear_line(room):
    tokens = tokens_of(4)
    with FeatureStore(4, SHAPE, torch.float32, 0) as store:
        store._file = Disk(store._file, room)
        if room > tokens.nbytes:
            store.put(slice(0, 4), tokens)
            same_bits(store.tokens(slice(0, 4)), tokens)
        else:
            with pytest.raises(RunError, match="no space left on device; ask for a range of slices"):
                store.put(slice(0, 4), tokens)


def test_a_folder_that_is_not_there_is_one_clear_line(monkeypatch, folder):
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "gone"))
    with pytest.raises(RunError, match="temporary file, but no such file"):
        FeatureStore(2, SHAPE, torch.float32, 0)


def test_large_files_go_to_the_disk_unless_the_user_says_where(monkeypatch, folder):
    assert temporary_folder() == str(folder)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_ON_DISK", str(folder / "disk"))
    assert temporary_folder() == str(folder)
    monkeypatch.setattr(module, "_ON_DISK", "/")
    monkeypatch.setattr(module.os, "access", lambda *args: True)
    assert temporary_folder() == ("/" if sys.platform == "linux" else str(folder))


def same_bits(one: Tensor, other: Tensor) -> None:
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    assert torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
