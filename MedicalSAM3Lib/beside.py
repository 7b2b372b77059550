"""What goes on beside the network: pictures of the next batch are made, tokens of the last one are brought back.

A GPU waits for nothing then: pictures are uploaded from memory that it reads by itself, and tokens arrive in such
memory while it works on the next batch. On other devices the same code runs, with plain copies.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.stack import SliceStack

_HOST = torch.device("cpu")


class PicturesAhead:
    """The model's input, batch by batch, made one batch ahead in one thread of its own.

    At the end of a ``with`` block the thread has ended, however the block did.
    """

    def __init__(self, stack: SliceStack, device: torch.device) -> None:
        self._stack, self._device = stack, device
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._ahead: tuple[slice, Future[Tensor]] | None = None

    def take(self, part: slice, size_ahead: int) -> Tensor:
        """Pictures ``(n, 3, S, S)`` of some slices on the device; begins with up to ``size_ahead`` after them.

        Raises:
            Exception: Whatever went wrong in the thread.
        """
        made = self._ahead[1] if self._ahead is not None and self._ahead[0] == part else self._begin(part)
        pictures = made.result()
        after = slice(part.stop, min(part.stop + size_ahead, len(self._stack)))
        self._ahead = (after, self._begin(after)) if after.start < after.stop else None
        return pictures.to(self._device, non_blocking=pictures.is_pinned())

    def __enter__(self) -> PicturesAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._ahead = None

    def _begin(self, part: slice) -> Future[Tensor]:
        if self._ahead is not None:
            self._ahead[1].cancel()  # of another batch size: nobody will ask for it
        return self._thread.submit(self._make, part)

    def _make(self, part: slice) -> Tensor:
        pictures = self._stack.batch(part, _HOST)
        return pictures.pin_memory() if self._device.type == "cuda" else pictures


class TokensBehind:
    """The way of tokens into their store: one batch behind the network."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._coming: tuple[slice, Callable[[], Tensor]] | None = None

    def put(self, part: slice, tokens: Tensor) -> None:
        """Begin to bring tokens ``(n, L, D)`` back, and keep those of the batch before, which are there by now.

        Raises:
            RunError: The disk is full.
        """
        coming = (part, begin_copy(tokens))
        self.finish()
        self._coming = coming

    def finish(self) -> None:
        """Keep what is still on its way.

        Raises:
            RunError: The disk is full.
        """
        if self._coming is not None:
            part, arrived = self._coming
            self._store.put(part, arrived())
            self._coming = None


def begin_copy(tokens: Tensor) -> Callable[[], Tensor]:
    """Begin to copy a tensor to main memory; the answer waits until it is there, and returns it."""
    if tokens.device.type != "cuda":
        return lambda: tokens
    copy = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    copy.copy_(tokens, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(tokens.device))

    def wait() -> Tensor:
        arrived.synchronize()
        return copy

    return wait
