"""Where and how exactly a run computes: device, number format, threads and batch sizes, in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import RunError, SettingsError
from MedicalSAM3Lib.guards import available_memory_bytes
from MedicalSAM3Lib.process_memory import peak_bytes


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a run computes and in which format.

    Attributes:
        device: Where the model and its inputs are.
        dtype: float32 computes everything so; bfloat16 or float16 through autocast, which keeps
            weights, normalisations and soft-maxes in float32.
    """

    device: torch.device
    dtype: torch.dtype

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Enter inference mode and the number format; an out-of-memory becomes a ``RunError``."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.dtype != torch.float32:
                stack.enter_context(torch.autocast(self.device.type, dtype=self.dtype))
            elif self.device.type == "cuda":
                # PyTorch lets convolutions round to 10 bits (TF32) unless it is told not to.
                stack.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
            stack.enter_context(self._full_device_in_one_line())
            yield

    def place(self, net: nn.Module) -> None:
        """Move a network here, in place, and set it to evaluation.

        Raises:
            RunError: It does not fit.
        """
        with self._full_device_in_one_line():
            net.to(self.device).eval()

    def free_bytes(self) -> int:
        """Memory on the device that a run may plan with."""
        if self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        if self.device.type == "mps":
            return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
        return available_memory_bytes()

    def batch_size(self, bytes_each: int, most: int) -> int:
        """How many things of a size go through at once: half of the free memory, 1 to ``most``."""
        return max(1, min(most, int(self.free_bytes() // 2 // max(bytes_each, 1))))

    @contextmanager
    def _full_device_in_one_line(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise RunError(f"Not enough memory on {self.device}; ask for fewer slices or use the CPU.") from error


def pick_runtime(settings: SegmentSettings) -> Runtime:
    """Choose device and number format, and keep PyTorch to the cores that this process was given.

    "exact" is float32 everywhere. Otherwise: bfloat16 on CUDA (float16 before Ampere) and on CPUs that
    multiply it natively, float16 on Apple's MPS, float32 elsewhere.

    Raises:
        SettingsError: The device is not there.
    """
    device = _device(settings.device)
    if device.type == "cpu" and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(min(torch.get_num_threads(), len(os.sched_getaffinity(0))))
    return Runtime(device, torch.float32 if settings.speed == "exact" else _fast_dtype(device))


def start_peak_memory(device: torch.device) -> None:
    """Begin a new measurement of a CUDA device; the peak of a process cannot be set back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> dict[str, float | None]:
    """Most memory in use: of this process so far (``host``), and of a CUDA device since ``start_peak_memory``."""
    peaks: dict[str, float | None] = {"host": None, "device": None}
    host = peak_bytes()
    if host is not None:
        peaks["host"] = host / 1e6
    if device.type == "cuda":
        peaks["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return peaks


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise SettingsError(f"device: expected one of {count} CUDA devices, got '{wanted}'; use 'auto' or 'cpu'.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device: this machine has no MPS; use 'auto' or 'cpu'.")
    return device


def _fast_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if native else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Elsewhere bfloat16 is emulated, and slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
