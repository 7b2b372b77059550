"""Device and number format, on whatever machine the tests run."""

from __future__ import annotations

import sys

import pytest
import torch

from MedicalSAM3Lib import guards
from MedicalSAM3Lib import runtime as module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, MemoryFull, SettingsError
from MedicalSAM3Lib.runtime import Runtime, peak_memory_mb, pick_runtime

CPU = torch.device("cpu")


def test_exact_is_float32_on_every_device():
    assert pick_runtime(make_settings(device="cpu", speed="exact")) == Runtime(CPU, torch.float32)


@pytest.mark.parametrize(("is_native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_balanced_is_bfloat16_where_the_cpu_multiplies_it(monkeypatch, is_native, dtype):
    monkeypatch.setattr(module, "_cpu_multiplies_bfloat16", lambda: is_native)
    assert pick_runtime(make_settings(device="cpu")).dtype == dtype


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match="expected cuda:0, got 'cuda:1'"):
        pick_runtime(make_settings(device="cuda:1"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="no MPS"):
        pick_runtime(make_settings(device="mps"))


def test_auto_prefers_the_accelerator_that_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_runtime(make_settings()) == Runtime(torch.device("mps"), torch.float16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_runtime(make_settings()).device == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert pick_runtime(make_settings()) == Runtime(torch.device("cuda"), torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_computing_is_without_gradients_in_the_chosen_format_and_ends_with_the_block(dtype):
    layer = torch.nn.Linear(2, 2)
    with Runtime(CPU, dtype).computing():
        out = layer(torch.ones(1, 2))
    assert out.dtype == dtype
    assert out.is_inference()
    assert layer(torch.ones(1, 2)).requires_grad
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("device", "error", "what"),
    [
        ("cpu", torch.OutOfMemoryError(), "main memory"),
        ("cpu", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "main memory"),
        ("cpu", MemoryError(), "main memory"),
        ("cuda", torch.OutOfMemoryError("CUDA out of memory"), "memory on cuda"),
        ("cuda", RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."), "memory on cuda"),
        ("cuda", MemoryError(), "main memory"),
        ("mps", RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), "memory on mps"),
    ],
)
def test_a_full_memory_is_one_clear_line_that_names_it(device, error, what):
    runtime = Runtime(torch.device(device), torch.float32)
    with pytest.raises(MemoryFull, match=f"Not enough {what}; close") as caught, runtime.full_memory_in_one_line():
        raise error
    assert caught.value.is_main == (what == "main memory")


def test_what_torch_really_raises_is_recognised():
    with pytest.raises(MemoryFull, match="main memory"), Runtime(CPU, torch.float32).computing():
        torch.empty(10**15)


@pytest.mark.parametrize("error", [RuntimeError("sizes differ"), ValueError("out of memory"), Cancelled("stop")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=str(error)), Runtime(CPU, torch.float32).computing():
        raise error


@pytest.mark.parametrize(
    ("contents", "expected"),
    [(("200000 100000",), 2), (("150000 100000",), 2), (("10000 100000",), 1), (("max 100000",), 8),
     (("300000", "100000"), 3), (("-1", "100000"), 8), (("9900000 100000",), 8), (("",), 8), ((), 8)],
)  # fmt: skip
def test_threads_keep_to_the_cores_and_to_the_share_of_a_container(contents, expected, monkeypatch, tmp_path):
    names = [tmp_path / f"part{number}" for number in range(len(contents) or 1)]
    for name, text in zip(names, contents, strict=False):
        name.write_text(text)
    monkeypatch.setattr(guards, "CPU_QUOTA_FILES", (tuple(map(str, names)),))
    monkeypatch.setattr(guards.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert guards.usable_cores() == expected
    threads = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    pick_runtime(make_settings(device="cpu"))
    assert threads == [min(6, expected)]


def test_a_network_that_does_not_fit_is_one_clear_line(monkeypatch):
    net = torch.nn.Linear(2, 2)
    Runtime(CPU, torch.float32).place(net)
    assert not net.training

    def is_full(device: torch.device) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(net, "to", is_full)
    with pytest.raises(MemoryFull, match="fewer slices"):
        Runtime(CPU, torch.float32).place(net)


def test_a_batch_takes_half_of_what_is_free_and_at_least_one(monkeypatch):
    monkeypatch.setattr(Runtime, "free_bytes", lambda self: 1000)
    runtime = Runtime(CPU, torch.float32)
    assert [runtime.batch_size(size, 8) for size in (10, 100, 10_000, 0)] == [8, 5, 1, 8]


def test_peak_memory_of_the_process_is_measured_where_the_system_tells():
    peaks = peak_memory_mb(CPU)
    assert peaks["device"] is None
    if sys.platform != "win32":
        assert 50 < peaks["host"] < 1e6
