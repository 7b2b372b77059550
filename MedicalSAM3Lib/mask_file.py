"""What is kept of every slice and concept until a run ends: in memory, or beyond a budget in a nameless temporary file.

The file is mapped: a mask in it is a tensor like any other, and the system reads and forgets its pages. What is there
can be let go at any time, so that it counts as no memory of the process until it is read again.
"""

from __future__ import annotations

import mmap
import os
import tempfile

import torch
from torch import Tensor

from MedicalSAM3Lib.feature_store import temporary_folder

CHUNK = 4 << 20
"""Bytes of the file that are set aside, and mapped, at a time."""


class MaskFile:
    """Keeps masks.

    Where the system cannot map a file so, or the disk is full, all masks stay in memory: no result needs the file.
    """

    def __init__(self, budget_bytes: float = float("inf")) -> None:
        """Keep as much in memory, and put the rest into a file. Nothing is opened before that is needed."""
        self._room = budget_bytes
        self._chunks: list[mmap.mmap] = []
        self._used = CHUNK

    def keep(self, mask: Tensor) -> Tensor:
        """The same values, for the rest of the run; the mask itself where there is room in memory.

        Args:
            mask: In main memory.
        """
        size = mask.nbytes
        if size <= self._room or size > CHUNK:
            self._room -= size
            return mask
        if self._used + size > CHUNK and not self._add_chunk():
            self._room = float("inf")
            return mask
        kept = torch.frombuffer(self._chunks[-1], dtype=mask.dtype, count=mask.numel(), offset=self._used)
        self._used += size
        return kept.view(mask.shape).copy_(mask)

    def let_go(self) -> None:
        """Let the system take the memory of what is in the file; it is read again when it is needed."""
        for chunk in self._chunks:
            chunk.madvise(mmap.MADV_DONTNEED)

    def _add_chunk(self) -> bool:
        """Whether there is room in a file for more."""
        if not (hasattr(os, "posix_fallocate") and hasattr(mmap, "MADV_DONTNEED")):
            return False
        try:
            with tempfile.TemporaryFile(dir=temporary_folder()) as file:
                os.posix_fallocate(file.fileno(), 0, CHUNK)  # a write beyond a full disk would end the process
                self._chunks.append(mmap.mmap(file.fileno(), CHUNK))
        except OSError:
            return False
        self.let_go()
        self._used = 0
        return True
