"""The share that is done and the time left, of runs that are played to a clock that stands still."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.structures import Progress
from MedicalSAM3Lib.time_left import StageRates, TimeLeft

SLICES = 10


class Run:
    """A run whose stages take what they are told."""

    def __init__(self, rates: StageRates, concepts: int = 1, **settings: object) -> None:
        self.now = 0.0
        settings = {"mode": "detect", **settings}
        self.left = TimeLeft(make_settings(**settings), concepts, SLICES, rates, lambda: self.now)

    def stage(self, name: str, slice_s: float) -> list[tuple[float, float | None]]:
        told = [self.left.see(Progress(name, 0, SLICES))]
        for done in range(1, SLICES + 1):
            self.now += slice_s
            told.append(self.left.see(Progress(name, done, SLICES)))
        return told


def played(rates: StageRates, concepts: int = 1, slow: float = 1.0) -> list[tuple[float, float | None]]:
    run = Run(rates, concepts)
    told = run.stage("features", 2.0 * slow) + run.stage("detection", 0.5 * concepts * slow)
    told += run.stage("fusion", 0.1 * concepts * slow)
    run.left.finish()
    return told


def test_the_second_run_is_predicted_from_its_start() -> None:
    rates = StageRates()
    assert played(rates)[0] == (0.0, None)
    first = played(rates, concepts=3)[0]
    assert first[0] == 0.0
    assert first[1] == pytest.approx(SLICES * (2.0 + 3 * 0.5 + 3 * 0.1))


def test_a_run_that_is_slower_than_the_last_is_seen_to_be() -> None:
    rates = StageRates()
    played(rates)
    told = played(rates, slow=2.0)
    assert told[5][1] == pytest.approx(2.0 * (SLICES * 2.6 - 5 * 2.0))


@given(concepts=st.integers(1, 5), slow=st.floats(0.01, 100.0))
def test_the_share_never_goes_back_and_ends_at_one(concepts: int, slow: float) -> None:
    shares = [share for share, _ in played(StageRates(), concepts, slow)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 0.0 <= shares[0] < 1.0


def test_features_that_are_there_take_no_time_and_teach_none() -> None:
    rates = StageRates()
    played(rates)
    before = rates.seconds["features"]
    run = Run(rates)
    run.left.is_free("features")
    first = run.stage("features", 0.0)
    assert first[-1] == (0.0, pytest.approx(SLICES * 0.6))
    run.stage("detection", 0.5)
    run.left.finish()
    assert rates.seconds["features"] == before


def test_stages_that_have_nothing_to_do_are_passed_over() -> None:
    run = Run(StageRates(), mode="fuse", instances=True, axis="all")
    run.stage("features", 1.0)
    share, _ = run.stage("objects", 0.1)[-1]
    assert share == 1.0


def test_views_take_turns_with_their_stages() -> None:
    # Along several axes, features of the second view come after detection of the first.
    run = Run(StageRates())
    whole = 2 * SLICES
    run.left.see(Progress("features", SLICES, whole))
    half, _ = run.left.see(Progress("detection", SLICES, whole))
    more, _ = run.left.see(Progress("features", whole, whole))
    assert half < more < 1.0
