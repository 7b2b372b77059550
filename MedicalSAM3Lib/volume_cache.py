"""A ``FeatureCache`` that knows whose features it keeps, so that those of one volume can be forgotten. No torch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from threading import RLock
from typing import TYPE_CHECKING

from MedicalSAM3Lib.feature_cache import FeatureCache

if TYPE_CHECKING:
    from MedicalSAM3Lib.feature_store import FeatureStore


class VolumeCache(FeatureCache):
    """As its base; one run at a time looks into it, and volumes may be dropped from any thread meanwhile."""

    def __init__(self, budget_gb: float | None = None) -> None:
        super().__init__(budget_gb)
        self._owners: dict[str, set[str]] = {}
        self._volume = ""
        self._on_hit: Callable[[], None] = _nothing
        self._owning = RLock()

    def look_at(self, volume: str, on_hit: Callable[[], None]) -> None:
        """The next run is on this volume; ``on_hit`` is called when its features are there."""
        with self._owning:
            self._volume, self._on_hit = volume, on_hit

    def find(self, key: str) -> FeatureStore | None:
        """As its base."""
        store = super().find(key)
        if store is not None:
            self._own(key)
            self._on_hit()
        return store

    def add(self, key: str, store: FeatureStore) -> FeatureStore:
        """As its base."""
        self._own(key)
        return super().add(key, store)

    def drop_volumes(self, volumes: Collection[str] | None) -> int:
        """Forget some volumes, None = all; return how many bytes that freed. What others share stays."""
        with self._owning:
            freed = 0
            for key, owners in list(self._owners.items()):
                owners -= owners if volumes is None else set(volumes)
                if not owners:
                    del self._owners[key]
                    freed += self.drop(key)
            return freed

    def _own(self, key: str) -> None:
        with self._owning:
            self._owners.setdefault(key, set()).add(self._volume)


def _nothing() -> None:
    """Take no notice."""
