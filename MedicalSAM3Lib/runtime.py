"""Where and how exactly a run computes: device, number format, threads and batch sizes, in one place."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import MemoryFull, SettingsError
from MedicalSAM3Lib.guards import available_memory_bytes, usable_cores
from MedicalSAM3Lib.process_memory import peak_bytes

_SIGNS_OF_FULL_MAIN_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "bad_alloc", "bad allocation")
_SIGNS_OF_A_FULL_DEVICE = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In the text of a plain RuntimeError: only CUDA's own allocator has an exception of its own."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where a run computes and in which format.

    Attributes:
        device: Where the model and its inputs are.
        dtype: float32 computes everything so; bfloat16 or float16 through autocast, which keeps
            weights, normalisations and soft-maxes in float32.
        is_offloaded: Only the part of the network that a stage needs is on the device; see ``offload``.
        notices: Sentences on what it had to do without, by what they are about; filled by ``ladder`` and
            ``compiling`` on the way.
    """

    device: torch.device
    dtype: torch.dtype
    is_offloaded: bool = False
    notices: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Enter inference mode and the number format; a full memory becomes ``MemoryFull``."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.dtype != torch.float32:
                # No cache of converted weights: each is used once a pass, and all of them together are a quarter
                # of the network's memory.
                stack.enter_context(torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=False))
            elif self.device.type == "cuda":
                # PyTorch lets convolutions round to 10 bits (TF32) unless it is told not to.
                stack.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
            stack.enter_context(self.full_memory_in_one_line())
            yield

    def place(self, net: nn.Module) -> None:
        """Move a network here, in place, and set it to evaluation.

        Raises:
            MemoryFull: It does not fit; parts of it may be there.
        """
        with self.full_memory_in_one_line():
            net.to(self.device).eval()

    def release(self) -> None:
        """Give memory that nothing uses any more back to the device, for the next try and for other programs.

        After an error only: what an exception passed may hold on to it in circles.
        """
        gc.collect()
        self.give_back()

    def give_back(self) -> None:
        """Give memory that nothing uses any more back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()

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
    def full_memory_in_one_line(self) -> Iterator[None]:
        """Turn whatever the allocators raise into ``MemoryFull``; every other error passes."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            is_main = _is_main_memory_full(error)
            if not (is_main or _is_device_full(error)):
                raise
            is_main = is_main or self.device.type == "cpu"
            what = "main memory" if is_main else f"memory on {self.device}"
            text = f"Not enough {what}; close other programs, or ask for fewer slices."
            raise MemoryFull(text, is_main=is_main) from error


def small_dtype(device: torch.device) -> torch.dtype:
    """The number format that takes least memory there, fast or not."""
    return torch.bfloat16 if device.type == "cpu" else _fast_dtype(device)


def pick_runtime(settings: SegmentSettings) -> Runtime:
    """Choose device and number format, and keep PyTorch to the cores that this process may use.

    "exact" is float32 everywhere. Otherwise: bfloat16 on CUDA (float16 before Ampere) and on CPUs that
    multiply it natively, float16 on Apple's MPS, float32 elsewhere.

    Raises:
        SettingsError: The device is not there.
    """
    return runtime_on(_device(settings.device), settings)


def runtime_on(device: torch.device, settings: SegmentSettings) -> Runtime:
    """As ``pick_runtime`` on a device that is there, whatever the settings say."""
    if device.type == "cpu":
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
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
        there = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        raise SettingsError(
            f"device: expected {there or 'auto or cpu, because PyTorch sees no CUDA device here'}, got '{wanted}'; "
            "see medsam3 doctor."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise SettingsError("device: this machine has no MPS; use 'auto' or 'cpu'.")
    return device


def _is_main_memory_full(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS_OF_FULL_MAIN_MEMORY)


def _is_device_full(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SIGNS_OF_A_FULL_DEVICE)


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
