"""What pydantic refuses, told to a person."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from MedicalSAM3Lib.faults import fault_line


class Soup(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["hot", "cold"] = "hot"
    spoons: int = Field(default=1, ge=1)
    names: tuple[str, ...] = ()
    pot: str

    @model_validator(mode="after")
    def _cold_soup_is_shared(self) -> Soup:
        if self.kind == "cold" and self.spoons == 1:
            raise ValueError("a cold soup wants two spoons")
        return self


def fault(**values: Any) -> Any:
    with pytest.raises(ValidationError) as caught:
        Soup.model_validate({"pot": "iron"} | values if values else {})
    return caught.value.errors()[0]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "pot: expected, but missing."),
        ({"kind": "tepid"}, "kind: expected 'hot' or 'cold', got 'tepid'."),
        ({"kind": "tepid" * 20}, "kind: expected 'hot' or 'cold', got str."),
        ({"spoons": 0}, "spoons: expected a number greater than or equal to 1, got 0."),
        ({"spoons": None}, "spoons: expected a valid integer, got None."),
        ({"names": ["a", ["b"]]}, "names.1: expected a valid string, got list."),
        ({"spoon": 2}, "spoon: there is nothing of that name; check its spelling."),
        ({"kind": "cold"}, "soup: a cold soup wants two spoons."),
    ],
)
def test_a_fault_says_where_what_was_expected_and_what_came(values: dict[str, Any], line: str) -> None:
    assert fault_line(fault(**values), "soup") == line


def test_what_came_is_not_told_where_it_may_be_secret() -> None:
    secret = {name: value for name, value in fault(kind="password").items() if name != "input"}
    assert fault_line(secret, "soup") == "kind: expected 'hot' or 'cold'."
