"""What is made of features whatever the concept: made once, under a budget, and the first to go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.derived import Derived, num_bytes
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.model import Slices
from MedicalSAM3Lib.pipeline import segment
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres


class Maker:
    """Makes ten bytes of each slice and remembers which were asked."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, slices: Sequence[int]) -> list[torch.Tensor]:
        self.made += slices
        return [torch.full((10,), n, dtype=torch.uint8) for n in slices]


def test_each_thing_is_made_once_and_comes_in_the_order_asked() -> None:
    derived, make = Derived(), Maker()
    derived.each("a", [2, 0], make, lambda size: True)
    got = derived.each("a", [0, 1, 2], make, lambda size: True)
    assert [int(thing[0]) for thing in got] == [0, 1, 2]
    assert make.made == [2, 0, 1]
    derived.each("b", [0], make, lambda size: True)
    assert make.made == [2, 0, 1, 0]
    assert derived.nbytes == 40


def test_what_has_no_room_is_made_again() -> None:
    derived, make = Derived(), Maker()
    for _ in range(2):
        got = derived.each("a", [0, 1], make, lambda size: derived.nbytes + size <= 10)
        assert [int(thing[0]) for thing in got] == [0, 1]
    assert make.made == [0, 1, 1]
    derived.clear()
    assert derived.nbytes == 0


def test_nothing_asked_makes_nothing() -> None:
    make = Maker()
    assert Derived().each("a", [], make, lambda size: True) == []
    assert make.made == []


def test_slices_come_apart_and_together() -> None:
    slices = Slices(*(torch.randn(3, 4, 2) for _ in range(3)), (torch.randn(3, 2, 2, 2),), (torch.randn(1),))
    rows = slices.rows()
    joined = Slices.join(rows)
    assert torch.equal(joined.tokens, slices.tokens)
    assert torch.equal(joined.laterals[0], slices.laterals[0])
    assert Slices.join(rows[1:2]) is rows[1]
    assert num_bytes(rows[0]) == 4 * (8 * 3 + 8 + 1)


def test_the_next_concept_shares_what_the_first_made_and_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model({"one": (0.5, 1.5), "two": (0.2, 0.4)})
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)})
    settings = make_settings(device="cpu", speed="exact")
    plain = segment(volume, ["two"], model, settings).layers[0]
    shared: list[int] = []
    share = model.model.share
    monkeypatch.setattr(model.model, "share", lambda pyramid: shared.append(len(pyramid.levels[0])) or share(pyramid))
    cache = FeatureCache(1.0)
    segment(volume, ["one"], model, settings, cache=cache)
    once = sum(shared)
    np.testing.assert_array_equal(segment(volume, ["two"], model, settings, cache=cache).layers[0], plain)
    assert sum(shared) == once > 0
    segment(volume, ["two"], model, settings)
    assert sum(shared) == 2 * once


def test_a_new_volume_takes_the_room_of_what_was_made_of_others_before_it_takes_theirs() -> None:
    cache = FeatureCache(100 / 1e9)
    first = cache.add("first", FeatureStore(1, (40,), torch.uint8, 40))
    assert not cache.has_room_for_derived(11)
    first.derived.each("a", [0], Maker(), cache.has_room_for_derived)
    assert cache.nbytes == 50
    cache.add("second", FeatureStore(1, (55,), torch.uint8, 55))
    assert first.derived.nbytes == 0
    assert cache.find("first") is first
    cache.clear()
    assert cache.nbytes == 0
