"""The ViT trunk, once per slice, for all concepts. It is 95 % of the cost of a slice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from MedicalSAM3Lib import compiling
from MedicalSAM3Lib.beside import PicturesAhead, TokensBehind
from MedicalSAM3Lib.compiling import Trunk
from MedicalSAM3Lib.feature_cache import FeatureCache, feature_key, memory_budget
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.ladder import Batches
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.structures import OnProgress, Progress

if TYPE_CHECKING:
    from MedicalSAM3Lib.model import MedicalSam3
    from MedicalSAM3Lib.model_folder import LoadedModel
    from MedicalSAM3Lib.stack import SliceStack

T = TypeVar("T")

STAGE = "features"

_MOST_SLICES = 16
_CPU_TOKENS = 8192
"""Larger batches gain nothing on a CPU, and only make a cancel wait."""

_ACTIVATIONS = 16
"""Memory of a trunk pass, in multiples of its output in float32 (hidden layer of the MLP, q, k, v, residuals)."""


@dataclass(frozen=True, slots=True)
class TrunkFeatures:
    """Trunk tokens of every slice, in the run's number format.

    The trunk's output is kept rather than the pyramid, which is five times larger and a fifteenth of the cost.
    At the end of a ``with`` block memory and disk are given back, unless a cache keeps the tokens.
    """

    _store: FeatureStore
    _device: torch.device
    _cache: FeatureCache | None = None

    def __len__(self) -> int:
        return len(self._store)

    def tokens(self, indices: slice) -> Tensor:
        """Copy the tokens ``(n, L, D)`` of some slices to the run's device."""
        return self._store.tokens(indices).to(self._device)

    def take(self, numbers: Iterable[int]) -> Tensor:
        """Copy the tokens ``(n, L, D)`` of slices in any order to the run's device."""
        return self._store.take(numbers).to(self._device)

    def each(self, kind: str, slices: Sequence[int], make: Callable[[Sequence[int]], Sequence[T]]) -> list[T]:
        """What is made of each slice whatever the concept: made here, or known from the concept before (``derived``).

        Args:
            kind: What it is.
            slices: Numbers.
            make: Makes those of some slices, in their order.
        """
        if self._cache is None or self._device.type != "cpu":
            return list(make(slices))
        return self._store.derived.each(kind, slices, make, self._cache.has_room_for_derived)

    def part(self, numbers: Sequence[int]) -> TrunkFeatures:
        """Features of some slices alone: copies, in memory."""
        tokens = self._store.take(numbers)
        store = FeatureStore(len(tokens), tokens.shape[1:], tokens.dtype, tokens.nbytes)
        store.put(slice(0, len(tokens)), tokens)
        return TrunkFeatures(store, self._device)

    def __enter__(self) -> TrunkFeatures:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache is None:
            self._store.close()


def cached_features(
    stack: SliceStack,
    model: LoadedModel,
    runtime: Runtime,
    on_progress: OnProgress,
    budget_gb: float | None = None,
    cache: FeatureCache | None = None,
) -> TrunkFeatures:
    """Take the features of a stack from the cache, or run the trunk and keep them there.

    Args:
        budget_gb: As for ``encode``.
        cache: None, or weights whose hash is not known, runs the trunk and keeps nothing.

    Raises:
        RunError, Cancelled: As ``encode``; the cache then has nothing of this stack.
    """
    if cache is None or not model.weights_hash:
        return encode(stack, model.model, runtime, on_progress, budget_gb)
    key = feature_key(stack, model.weights_hash, runtime)
    store = cache.find(key)
    if store is None:
        store = cache.add(key, _run_trunk(stack, model.model, runtime, on_progress, budget_gb, cache))
    else:
        for done in (0, len(stack)):
            on_progress(Progress(STAGE, done, len(stack)))
    return TrunkFeatures(store, runtime.device, cache)


def encode(
    stack: SliceStack, net: MedicalSam3, runtime: Runtime, on_progress: OnProgress, budget_gb: float | None = None
) -> TrunkFeatures:
    """Run the trunk over all slices in batches.

    Args:
        budget_gb: Memory for tokens in 10^9 bytes; those of further slices lie in a temporary file. None = from
            the machine.

    Raises:
        MemoryFull: There is no memory for a single slice.
        RunError: The disk is full.
        Cancelled: From ``on_progress``.
    """
    return TrunkFeatures(_run_trunk(stack, net, runtime, on_progress, budget_gb), runtime.device)


def warm_up(net: MedicalSam3, runtime: Runtime) -> None:
    """Compile the trunk, where that is of use, for the batches of most runs: before anybody waits for it."""
    if compiling.can(runtime):
        picture = torch.zeros(1, 3, net.image_size, net.image_size, device=runtime.device)
        size = slices_at_once(Trunk(net, runtime).encode(picture, 1), runtime)
        compiling.warm_up(net, runtime, compiling.few_sizes(size))


def slices_at_once(tokens_1ld: Tensor, runtime: Runtime) -> int:
    """How many slices go through the trunk together; the tokens of one tell how large they are."""
    most = max(1, _CPU_TOKENS // tokens_1ld.shape[1]) if runtime.device.type == "cpu" else _MOST_SLICES
    return runtime.batch_size(activation_bytes(tokens_1ld), most)


def activation_bytes(tokens_1ld: Tensor) -> int:
    """Memory that a slice takes while it is in the trunk."""
    return _ACTIVATIONS * 4 * tokens_1ld.numel()


def _run_trunk(
    stack: SliceStack,
    net: MedicalSam3,
    runtime: Runtime,
    on_progress: OnProgress,
    budget_gb: float | None,
    cache: FeatureCache | None = None,
) -> FeatureStore:
    on_progress(Progress(STAGE, 0, len(stack)))
    trunk = Trunk(net, runtime)
    # The first slice goes alone: its tokens tell how much memory the others need.
    first = trunk.encode(stack.batch(slice(0, 1), runtime.device), 1)
    needed = first.nbytes * len(stack)
    room = needed if cache is None else cache.make_room(needed)
    store = FeatureStore(len(stack), first.shape[1:], first.dtype, min(room, memory_budget(budget_gb)))
    try:
        store.put(slice(0, 1), first)
        size = slices_at_once(first, runtime)
        compiled = compiling.pays(net, runtime, len(stack))
        batches = Batches(runtime, STAGE, compiling.few_sizes(size) if compiled else size)
        with trunk.compiled(compiled):
            _run_batches(stack, trunk, batches, store, runtime, on_progress)
        on_progress(Progress(STAGE, len(stack), len(stack)))
    except BaseException:  # cancelled, too: half of the slices are of no use to anybody
        store.close()
        raise
    return store


def _run_batches(
    stack: SliceStack,
    trunk: Trunk,
    batches: Batches,
    store: FeatureStore,
    runtime: Runtime,
    on_progress: OnProgress,
) -> None:
    """All slices but the first, with what goes on beside the network."""
    behind = TokensBehind(store)
    with PicturesAhead(stack, runtime.device) as ahead:

        def encode_batch(batch: slice) -> None:
            on_progress(Progress(STAGE, batch.start, len(stack)))
            behind.put(batch, trunk.encode(ahead.take(batch, batches.size), batches.size))

        batches.each(1, len(stack), encode_batch)
        behind.finish()
