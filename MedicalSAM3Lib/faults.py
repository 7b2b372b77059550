"""What pydantic refuses, in one readable line: which field, what was expected, and what came"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PLAIN = {"missing": "expected, but missing", "extra_forbidden": "there is nothing of that name; check its spelling"}
"""By pydantic's type of the fault."""
_LONGEST = 40
"""Characters of a text that is shown as it came."""


def fault_line(fault: Mapping[str, Any], root: str) -> str:
    """One fault of ``ValidationError.errors()`` as ``field: what is wrong with it.``

    Args:
        fault: What came is told only where it has ``input``: leave it out (``include_input=False``) of what is secret.
        root: What to call the whole, where the fault is not in a field.
    """
    name = ".".join(str(part) for part in fault["loc"]) or root
    return f"{name}: {what_is_wrong(fault)}."


def what_is_wrong(fault: Mapping[str, Any]) -> str:
    """As ``fault_line``, without the field."""
    message = str(fault["msg"])
    if message.startswith("Value error, "):  # of a check of our own, which says what came
        return message.removeprefix("Value error, ")
    if fault["type"] in _PLAIN:
        return _PLAIN[fault["type"]]
    expected = re.sub("^Input should be (?=greater|less)", "expected a number ", message)
    expected = expected.replace("Input should be", "expected", 1)
    if expected == message or "input" not in fault:
        return expected
    return f"{expected}, got {_shown(fault['input'])}"


def _shown(value: object) -> str:
    is_short = isinstance(value, (int, float)) or (isinstance(value, str) and len(value) <= _LONGEST)
    return repr(value) if value is None or is_short else type(value).__name__
