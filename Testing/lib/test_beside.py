"""Pictures come one batch ahead, tokens one batch behind, and nothing is left running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import beside, features
from MedicalSAM3Lib.beside import PicturesAhead, TokensBehind, begin_copy
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Progress
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres

CPU = torch.device("cpu")
EXACT = Runtime(CPU, torch.float32)


def make() -> tuple[SliceStack, Any]:
    model = fake_model({"ball": (0.5, 1.5)})
    return prepare(spheres({255.0: (0.4, 0.5, 0.5)})[0], model.preprocess, make_settings()), model.model


class Counting:
    """A stack that knows which batches were made, and in which thread; breaks from a slice on."""

    def __init__(self, stack: SliceStack, breaks_at: int = 10**6) -> None:
        self._stack, self._breaks_at = stack, breaks_at
        self.made: list[tuple[int, int]] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return len(self._stack)

    def batch(self, part: slice, device: torch.device) -> Tensor:
        self.made.append((part.start, part.stop))
        self.threads.add(threading.current_thread().name)
        if part.stop > self._breaks_at:
            raise OSError("the picture is gone")
        return self._stack.batch(part, device)


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


def test_pictures_are_made_once_ahead_and_in_one_other_thread() -> None:
    stack, _ = make()
    counting = Counting(stack)
    with PicturesAhead(counting, CPU) as ahead:  # type: ignore[arg-type]
        for start in range(1, 24, 8):
            part = slice(start, min(start + 8, 24))
            assert torch.equal(ahead.take(part, 8), stack.batch(part, CPU))
    assert counting.made == [(1, 9), (9, 17), (17, 24)]
    assert len(counting.threads) == 1
    assert threading.current_thread().name not in counting.threads
    assert no_thread_is_left()


def test_after_a_halving_the_right_pictures_are_made_again() -> None:
    stack, _ = make()
    with PicturesAhead(stack, CPU) as ahead:
        ahead.take(slice(0, 8), 8)
        for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
            assert torch.equal(ahead.take(part, 4), stack.batch(part, CPU))


def test_what_goes_wrong_in_the_thread_is_said_where_the_pictures_are_needed() -> None:
    stack, net = make()
    with pytest.raises(OSError, match="the picture is gone"):
        encode(Counting(stack, breaks_at=10), net, EXACT, lambda progress: None)  # type: ignore[arg-type]
    assert no_thread_is_left()


def test_memory_that_is_full_in_the_thread_makes_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, net = make()
    monkeypatch.setattr(features, "_CPU_TOKENS", 8 * net.grid_size**2)

    class Full(Counting):
        def batch(self, part: slice, device: torch.device) -> Tensor:
            if part.stop - part.start > 4:
                raise MemoryError
            return super().batch(part, device)

    runtime = Runtime(CPU, torch.float32)
    with encode(Full(stack), net, runtime, lambda progress: None) as tokens:  # type: ignore[arg-type]
        assert torch.equal(tokens.tokens(slice(0, 24)), net.encode_trunk(stack.batch(slice(0, 24), CPU)))
    assert list(runtime.notices) == ["features slices"]


def test_a_cancel_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, net = make()
    monkeypatch.setattr(features, "_CPU_TOKENS", 4 * net.grid_size**2)

    def stop(progress: Progress) -> None:
        if progress.done >= 5:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        encode(stack, net, EXACT, stop)
    assert no_thread_is_left()


def test_tokens_are_kept_while_the_next_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    def begin(tokens: Tensor) -> Callable[[], Tensor]:
        number = int(tokens[0, 0, 0])
        happened.append(f"begin {number}")

        def wait() -> Tensor:
            happened.append(f"wait {number}")
            return tokens

        return wait

    monkeypatch.setattr(beside, "begin_copy", begin)
    store = FeatureStore(5, (2, 3), torch.float32, 10**6)
    behind = TokensBehind(store)
    behind.finish()
    for start, stop in ((0, 2), (2, 4), (4, 5)):
        behind.put(slice(start, stop), torch.full((stop - start, 2, 3), float(start)))
    behind.finish()
    behind.finish()
    assert happened == ["begin 0", "begin 2", "wait 0", "begin 4", "wait 2", "wait 4"]
    np.testing.assert_array_equal(store.tokens(slice(0, 5))[:, 0, 0], [0, 0, 2, 2, 4])


def test_in_main_memory_there_is_nothing_to_copy() -> None:
    tokens = torch.ones(1, 2, 3)
    assert begin_copy(tokens)() is tokens


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pictures_and_tokens_cross_to_a_gpu_and_back_as_they_are() -> None:
    stack, net = make()
    gpu = Runtime(torch.device("cuda"), torch.float32)
    with (
        encode(stack, net, EXACT, lambda progress: None) as here,
        encode(stack, net, gpu, lambda progress: None) as there,
    ):
        torch.testing.assert_close(there.tokens(slice(0, 24)).cpu(), here.tokens(slice(0, 24)))
