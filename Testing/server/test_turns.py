"""Turns: nobody waits for all jobs of another, nobody is forgotten, and the queue has an end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.refusals import Refused
from MedicalSAM3Lib.turns import Turns


def filled(*asked: str, most: int = 100, most_per_lane: int = 100) -> Turns:
    """A queue of jobs such as "a1": the letter is the lane."""
    turns = Turns(most, most_per_lane)
    for job in asked:
        turns.add(job[0], job)
    return turns


def test_lanes_take_turns_and_each_keeps_its_order() -> None:
    turns = filled("a1", "a2", "a3", "b1", "c1", "b2")
    assert list(turns.order()) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert [turns.take() for _ in range(6)] == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(turns) == 0


def test_a_client_that_comes_later_waits_for_one_job_of_each_other() -> None:
    turns = filled("a1", "a2", "a3", "a4")
    assert turns.take() == "a1"
    turns.add("b", "b1")
    assert turns.positions() == {"a2": 0, "b1": 1, "a3": 2, "a4": 3}


def test_an_empty_queue_has_nobody_first() -> None:
    turns = filled()
    assert turns.first() is None
    assert turns.positions() == {}
    with pytest.raises(KeyError):
        turns.take()


@pytest.mark.parametrize(("most", "most_per_lane"), [(2, 9), (9, 2)])
def test_a_full_queue_refuses_and_stays_as_it_was(most: int, most_per_lane: int) -> None:
    turns = filled("a1", "a2", most=most, most_per_lane=most_per_lane)
    with pytest.raises(Refused) as refused:
        turns.add("a", "a3")
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert list(turns.order()) == ["a1", "a2"]


def test_a_full_lane_does_not_keep_others_out() -> None:
    turns = filled("a1", "a2", most_per_lane=2)
    turns.add("b", "b1")
    assert list(turns.order()) == ["a1", "b1", "a2"]


def test_a_job_can_leave_and_its_lane_with_it() -> None:
    turns = filled("a1", "b1")
    assert turns.remove("a1")
    assert not turns.remove("a1")
    assert list(turns.order()) == ["b1"]
    assert len(turns) == 1


@given(st.lists(st.sampled_from("abc+"), max_size=40))
def test_what_is_foretold_is_what_happens(steps: list[str]) -> None:
    """Letters add a job to that lane, "+" takes one: it is the one that was foretold, and none is lost."""
    turns, waiting = Turns(100, 100), []
    for number, step in enumerate(steps):
        if step != "+":
            turns.add(step, f"{step}{number}")
            waiting.append(f"{step}{number}")
        elif waiting:
            foretold = list(turns.order())
            assert turns.first() == foretold[0] == turns.take()
            waiting.remove(foretold[0])
            assert list(turns.order()) == foretold[1:]
    assert sorted(turns.order()) == sorted(waiting)
    assert len(turns) == len(waiting)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_no_lane_is_served_twice_while_another_waits(lanes: list[str]) -> None:
    order = list(filled(*(f"{lane}{number}" for number, lane in enumerate(lanes))).order())
    for place, job in enumerate(order[1:], start=1):
        if job[0] == order[place - 1][0]:
            assert {later[0] for later in order[place:]} == {job[0]}
