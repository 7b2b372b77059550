"""Runs on devices that are too small: what they go on with, what they say, and where they end."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import detector, features
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, MemoryFull, RunError
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.ladder import Batches, Ladder, place_if_it_fits
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.structures import Progress, Segmentation
from Testing.lib.fakes import FakeModel, fake_model
from Testing.lib.phantoms import spheres

CPU, GPU = torch.device("cpu"), torch.device("cuda")
EXACT = Runtime(CPU, torch.float32)
BANDS = {"bright": (0.75, 1.5), "middle": (0.4, 0.6)}

SLICES = 24


class Small(FakeModel):
    """The oracle on a device that holds so many rows (slices or pairs), twice as many in half the number format.

    Attributes:
        trunk_rows, pair_rows: What fits, in float32.
        trunk_sizes, pair_sizes: Of the batches that did.
    """

    trunk_rows, pair_rows = 10**6, 10**6

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.trunk_sizes: list[int] = []
        self.pair_sizes: list[int] = []
        self.failures = 0

    def encode_trunk(self, images: Tensor) -> Tensor:
        self._take(len(images), self.trunk_rows, self.trunk_sizes)
        return super().encode_trunk(images)

    def decode_queries(self, pyramid: Any, text: Any) -> Any:
        self._take(len(text.tokens), self.pair_rows, self.pair_sizes)
        return super().decode_queries(pyramid, text)

    def _take(self, rows: int, room: float, sizes: list[int]) -> None:
        if rows > room * (2 if torch.is_autocast_enabled("cpu") else 1):
            self.failures += 1
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(rows)


def model_with(**rooms: float) -> Any:
    loaded = fake_model(BANDS)
    loaded.model.__class__ = Small
    loaded.model.trunk_sizes, loaded.model.pair_sizes, loaded.model.failures = [], [], 0
    for name, room in rooms.items():
        setattr(loaded.model, name, room)
    return loaded


@pytest.fixture
def eight_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of eight slices, and of eight pairs also in float32."""
    monkeypatch.setattr(features, "_CPU_TOKENS", 8 * 12**2)
    monkeypatch.setattr(detector, "pairs_at_once", lambda *args: 8)


def run(model: Any, **settings: Any) -> tuple[Segmentation, Any]:
    volume, _ = spheres({255.0: (0.3, 0.5, 0.5), 127.0: (0.75, 0.5, 0.5)})
    return segment_with_report(
        volume, list(BANDS), model, make_settings(device="cpu", **{"speed": "exact", "verbatim": True} | settings)
    )


@pytest.mark.usefixtures("eight_at_once")
def test_smaller_batches_go_on_where_they_were_and_change_nothing() -> None:
    whole, record = run(model_with())
    assert record.notices == ()
    model = model_with(trunk_rows=3, pair_rows=5)
    halved, record = run(model)
    np.testing.assert_array_equal(halved.layers[0], whole.layers[0])
    assert halved.findings == whole.findings
    # The first slice goes alone; then 8 and 4 do not fit, and 2 is remembered.
    assert model.model.trunk_sizes == [1, *[2] * 11, 1]
    assert sum(model.model.trunk_sizes) == SLICES
    assert set(model.model.pair_sizes) == {4}
    assert sum(model.model.pair_sizes) == 2 * SLICES
    assert model.model.failures == 2 + 1
    assert record.notices == (
        "Main memory was full: features took 2 instead of 8 slices at a time, "
        "which takes longer and changes a result by rounding at most.",
        "Main memory was full: detection took 4 instead of 8 pairs of slice and concept at a time, "
        "which takes longer and changes a result by rounding at most.",
    )
    assert (record.device, record.dtype) == ("cpu", "float32")


@pytest.mark.usefixtures("eight_at_once")
def test_where_one_pair_does_not_fit_beside_its_slices_fewer_slices_are_taken() -> None:
    model = model_with()
    small = model.model

    def pyramid(tokens: Tensor) -> Any:
        small.pair_rows = 0 if len(tokens) > 1 else 8
        return FakeModel.pyramid(small, tokens)

    small.pyramid = pyramid
    halved, record = run(model)
    np.testing.assert_array_equal(halved.layers[0], run(model_with())[0].layers[0])
    assert any("detection took 1 instead of 4 slices at a time" in notice for notice in record.notices)


