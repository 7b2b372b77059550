"""Device and number format, on whatever machine the tests run."""

from __future__ import annotations

import sys

import pytest
import torch

from MedicalSAM3Lib import runtime as module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import RunError, SettingsError
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
    with pytest.raises(SettingsError, match="expected one of 1 CUDA devices, got 'cuda:1'"):
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


def test_a_full_device_is_one_clear_line():
    with pytest.raises(RunError, match="Not enough memory on cpu"), Runtime(CPU, torch.float32).computing():
        raise torch.OutOfMemoryError


def test_a_network_that_does_not_fit_is_one_clear_line(monkeypatch):
    net = torch.nn.Linear(2, 2)
    Runtime(CPU, torch.float32).place(net)
    assert not net.training

    def is_full(device: torch.device) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(net, "to", is_full)
    with pytest.raises(RunError, match="fewer slices"):
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
