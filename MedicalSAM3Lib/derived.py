"""What is made of a slice's trunk tokens whatever the concept, kept for the next concept where memory allows.

The trunk's tokens are the smallest thing to keep and the dearest to make again, so they come first, on a disk if need
be. What detector and tracker make of them before a concept comes in is five times as large and takes a tenth of the
trunk's time, which is all of a second concept's time but its own: it is kept in memory that is left over, and is the
first to go. Never on a GPU: its memory is given back after a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Derived:
    """Things by kind and slice, each made once. What it hands out must not be changed in place."""

    def __init__(self) -> None:
        self._things: dict[tuple[str, int], Any] = {}
        self._lock = Lock()
        self.nbytes = 0

    def each(
        self, kind: str, slices: Sequence[int], make: Callable[[Sequence[int]], Sequence[T]], may: Callable[[int], bool]
    ) -> list[T]:
        """A thing for each slice: those that are missing are made, and kept if they may.

        Args:
            kind: What it is.
            slices: Numbers.
            make: Makes those of some slices, in their order.
            may: Whether there is room for so many more bytes.
        """
        known = {n: self._things.get((kind, n)) for n in slices}
        missing = [n for n, thing in known.items() if thing is None]
        for n, made in zip(missing, make(missing) if missing else (), strict=True):
            known[n] = made
            self._keep((kind, n), made, may)
        return [thing for n in slices if (thing := known[n]) is not None]

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._things.clear()
            self.nbytes = 0

    def _keep(self, key: tuple[str, int], thing: object, may: Callable[[int], bool]) -> None:
        size = num_bytes(thing)
        if not may(size):
            return
        with self._lock:
            if key not in self._things:
                self._things[key] = thing
                self.nbytes += size


def num_bytes(thing: object) -> int:
    """Size of all tensors in a tensor, a tuple or a dataclass of such."""
    if isinstance(thing, Tensor):
        return thing.nbytes
    if isinstance(thing, tuple):
        return sum(num_bytes(part) for part in thing)
    if is_dataclass(thing):
        return sum(num_bytes(getattr(thing, field.name)) for field in fields(thing))
    return 0