@pytest.mark.parametrize("stage", ["trunk_rows", "pair_rows"])
def test_a_cpu_takes_the_smaller_format_and_says_so(stage: str) -> None:
    model = model_with(**{stage: 0.5})  # one row fits in bfloat16 only
    result, record = run(model)
    assert record.dtype == "bfloat16"
    assert record.notices[0] == "Main memory was full: numbers in bfloat16 instead of float32."
    assert [finding.state for finding in result.findings] == ["found", "found"]


@pytest.mark.usefixtures("eight_at_once")
def test_what_a_failed_attempt_did_to_go_on_is_not_reported() -> None:
    _, record = run(model_with(trunk_rows=4, pair_rows=0.5))
    assert record.notices[0] == "Main memory was full: numbers in bfloat16 instead of float32."
    assert all("features" not in notice for notice in record.notices)


@pytest.mark.parametrize("speed", ["exact", "balanced"])
def test_what_never_fits_ends_with_what_to_do(speed: str) -> None:
    with pytest.raises(RunError, match=r"one slice at a time in bfloat16, got less; close other programs") as caught:
        run(model_with(trunk_rows=0), speed=speed)
    assert caught.value.__context__ is None  # nor is anything of the attempts kept alive


def test_features_that_a_cache_keeps_are_not_computed_again_in_the_same_format() -> None:
    cache, model = FeatureCache(), model_with(pair_rows=0.5)
    volume, _ = spheres({255.0: (0.3, 0.5, 0.5)})
    settings = make_settings(device="cpu", speed="exact")
    segment(volume, ["bright"], model, settings, cache=cache)
    assert len(cache) == 2  # in both formats
    before = len(model.model.trunk_sizes)
    segment(volume, ["bright"], model, settings, cache=cache)
    assert len(model.model.trunk_sizes) == before


def test_a_cancel_during_smaller_batches_is_a_cancel() -> None:
    def stop(progress: Progress) -> None:
        if model.model.failures:
            raise Cancelled("stop")

    model = model_with(trunk_rows=1)
    with pytest.raises(Cancelled):
        segment(spheres({})[0], ["bright"], model, make_settings(device="cpu", speed="exact"), stop)
    assert sum(model.model.trunk_sizes) == 1


def test_a_batch_that_does_not_fit_is_let_go_of_before_the_next_try() -> None:
    held: list[weakref.ref[Tensor]] = []

    def work(part: slice) -> None:
        assert all(tensor() is None for tensor in held)
        if part.stop - part.start > 2:
            tensor = torch.zeros(1000)
            held.append(weakref.ref(tensor))
            with EXACT.computing():
                raise torch.OutOfMemoryError("out of memory")

    batches = Batches(EXACT, "test", 16)
    batches.each(0, 20, work)
    assert (len(held), batches.size) == (3, 2)


@pytest.mark.parametrize(("size", "room", "tried"), [(16, 5, [16, 8, 4]), (7, 3, [7, 4, 2]), (3, 1, [3, 2, 1])])
def test_batches_halve_until_they_fit_and_cover_everything(size: int, room: int, tried: list[int]) -> None:
    sizes: list[int] = []
    done: list[int] = []

    def work(part: slice) -> None:
        sizes.append(part.stop - part.start)
        if sizes[-1] > room:
            raise MemoryError
        done.extend(range(part.start, part.stop))

    Batches(EXACT, "test", size).each(2, 40, work)
    assert done == list(range(2, 40))
    assert sizes[:3] == tried
    Batches(EXACT, "test", size).each(5, 5, work)
    assert len(done) == 38


def test_one_that_does_not_fit_is_full() -> None:
    def work(part: slice) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(MemoryFull):
        Batches(EXACT, "test", 4).each(0, 9, work)


def only(fits: Callable[[Runtime], bool], tried: list[Runtime]) -> Callable[[Runtime], str]:
    """An attempt for the ladder."""

    def attempt(runtime: Runtime) -> str:
        tried.append(runtime)
        if not fits(runtime):
            raise MemoryFull("full", is_main=runtime.device.type == "cpu")
        return "done"

    return attempt


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has a GPU; nothing may be computed on it."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_offloads_then_halves_the_numbers_then_leaves_to_the_cpu_then_halves_there() -> None:
    steps, tried = Ladder(make_settings(device="cuda", speed="exact")), []
    with pytest.raises(RunError, match="bfloat16, got less"):
        steps.climb(only(lambda runtime: False, tried))
    assert tried == [
        Runtime(GPU, torch.float32),
        Runtime(GPU, torch.float32, is_offloaded=True),
        Runtime(GPU, torch.bfloat16, is_offloaded=True),
        Runtime(CPU, torch.float32),
        Runtime(CPU, torch.bfloat16),
    ]
    assert steps.notices == (
        "The memory of cuda was full: only the part of the network that was at work was kept there, "
        "which takes longer.",
        "The memory of cuda was full: numbers in bfloat16 instead of float32.",
        "The memory of cuda was full: computed on the CPU in float32, which takes much longer.",
        "Main memory was full: numbers in bfloat16 instead of float32.",
    )


