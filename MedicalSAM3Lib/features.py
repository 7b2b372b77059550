"""The ViT trunk, once per slice, for all concepts. It is 95 % of the cost of a slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from MedicalSAM3Lib.errors import RunError
from MedicalSAM3Lib.guards import available_memory_bytes
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.structures import OnProgress, Progress

if TYPE_CHECKING:
    from MedicalSAM3Lib.model import MedicalSam3
    from MedicalSAM3Lib.stack import SliceStack

STAGE = "features"

_MOST_SLICES = 16
_CPU_TOKENS = 8192
"""Larger batches gain nothing on a CPU, and only make a cancel wait."""

_ACTIVATIONS = 16
"""Memory of a trunk pass, in multiples of its output in float32 (hidden layer of the MLP, q, k, v, residuals)."""


@dataclass(frozen=True, slots=True)
class TrunkFeatures:
    """Trunk tokens of every slice, kept in main memory in the run's number format.

    The trunk's output is kept rather than the pyramid, which is five times larger and a fifteenth of the cost.
    """

    _tokens: Tensor
    _runtime: Runtime

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, indices: slice) -> Tensor:
        """Tokens ``(n, L, D)`` of some slices, on the run's device."""
        return self._tokens[indices].to(self._runtime.device)


def encode(
    stack: SliceStack, net: MedicalSam3, runtime: Runtime, on_progress: OnProgress, budget_gb: float | None = None
) -> TrunkFeatures:
    """Run the trunk over all slices in batches.

    Raises:
        RunError: The tokens of all slices do not fit into the memory budget, or the device is full.
        Cancelled: From ``on_progress``.
    """
    on_progress(Progress(STAGE, 0, len(stack)))
    # The first slice goes alone: its tokens tell how much memory the others need.
    first = _encode_batch(stack, slice(0, 1), net, runtime)
    _check_memory(first.nbytes * len(stack), len(stack), budget_gb)
    tokens = first.new_empty((len(stack), *first.shape[1:]), device="cpu")
    tokens[:1] = first
    most = max(1, _CPU_TOKENS // first.shape[1]) if runtime.device.type == "cpu" else _MOST_SLICES
    size = runtime.batch_size(_ACTIVATIONS * 4 * first.numel(), most)
    for start in range(1, len(stack), size):
        on_progress(Progress(STAGE, start, len(stack)))
        batch = slice(start, min(start + size, len(stack)))
        tokens[batch] = _encode_batch(stack, batch, net, runtime)
    on_progress(Progress(STAGE, len(stack), len(stack)))
    return TrunkFeatures(tokens, runtime)


def _encode_batch(stack: SliceStack, batch: slice, net: MedicalSam3, runtime: Runtime) -> Tensor:
    with runtime.computing():
        return net.encode_trunk(stack.batch(batch, runtime.device)).to(runtime.dtype)


def _check_memory(needed: int, n_slices: int, budget_gb: float | None) -> None:
    budget = 0.7 * available_memory_bytes() if budget_gb is None else budget_gb * 1e9
    if needed > budget:
        raise RunError(
            f"The features of {n_slices} slices need {needed / 1e9:.1f} GB, {budget / 1e9:.1f} GB may be used; "
            "ask for a range of slices, or raise the memory budget."
        )
