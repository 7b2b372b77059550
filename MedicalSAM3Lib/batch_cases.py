"""What a batch works on: cases from files, folders, patterns, lists, DICOM trees, and tables with own concepts.

A case has an id that is safe as the name of a folder, and nothing else of it is ever shown. An input that cannot be a
case is one with a ``problem``: it costs a line in the summary and not the run.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from MedicalSAM3Lib.batch_tree import Found, find_in
from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, SettingsError

LONGEST_ID = 100
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10))}


@dataclass(frozen=True, slots=True)
class Case:
    """One image and what it is asked for.

    Attributes:
        case_id: Name of its folder: letters, digits, ".", "_" and "-"; no other case has it.
        files: One image, or all slices of a DICOM series.
        concepts: As typed.
        is_series: Whether ``files`` are slices.
        problem: Why it cannot be segmented; "" where it can be tried.
    """

    case_id: str
    files: tuple[Path, ...]
    concepts: tuple[str, ...] = ()
    is_series: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Cohort:
    """All cases, and how many files were passed over because they are no images."""

    cases: tuple[Case, ...]
    passed_over: int = 0


def find_cases(inputs: Sequence[str], concepts: Sequence[str], out: Path) -> Cohort:
    """Find the cases of a run.

    Args:
        inputs: Files, folders, patterns such as ``data/**/*.nii.gz``, lists (.txt, an input a line) and tables
            (.csv with a column ``image``, and ``case`` and ``concepts``, parted by ";", if wanted).
        concepts: For cases that have none of their own.
        out: Folder of the results, in which no case is looked for.

    Raises:
        InputError: An input that was named in the call does not exist, or a list or a table cannot be read.
        SettingsError: A case has no concept.
    """
    found: list[tuple[Found, tuple[str, ...]]] = []
    passed_over = 0
    for entry, own in _entries(inputs, tuple(concepts)):
        if not own:
            raise SettingsError(
                "Missing option '--concept': type what to segment, such as -c liver, or --preset abdomen."
            )
        more, others = (
            find_in(Path(entry.path), entry.root, out.resolve()) if not entry.problem else ([entry.found()], 0)
        )
        passed_over += others
        found += [(replace(one, name=_named(entry.name, one, len(more))), own) for one in more]
    ids = _ids([one for one, _ in found])
    unique = {
        name: Case(name, one.files, own, one.is_series, one.problem)
        for name, (one, own) in zip(ids, found, strict=True)
    }
    return Cohort(tuple(unique.values()), passed_over)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A path to look at; ``root`` is what names begin below, ``name`` what the user calls it."""

    path: Path
    root: Path
    name: str = ""
    problem: str = ""

    def found(self) -> Found:
        return Found(self.name or self.path.name, (self.path,), problem=self.problem)


def _entries(inputs: Iterable[str], concepts: tuple[str, ...]) -> Iterator[tuple[_Entry, tuple[str, ...]]]:
    for text in inputs:
        path = Path(text)
        suffix = path.suffix.lower()
        if path.is_file() and suffix == ".csv":
            yield from _table(path, concepts)
        elif path.is_file() and suffix == ".txt":
            for line in _lines(path):
                for entry in _matches(line, path.parent):
                    yield entry, concepts
        else:
            entries = _matches(text, None)
            if entries[0].problem:
                raise InputError(f"{entries[0].problem} ({text})")
            for entry in entries:
                yield entry, concepts


def _matches(text: str, base: Path | None) -> list[_Entry]:
    """What a path or a pattern stands for; an entry with a problem if for nothing."""
    path = Path(text) if base is None else base / text
    if path.exists():
        return [_Entry(path, path if path.is_dir() else path.parent)]
    if glob.has_magic(text):
        parts = path.parts
        fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
        root = Path(*parts[:fixed]) if fixed else Path()
        matches = sorted(glob.glob(str(path), recursive=True))
        if matches:
            return [_Entry(Path(match), root) for match in matches]
    problem = "Expected a file, a folder or a pattern that matches some, got one that does not exist; check the path."
    return [_Entry(path, path.parent, problem=problem)]


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in _text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _table(path: Path, concepts: tuple[str, ...]) -> Iterator[tuple[_Entry, tuple[str, ...]]]:
    """The rows of a table; what is asked in a row is asked of its case alone."""
    rows = csv.DictReader(_text(path).splitlines())
    if "image" not in (rows.fieldnames or ()):
        raise InputError(f"Expected a table with a column 'image', {path.name} has none; name it in the first line.")
    for row in rows:
        image, name = (row["image"] or "").strip(), (row.get("case") or "").strip()
        own = tuple(part.strip() for part in (row.get("concepts") or "").split(";") if part.strip()) or concepts
        if not own:
            raise SettingsError(
                f"Expected concepts in line {rows.line_num} of {path.name}, or --concept for all; add some."
            )
        if image:
            problem = _problem_of(own)
            for entry in _matches(image, path.parent):
                yield replace(entry, name=name, problem=entry.problem or problem), own


def _problem_of(concepts: tuple[str, ...]) -> str:
    from MedicalSAM3Lib.interpret import check_concepts

    try:
        check_concepts(concepts)
    except MedicalSAM3Error as error:
        return str(error)
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Expected a list in UTF-8, {path.name} cannot be read; save it as such.") from error


def _named(wanted: str, found: Found, of: int) -> str:
    if not wanted:
        return found.name
    return wanted if of == 1 else f"{wanted}/{found.name}"


def _ids(found: Sequence[Found]) -> list[str]:
    return safe_names([one.name for one in found], [str(one.files[0].resolve()) for one in found])


def safe_names(wanted: Sequence[str], origins: Sequence[str]) -> list[str]:
    """Names that are safe everywhere; those that would be equal get a mark made of their origin."""
    names = [safe_name(one) for one in wanted]
    counts = Counter(name.casefold() for name in names)
    return [
        name if counts[name.casefold()] == 1 else f"{name}-{_mark(origin)}"
        for name, origin in zip(names, origins, strict=True)
    ]


def safe_name(name: str) -> str:
    """A name as that of a folder on any system: ``a/b c`` is ``a__b_c``."""
    text = unicodedata.normalize("NFKC", name).replace("\\", "/").strip("/")
    safe = re.sub(r"[^\w.-]", "_", text.replace("/", "__")).strip(". ") or "case"
    if safe.casefold().split(".")[0] in _RESERVED:
        safe = f"_{safe}"
    return safe if len(safe) <= LONGEST_ID else f"{safe[: LONGEST_ID - 9]}-{_mark(name)}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
