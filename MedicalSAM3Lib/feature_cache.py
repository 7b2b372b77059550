"""Features of the volumes that were looked at last: the next concept on one of them starts at the decoder.

    cache = FeatureCache()
    segment(volume, ["liver"], model, cache=cache)
    segment(volume, ["spleen"], model, cache=cache)     # the trunk does not run again

It lives in one process, is never written to a disk of its own accord, and goes with its owner. Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING

from MedicalSAM3Lib.guards import available_memory_bytes

if TYPE_CHECKING:
    from MedicalSAM3Lib.feature_store import FeatureStore
    from MedicalSAM3Lib.runtime import Runtime
    from MedicalSAM3Lib.stack import SliceStack

_SHARE = 0.7
"""Of the free memory; the rest is for the network at work and for other programs."""


class FeatureCache:
    """Features of several volumes under one budget; when it is exceeded, those not asked for the longest go.

    Safe for threads. Features that are dropped while a run reads them live until that run lets go of them. Two
    runs that need the same features at the same moment both compute them, and one set is kept.
    """

    def __init__(self, budget_gb: float | None = None) -> None:
        """Make an empty cache.

        Args:
            budget_gb: Size of all features together in 10^9 bytes, those in temporary files included; None =
                from the machine. A single volume may exceed it: the newest always stays.
        """
        self._budget_gb = budget_gb
        self._stores: OrderedDict[str, FeatureStore] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._stores)

    @property
    def nbytes(self) -> int:
        """Size of all features in bytes."""
        with self._lock:
            return self._held()

    def find(self, key: str) -> FeatureStore | None:
        """Features of that key, or None. They must not be closed: the cache keeps them."""
        with self._lock:
            store = self._stores.get(key)
            if store is not None:
                self._stores.move_to_end(key)
            return store

    def add(self, key: str, store: FeatureStore) -> FeatureStore:
        """Keep features, whole ones only; return those to use, which are older ones where another run was faster."""
        with self._lock:
            if key not in self._stores:
                self._drop_until_fits(store.nbytes, store.memory_bytes)
                self._stores[key] = store
            self._stores.move_to_end(key)
            return self._stores[key]

    def make_room(self, num_bytes: int) -> int:
        """Drop what must go so that features of this size fit; return how many bytes of memory they may take."""
        with self._lock:
            return self._drop_until_fits(num_bytes)

    def drop(self, key: str) -> int:
        """Drop the features of that key, if they are there; return their size in bytes."""
        with self._lock:
            store = self._stores.pop(key, None)
            return 0 if store is None else store.nbytes

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._stores.clear()

    def _held(self) -> int:
        return sum(store.nbytes for store in self._stores.values())

    def _drop_until_fits(self, num_bytes: int, taken: int = 0) -> int:
        """As ``make_room``; ``taken`` of these bytes are in memory by now, and no longer count as free."""
        in_memory = sum(store.memory_bytes for store in self._stores.values())
        budget = memory_budget(self._budget_gb, in_memory + taken)
        while self._stores and self._held() + num_bytes > budget:
            self._stores.popitem(last=False)
        return max(0, budget - self._held())


def feature_key(stack: SliceStack, weights_hash: str, runtime: Runtime) -> str:
    """Name features by all that they depend on: SHA-256, hexadecimal.

    The pictures themselves stand for the volume, its orientation, and the choice of axis, slices and crop. So
    nothing that changes what the trunk sees can be forgotten here, and what does not change it (a name, a region
    of interest within the same slices) shares the features.
    """
    pictures, spec = stack.pictures, stack.spec
    facts = (pictures.shape, pictures.dtype.str, stack.ranges, stack.canvas, spec.mean, spec.std)
    digest = hashlib.sha256(repr((weights_hash, str(runtime.device), str(runtime.dtype), *facts)).encode())
    for picture in pictures:  # one by one: they may lie across the volume, and only then have to be copied
        digest.update(picture.tobytes())
    return digest.hexdigest()


def memory_budget(budget_gb: float | None, held: int = 0) -> int:
    """Memory that features may take, in bytes: what was asked for, else most of what is free or ``held`` by them."""
    return int(_SHARE * (available_memory_bytes() + held) if budget_gb is None else budget_gb * 1e9)
