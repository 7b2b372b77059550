"""What a run does when memory is full: it goes on with less, and says so. It ends only where nothing is left to try.

    1  smaller batches     the loop that did not fit goes on where it was, with half as much at once (``Batches``)
    2  offload             only the part of the network that a stage needs is on the device (``offload``)
    3  a smaller format    numbers in half the size
    4  the CPU

Rungs 2 to 4 begin the view again (``Ladder.climb``) and stay for the rest of the run. In main memory only the first
and the third are of use. What was tried is let go of before the next try: an exception holds the frames that it
passed, and with them their tensors, so none is kept here.

An operating system that promises memory which it does not have ends a process without asking. No ladder helps then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import MemoryFull, RunError
from MedicalSAM3Lib.runtime import Runtime, pick_runtime, runtime_on, small_dtype

if TYPE_CHECKING:
    from MedicalSAM3Lib.model import MedicalSam3

T = TypeVar("T")


class Batches:
    """How much of something goes through the device at once: half of it each time that memory is full.

    Args:
        runtime: Where; it is told of smaller batches.
        stage: Name of what is done.
        size: To begin with, at least 1.
        unit: What is counted.
    """

    def __init__(self, runtime: Runtime, stage: str, size: int, unit: str = "slices") -> None:
        self._runtime, self._stage, self._unit = runtime, stage, unit
        self._first = self.size = size

    def each(self, start: int, stop: int, work: Callable[[slice], None]) -> None:
        """Do ``work`` for all of ``start`` to ``stop``, one batch after another.

        Args:
            work: Is called again for the first half of a batch that did not fit, so what it did until then must not
                count or be the same again.

        Raises:
            MemoryFull: Not even one fits.
        """
        while start < stop:
            part = slice(start, min(start + self.size, stop))
            if self._fits(part, work):
                start = part.stop

    def _fits(self, part: slice, work: Callable[[slice], None]) -> bool:
        """Try it; a half is what to try next where it does not fit."""
        try:
            with self._runtime.full_memory_in_one_line():
                work(part)
        except MemoryFull as full:
            number = part.stop - part.start
            if number == 1:
                raise
            self.size, is_main = (number + 1) // 2, full.is_main
        else:
            return True
        # Not in the handler: until its end the exception holds what the try had made.
        self._runtime.release()
        where = "Main memory" if is_main else f"The memory of {self._runtime.device}"
        self._runtime.notices[f"{self._stage} {self._unit}"] = (
            f"{where} was full: {self._stage} took {self.size} instead of {self._first} {self._unit} at a time, "
            "which takes longer and changes a result by rounding at most."
        )
        return False


class Ladder:
    """Where and how a run computes by now, and what it had to give up on the way."""

    def __init__(self, settings: SegmentSettings) -> None:
        self._settings = settings
        self.runtime = pick_runtime(settings)
        self._rungs: list[str] = []

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each rung taken."""
        return (*self._rungs, *self.runtime.notices.values())

    def climb(self, attempt: Callable[[Runtime], T]) -> T:
        """Return the first attempt that fits; the next call begins with how that one was computed.

        Raises:
            RunError: None does.
        """
        before = dict(self.runtime.notices)
        while True:
            try:
                with self.runtime.full_memory_in_one_line():
                    return attempt(self.runtime)
            except MemoryFull as full:
                is_main = full.is_main
            # Not in the handler: until its end the exception holds what the attempt had made.
            self.runtime.release()
            self._step_up(is_main)
            # What the failed attempt did to go on is of no account; what earlier views did is.
            self.runtime = replace(self.runtime, notices=dict(before))

    @contextmanager
    def borrowing(self, net: MedicalSam3) -> Iterator[None]:
        """Put the network back, at the end, to where it was, and give everything else on the device back.

        So a model that was loaded onto a device stays warm there, and one that was not takes none of it between runs.
        Runs on one network take turns: two at a time would move it under each other's feet.
        """
        home = next((weight.device for weight in net.parameters()), self.runtime.device)
        started = self.runtime
        try:
            yield
        finally:
            self.runtime.give_back()
            place_if_it_fits(net, replace(started, device=home))  # by now another program may be there
            started.give_back()

    def _step_up(self, is_main: bool) -> None:
        """Take the next rung.

        Raises:
            RunError: There is none.
        """
        now = self.runtime
        small, dtype = small_dtype(now.device), now.dtype
        where = "Main memory" if is_main else f"The memory of {now.device}"
        if not is_main and not now.is_offloaded:
            self.runtime = replace(now, is_offloaded=True)
            self._rungs.append(
                f"{where} was full: only the part of the network that was at work was kept there, which takes longer."
            )
        elif dtype == torch.float32 and small != torch.float32:
            self.runtime = replace(now, dtype=small)
            self._rungs.append(f"{where} was full: numbers in {_name(small)} instead of {_name(dtype)}.")
        elif not is_main:
            self.runtime = runtime_on(torch.device("cpu"), self._settings)
            name = _name(self.runtime.dtype)
            self._rungs.append(f"{where} was full: computed on the CPU in {name}, which takes much longer.")
        else:
            raise RunError(
                f"Expected main memory for one slice at a time in {_name(dtype)}, got less; close other programs, "
                "lower the memory budget, use a smaller model, or a machine with more memory."
            )


def place_if_it_fits(net: MedicalSam3, runtime: Runtime) -> None:
    """Put a network on the device, or all of it in main memory: then each run puts on the device what fits."""
    try:
        runtime.place(net)
    except MemoryFull:
        net.to("cpu")
    else:
        return
    runtime.release()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
