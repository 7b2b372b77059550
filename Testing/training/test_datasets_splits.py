"""Splits: whole patients, copies together, the same every time, frozen against change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.errors import InputError
from Training.splits import Member, divide, follow, groups_of, read_split, write_split

MEMBERS = st.lists(
    st.tuples(st.sampled_from(["", "anna", "ben", "cleo", "dora"]), st.sampled_from(["", *"abcdefghijkl"])), max_size=40
).map(lambda facts: [Member(f"case{n}", patient, sha) for n, (patient, sha) in enumerate(facts)])


def independent(count: int) -> list[Member]:
    return [Member(f"case{n:03d}", "", f"{n}") for n in range(count)]


@given(MEMBERS)
def test_nobody_is_in_two_splits(members: list[Member]) -> None:
    splits = divide(members)
    assert set(splits) == {member.case_id for member in members}
    for key in ("patient", "sha256"):
        for value in {getattr(member, key) for member in members} - {""}:
            assert len({splits[member.case_id] for member in members if getattr(member, key) == value}) == 1


@given(MEMBERS, st.randoms())
def test_the_order_of_the_cases_does_not_matter(members: list[Member], random: object) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert divide(shuffled) == divide(members)


def test_fifteen_in_a_hundred_are_held_out() -> None:
    splits = divide(independent(200))
    assert sum(split == "val" for split in splits.values()) == 30
    assert splits != divide(independent(200), seed=43)


def test_of_few_patients_the_smallest_is_held_out() -> None:
    members = [
        Member(f"{patient}{n}", patient, f"{patient}{n}")
        for patient, count in (("a", 4), ("b", 3))
        for n in range(count)
    ]
    splits = divide(members)
    assert {case_id for case_id, split in splits.items() if split == "val"} == {"b0", "b1", "b2"}


def test_one_patient_alone_is_trained_on() -> None:
    assert set(divide([Member("a", "anna", "1"), Member("b", "anna", "2")]).values()) == {"train"}
    assert divide([]) == {}


def test_a_chain_of_patients_and_copies_is_one_group() -> None:
    members = [Member("a", "anna", "1"), Member("b", "", "1"), Member("c", "", "2"), Member("d", "anna", "2")]
    assert groups_of([*members, Member("e", "", "3")]) == [["a", "b", "c", "d"], ["e"]]


def test_a_frozen_split_comes_back_and_is_followed(tmp_path: Path) -> None:
    members = independent(20)
    splits = divide(members)
    digest = write_split(tmp_path / "split.json", "kvasir", splits)
    assert read_split(tmp_path / "split.json", "kvasir") == splits
    assert json.loads((tmp_path / "split.json").read_text())["sha256"] == digest
    assert follow(splits, members[:5]) == {member.case_id: splits[member.case_id] for member in members[:5]}


@pytest.mark.parametrize(
    ("old", "new"),
    [('"train"', '"val"'), ('"sha256"', '"hash"'), ("{", "["), ('"dataset": "kvasir"', '"dataset": "x"')],
)
def test_a_split_that_was_changed_is_refused(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "split.json"
    write_split(path, "kvasir", divide(independent(20)))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match="frozen"):
        read_split(path, "kvasir")


def test_a_case_that_the_frozen_split_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="got 1 others"):
        follow({"case000": "train"}, independent(2))


def test_a_frozen_split_that_divides_a_patient_is_refused() -> None:
    with pytest.raises(InputError, match="each patient in one split, got 1 in several"):
        follow({"a": "train", "b": "val"}, [Member("a", "anna", "1"), Member("b", "anna", "2")])
