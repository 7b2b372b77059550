"""Features of many slices under a memory budget: the first ones in memory, the others in a temporary file.

The file has no name (on Windows it goes with its handle), so that nothing of a patient's image stays behind, not
even after a crash. It is written with plain writes: on a full disk they fail, where a write into a mapping would
kill the process. It is read through mappings of one slice each: threads need not wait for each other, and the
pages count as memory of the process only while they are copied.

Shapes: N slices, L tokens, D width of the trunk.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.derived import Derived
from MedicalSAM3Lib.errors import RunError

_FOLDER_VARIABLES = ("TMPDIR", "TEMP", "TMP")
_ON_DISK = "/var/tmp"
_REMEDY = "ask for a range of slices, raise the memory budget, or set TMPDIR to a folder on a larger disk"


class FeatureStore:
    """Features of N slices in their own number format. What it hands out are copies, so nothing can change it.

    ``derived`` keeps what was made of them, for as long as they are kept.

    One thread writes; when it is done, any number may read.
    """

    def __init__(self, num_slices: int, shape: Sequence[int], dtype: torch.dtype, memory_bytes: int) -> None:
        """Make room for all slices.

        Args:
            num_slices: N.
            shape: Of one slice, ``(L, D)``.
            dtype: Number format.
            memory_bytes: Slices beyond this are kept in the file; 0 keeps none in memory.

        Raises:
            RunError: Memory or disk has no room.
        """
        self._num_slices, self._shape, self._dtype = num_slices, tuple(shape), dtype
        self._slice_bytes = math.prod(self._shape) * dtype.itemsize
        in_memory = slices_in_memory(num_slices, self._slice_bytes, memory_bytes)
        try:
            self._memory = torch.empty((in_memory, *self._shape), dtype=dtype)
        except RuntimeError as error:  # what PyTorch raises where the system has no such memory
            size = in_memory * self._slice_bytes / 1e9
            raise RunError(f"Expected {size:.1f} GB of memory for features; lower the memory budget.") from error
        self._file: IO[bytes] | None = None
        if in_memory < num_slices:
            self._file = _open_file((num_slices - in_memory) * self._slice_bytes)
            self._closing = weakref.finalize(self, self._file.close)
        self._is_closed = False
        self.derived = Derived()

    def __len__(self) -> int:
        return self._num_slices

    @property
    def in_memory(self) -> int:
        """Number of slices that are kept in memory; the others are in the file."""
        return len(self._memory)

    @property
    def nbytes(self) -> int:
        """Size of all slices in bytes, in memory and in the file; 0 when closed."""
        return 0 if self._is_closed else self._num_slices * self._slice_bytes

    @property
    def memory_bytes(self) -> int:
        """Size in bytes of the slices that are in memory."""
        return self._memory.nbytes

    def put(self, indices: slice, tokens: Tensor) -> None:
        """Keep ``tokens`` ``(n, L, D)``, on any device, as the features of n slices.

        Raises:
            RunError: The disk is full.
        """
        if tokens.dtype != self._dtype:
            raise ValueError(f"Expected features in {self._dtype}, got {tokens.dtype}; convert them first.")
        rows = tokens.cpu().contiguous()
        for number, row in zip(range(*indices.indices(len(self))), rows, strict=True):
            if number < self.in_memory:
                self._memory[number] = row
            else:
                self._write(number, row)

    def tokens(self, indices: slice) -> Tensor:
        """Copy the features ``(n, L, D)`` of some slices, in main memory."""
        return self.take(range(*indices.indices(len(self))))

    def take(self, numbers: Iterable[int]) -> Tensor:
        """Copy the features ``(n, L, D)`` of slices in any order, in main memory.

        Raises:
            RunError: The file cannot be read.
        """
        if self._is_closed:
            raise ValueError("Expected features that are kept, these were closed; run the trunk again.")
        wanted = list(numbers)
        out = torch.empty((len(wanted), *self._shape), dtype=self._dtype)
        for row, number in zip(out, wanted, strict=True):
            if not 0 <= number < len(self):
                raise IndexError(f"Expected a slice from 0 to {len(self) - 1}, got {number}.")
            if number < self.in_memory:
                row.copy_(self._memory[number])
            else:
                self._read(number, row)
        return out

    def close(self) -> None:
        """Give memory and disk back; doing it twice does no harm."""
        self._is_closed = True
        self.derived.clear()
        self._memory = torch.empty((0, *self._shape), dtype=self._dtype)
        if self._file is not None:
            self._closing()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offset(self, number: int) -> int:
        return (number - self.in_memory) * self._slice_bytes

    def _write(self, number: int, row: Tensor) -> None:
        assert self._file is not None
        left = _raw(row).data
        try:
            self._file.seek(self._offset(number))
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _disk_error(error) from error

    def _read(self, number: int, row: Tensor) -> None:
        assert self._file is not None
        offset = self._offset(number)
        start = offset - offset % mmap.ALLOCATIONGRANULARITY  # where a mapping may begin
        length = offset - start + self._slice_bytes
        try:
            with mmap.mmap(self._file.fileno(), length, access=mmap.ACCESS_READ, offset=start) as window:
                np.copyto(_raw(row), np.frombuffer(window, np.uint8, self._slice_bytes, offset - start))
        except OSError as error:
            raise _disk_error(error) from error


def slices_in_memory(num_slices: int, slice_bytes: int, memory_bytes: int) -> int:
    """How many of the slices are kept in memory; the others are in the file."""
    return min(num_slices, max(memory_bytes, 0) // slice_bytes)


def temporary_folder() -> str:
    """Folder for large temporary files: where the user says, else on a disk.

    On many a Linux the system's usual place for temporary files is kept in memory, which is what ran out.
    """
    is_chosen = any(os.environ.get(name) for name in _FOLDER_VARIABLES)
    if sys.platform == "linux" and not is_chosen and os.access(_ON_DISK, os.W_OK | os.X_OK):
        return _ON_DISK
    return tempfile.gettempdir()


def _open_file(num_bytes: int) -> IO[bytes]:
    """Open a file that nobody else can and that is gone when it is closed or the process ends."""
    try:
        folder = temporary_folder()
        free = shutil.disk_usage(folder).free
        if free < num_bytes:
            need = f"{num_bytes / 1e9:.1f} GB of free disk for the features that exceed the memory budget"
            raise RunError(f"Expected {need}, got {free / 1e9:.1f}; {_REMEDY}.")
        return tempfile.TemporaryFile(buffering=0, dir=folder)
    except OSError as error:
        raise _disk_error(error) from error


def _disk_error(error: OSError) -> RunError:
    reason = (error.strerror or "the disk refused").lower()
    return RunError(f"Expected to keep features in a temporary file, but {reason}; {_REMEDY}.")


def _raw(row: Tensor) -> np.ndarray:
    """View the bytes of a contiguous tensor: NumPy has no bfloat16."""
    return row.reshape(-1).view(torch.uint8).numpy()
