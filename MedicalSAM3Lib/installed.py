"""Which packages this Python has in the versions that are asked for, by their metadata. The standard library only."""

from __future__ import annotations

import importlib.metadata
import re


def version_of(requirement: str) -> str:
    """The version that is installed of the package of a requirement such as "rich>=13.7"; "" if none is."""
    try:
        return importlib.metadata.version(package_of(requirement))
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_met(requirement: str) -> bool:
    """Whether a package is installed in the version that a requirement asks for."""
    installed = version_of(requirement)
    return bool(installed) and numbers(installed) >= numbers(requirement.partition(">=")[2])


def package_of(requirement: str) -> str:
    """The package of a requirement such as "rich>=13.7"."""
    return requirement.partition(">=")[0]


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, to compare it by: "2.6.0+cpu" is (2, 6, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
