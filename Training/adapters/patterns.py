"""Path patterns: which files of a tree belong together, whatever folder the tree was unpacked into.

    images/{id}.{ext:jpg|jpeg}       {name} is a part of one folder or file name, {name:regex} says which
    {id}/{id}_lesion/{id}_lesion.bmp a name that comes again has the same value again
    <any folders>/images/...         a pattern fits the end of a path; what stands before it is "root"

Upper and lower case are alike, as publishers and mirrors mix them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from MedicalSAM3Lib.errors import InputError

ROOT = "root"
IGNORED_FOLDERS = ("__MACOSX",)
IGNORED_FILES = ("thumbs.db", "desktop.ini")

_PLACE = re.compile(r"\{(?P<name>[a-z_]+)(?::(?P<regex>(?:[^{}]|\{[\d,]+\})*))?\}")


@dataclass(frozen=True, slots=True)
class Found:
    """A file and the values that its pattern read from its path, "root" among them."""

    path: str
    values: Mapping[str, str]

    def key(self, names: Iterable[str]) -> tuple[str, ...]:
        """What must be the same in files that belong together."""
        return tuple(self.values.get(name, "").casefold() for name in names)


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern, ready to be compared with paths.

    Attributes:
        text: As it was written.
        names: Its placeholders, "root" first.
        fixed: How many of its characters are no placeholder: of two patterns that fit, the one with more is meant.
    """

    text: str
    names: tuple[str, ...]
    regex: re.Pattern[str]
    fixed: int

    def match(self, path: str) -> Found | None:
        """The values that a path (with ``/``) gives, or None where the pattern does not fit."""
        found = self.regex.fullmatch(path)
        return None if found is None else Found(path, {k: v or "" for k, v in found.groupdict().items()})


def compile_pattern(text: str) -> Pattern:
    """Turn a written pattern into one that can be compared.

    Raises:
        ValueError: Not a pattern: an unbalanced brace, or a regular expression that is none.
    """
    names, parts, end = [ROOT], [rf"(?P<{ROOT}>(?:.*/)?)"], 0
    for place in _PLACE.finditer(text):
        parts.append(re.escape(text[end : place.start()]))
        name, regex = place["name"], place["regex"]
        if name in names:
            parts.append(rf"(?P={name})")
        else:
            names.append(name)
            parts.append(rf"(?P<{name}>{regex if regex is not None else '[^/]+?'})")
        end = place.end()
    rest = text[end:]
    parts.append(re.escape(rest))
    if any(brace in _PLACE.sub("", text) for brace in "{}"):
        raise ValueError(f"expected placeholders like {{id}} or {{id:[0-9]+}}, got '{text}'")
    try:
        return Pattern(text, tuple(names), re.compile("".join(parts), re.IGNORECASE), len(_PLACE.sub("", text)))
    except re.error as error:
        raise ValueError(f"expected a regular expression in '{text}', got {error}") from error


def first_match(patterns: Sequence[Pattern], path: str) -> Found | None:
    """What the first pattern that fits reads from a path."""
    return next((found for pattern in patterns if (found := pattern.match(path))), None)


def fill(template: str, values: Mapping[str, str]) -> str:
    """A template with its placeholders replaced; "" where a value is missing or empty."""
    names = [place["name"] for place in _PLACE.finditer(template)]
    if any(not values.get(name) for name in names):
        return ""
    return _PLACE.sub(lambda place: values[place["name"]], template)


def list_files(source: Path) -> list[str]:
    """All files under a folder as paths relative to it, with ``/``, in a fixed order; hidden ones left out.

    Raises:
        InputError: There is no such folder, or it holds no file.
    """
    if not source.is_dir():
        raise InputError("Expected the folder of a data set, got a path that is none; check --source.")
    files = []
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in IGNORED_FOLDERS)
        relative = Path(folder).relative_to(source)
        files += [
            (relative / name).as_posix()
            for name in sorted(names)
            if name[0] != "." and name.lower() not in IGNORED_FILES
        ]
    if not files:
        raise InputError("Expected the files of a data set, got an empty folder; unpack the download there.")
    return files