@pytest.mark.usefixtures("gpu")
def test_the_next_view_begins_with_what_worked() -> None:
    steps, tried = Ladder(make_settings(device="cuda")), []
    attempt = only(lambda runtime: runtime.is_offloaded, tried)
    assert [steps.climb(attempt), steps.climb(attempt)] == ["done", "done"]
    assert [runtime.is_offloaded for runtime in tried] == [False, True, True]
    assert len(steps.notices) == 1


@pytest.mark.usefixtures("gpu")
def test_in_main_memory_offloading_is_of_no_use() -> None:
    def attempt(runtime: Runtime) -> str:
        if runtime.dtype == torch.float32:
            raise MemoryError
        return "done"

    steps = Ladder(make_settings(device="cuda", speed="exact"))
    assert steps.climb(attempt) == "done"
    assert steps.notices == ("Main memory was full: numbers in bfloat16 instead of float32.",)

    def never(runtime: Runtime) -> str:
        raise MemoryError

    with pytest.raises(RunError, match="main memory for one slice"):
        Ladder(make_settings(device="cuda")).climb(never)


def test_an_attempt_that_does_not_fit_is_let_go_of_before_the_next() -> None:
    held: list[weakref.ref[Tensor]] = []

    def attempt(runtime: Runtime) -> bool:
        if held:
            return held[0]() is None
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        with runtime.computing():
            raise torch.OutOfMemoryError("out of memory")

    assert Ladder(make_settings(device="cpu", speed="exact")).climb(attempt)


def test_other_errors_are_no_reason_to_climb() -> None:
    tried: list[Runtime] = []

    def attempt(runtime: Runtime) -> None:
        tried.append(runtime)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        Ladder(make_settings(device="cpu", speed="exact")).climb(attempt)
    assert len(tried) == 1


class Elsewhere(torch.nn.Module):
    """Weights that say where they are, on a GPU that has room for them or not."""

    def __init__(self, at: torch.device, has_room: bool = True) -> None:
        super().__init__()
        self.at, self.has_room, self.moves = at, has_room, []  # type: ignore[var-annotated]

    def parameters(self, recurse: bool = True) -> Any:
        return iter([SimpleNamespace(device=self.at)])

    def to(self, device: Any) -> Elsewhere:  # type: ignore[override]
        self.at = torch.device(device)
        self.moves.append(self.at.type)
        if self.at == GPU and not self.has_room:
            raise torch.OutOfMemoryError("out of memory")
        return self


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("home", [CPU, GPU])
@pytest.mark.parametrize("error", [None, Cancelled("stop")])
def test_after_a_run_the_network_is_where_it_was(home: torch.device, error: Exception | None) -> None:
    net = Elsewhere(home)
    with suppress(Cancelled), Ladder(make_settings(device="cuda")).borrowing(net):  # type: ignore[arg-type]
        net.to("cuda" if home == CPU else "cpu")  # as a run does for itself, or when the GPU is full
        if error:
            raise error
    assert net.at == home


@pytest.mark.usefixtures("gpu")
def test_a_network_that_cannot_go_back_stays_whole_in_main_memory() -> None:
    net = Elsewhere(GPU)
    with Ladder(make_settings(device="cuda")).borrowing(net):  # type: ignore[arg-type]
        net.to("cpu")
        net.has_room = False  # another program came
    assert net.at == CPU


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("has_room", "moves"), [(True, ["cuda"]), (False, ["cuda", "cpu"])])
def test_a_model_that_does_not_fit_is_loaded_into_main_memory(has_room: bool, moves: list[str]) -> None:
    net = Elsewhere(CPU, has_room)
    place_if_it_fits(net, Runtime(GPU, torch.float32))  # type: ignore[arg-type]
    assert net.moves == moves
