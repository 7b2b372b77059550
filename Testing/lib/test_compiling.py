"""The trunk in compiled form gives the same tokens, and where it cannot be had, the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import compiling, features
from MedicalSAM3Lib.compiling import LEAST_SLICES, Trunk, few_sizes, pays
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import MemoryFull
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Volume
from Testing.lib.test_detector import small_sam3

CPU, GPU = torch.device("cpu"), torch.device("cuda")
N_SLICES = 12


@pytest.mark.parametrize(
    ("device", "dtype", "n_slices", "expected"),
    [
        (GPU, torch.bfloat16, LEAST_SLICES, True),
        (GPU, torch.bfloat16, LEAST_SLICES - 1, False),
        (GPU, torch.float32, 10**4, False),
        (CPU, torch.bfloat16, 10**4, False),
    ],
)
def test_only_half_formats_on_a_gpu_and_only_for_many_slices(
    device: torch.device, dtype: torch.dtype, n_slices: int, expected: bool
) -> None:
    net = small_sam3()
    net.has_graphs = False
    assert pays(net, Runtime(device, dtype), n_slices) == expected
    net.has_graphs = True
    assert pays(net, Runtime(device, dtype), 1) == (device == GPU and dtype == torch.bfloat16)
    net.has_graphs = False  # the network is shared


def test_batch_sizes_are_few() -> None:
    assert [few_sizes(size) for size in (1, 2, 3, 7, 8, 15, 16)] == [1, 2, 2, 4, 8, 8, 16]


class Backend:
    """Makes graphs that run as they are; counts them, or fails as a machine without a compiler does."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sizes: list[int] = []
        self._error = error

    def __call__(self, graph: Any, inputs: list[Any]) -> Callable[..., Any]:
        if self._error:
            raise self._error
        self.sizes += [one.shape[0] for one in inputs if isinstance(one, Tensor) and one.ndim == 4]
        return graph.forward


def make() -> SliceStack:
    array = np.random.default_rng(0).random((N_SLICES, 20, 20), np.float32)
    return prepare(Volume(array, np.eye(4), modality="GREY"), PreprocessSpec(image_size=112), make_settings(axis="2"))


def tokens_of(runtime: Runtime) -> Tensor:
    with encode(make(), small_sam3(), runtime, lambda progress: None) as found:
        return found.tokens(slice(0, N_SLICES))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Compile whatever the device, four slices at a time, with another backend."""

    def use(backend: Any) -> None:
        torch._dynamo.reset()
        monkeypatch.setattr(compiling, "pays", lambda *args: True)
        monkeypatch.setattr(compiling, "BACKEND", backend)
        monkeypatch.setattr(features, "_CPU_TOKENS", 5 * small_sam3().grid_size ** 2)

    return use


def test_two_graphs_serve_all_layers_and_batches_and_the_short_one_is_filled_up(
    compiled: Callable[[Any], None],
) -> None:
    runtime = Runtime(CPU, torch.bfloat16)
    plain = tokens_of(runtime)
    backend = Backend()
    compiled(backend)
    # 1 slice alone, then 4, 4 and 3 of them.
    torch.testing.assert_close(tokens_of(runtime), plain, atol=0.1, rtol=0.02)
    assert backend.sizes == [4, 4]  # one layer in windows, one over the whole slice
    tokens_of(runtime)
    assert len(backend.sizes) == 2  # the next volume finds them
    assert runtime.notices == {}
    for layer in small_sam3().detector_model.vision_encoder.backbone.layers:
        assert "forward" not in vars(layer)


@pytest.mark.parametrize("is_late", [True, False])
def test_where_it_cannot_be_compiled_it_runs_as_it_is_and_says_so(
    is_late: bool, compiled: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(CPU, torch.bfloat16)
    monkeypatch.setattr(features, "_CPU_TOKENS", 4 * small_sam3().grid_size ** 2)
    plain = tokens_of(Runtime(CPU, torch.bfloat16))
    compiled(Backend(RuntimeError("no compiler here")))
    if not is_late:

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("not on this Python")

        monkeypatch.setattr(torch, "compile", refuse)
    assert torch.equal(tokens_of(runtime), plain)
    assert list(runtime.notices) == ["compile"]
    assert "could not be compiled" in runtime.notices["compile"]


def test_a_full_memory_is_no_reason_to_give_the_graphs_up(compiled: Callable[[Any], None]) -> None:
    runtime = Runtime(CPU, torch.bfloat16)
    compiled(Backend())
    net = small_sam3()
    trunk = Trunk(net, runtime)

    def full(pictures: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.MonkeyPatch.context() as patch, trunk.compiled(True):
        patch.setattr(net, "encode_trunk", full)
        with pytest.raises(MemoryFull):
            trunk.encode(torch.zeros(2, 3, 112, 112), 4)
        assert trunk._layers
    assert runtime.notices == {}


@pytest.mark.slow
def test_with_the_real_compiler_tokens_are_the_same_but_for_rounding(compiled: Callable[[Any], None]) -> None:
    runtime = Runtime(CPU, torch.bfloat16)
    plain = tokens_of(runtime)
    compiled("inductor")
    torch.testing.assert_close(tokens_of(runtime), plain, atol=0.1, rtol=0.05)
    assert runtime.notices == {}


def test_a_warm_up_is_for_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    warmed: list[int] = []
    monkeypatch.setattr(compiling, "warm_up", lambda net, runtime, size: warmed.append(size))
    features.warm_up(small_sam3(), Runtime(CPU, torch.bfloat16))
    assert warmed == []
    monkeypatch.setattr(compiling, "can", lambda runtime: True)
    features.warm_up(small_sam3(), Runtime(CPU, torch.bfloat16))
    assert len(warmed) == 1
    assert warmed[0] == few_sizes(warmed[0]) >= 1
