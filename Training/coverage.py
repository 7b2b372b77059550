"""Which concepts cover each pixel: a number a pixel, and a table that says what each number stands for.

Any number of concepts may overlap ("kidney" and "left kidney"), pictures of one number a pixel are small, and they are
warped and cut in one go.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Coverage:
    """Pixels and the combinations of concepts on them.

    Attributes:
        ids: Unsigned integers of any shape, 0 where no concept is; an array, or what is indexed like one.
        table: bool ``(K, C)``: whether combination k holds concept c; row 0 is empty.
    """

    ids: Any
    table: np.ndarray

    @classmethod
    def of_masks(cls, shape: tuple[int, ...], masks: Iterable[tuple[int, np.ndarray]], concepts: int) -> Coverage:
        """Lay masks over each other, one at a time.

        Args:
            shape: Of the pixels.
            masks: Number of a concept and where it is, bool of ``shape``.
            concepts: How many concepts there are, C.
        """
        ids, table = np.zeros(shape, np.int32), np.zeros((1, concepts), bool)
        for concept, mask in masks:
            before = ids[mask]
            found = np.flatnonzero(np.bincount(before, minlength=len(table)))
            rows = table[found]
            rows[:, concept] = True
            new = np.zeros(len(table), np.int32)
            new[found] = np.arange(len(table), len(table) + len(found))
            table = np.concatenate([table, rows])
            ids[mask] = new[before]
        used = np.union1d([0], np.flatnonzero(np.bincount(ids.ravel(), minlength=len(table))))
        renamed = np.zeros(len(table), np.min_scalar_type(len(used)))
        renamed[used] = np.arange(len(used))
        return cls(renamed[ids], table[used])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels."""
        return tuple(self.ids.shape)

    def __getitem__(self, index: Any) -> Coverage:
        """Some of the pixels."""
        return Coverage(self.ids[index], self.table)

    def mask(self, concept: int) -> np.ndarray:
        """Where a concept is: bool of the pixels' shape."""
        return self.table[:, concept][np.asarray(self.ids)]

    def areas(self) -> np.ndarray:
        """Pixels of every concept ``(C,)``."""
        return np.bincount(np.asarray(self.ids).ravel(), minlength=len(self.table)) @ self.table

    def any(self) -> bool:
        """Whether any concept is anywhere."""
        return bool(self.areas().any())


def stack(parts: list[Coverage]) -> Coverage:
    """Pictures of one volume on top of each other."""
    return Coverage(np.stack([part.ids for part in parts]), parts[0].table)
