"""Put the files of a tree together into cases, by the placeholders of their patterns."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import CaseFiles, Index, MaskFile, Problem, case_ids
from Training.adapters.patterns import ROOT, Found, Pattern, compile_pattern, fill, list_files
from Training.dataset_spec import DatasetSpec, PatientTable

LABEL, SPLIT = "label", "split"


def pair_files(
    source: Path,
    spec: DatasetSpec,
    image: Sequence[str],
    mask: Sequence[str],
    negative: Sequence[str] = (),
    *,
    folders: bool = False,
) -> Index:
    """Images with the label files whose placeholders agree with theirs.

    Args:
        source: Folder of the data set.
        spec: For its states and its patient rule.
        image, mask, negative: Patterns, as in ``PairsLayout``.
        folders: An image is the folder of the files that a pattern fits.
    """
    files = list_files(source)
    images, masks = _divided(_matches(files, image), _matches(files, mask))
    taken = {found.path for _, found in masks}
    if folders:
        images = _one_a_folder(images)
    negatives = [(p, f) for p, f in _matches(files, negative) if f.path not in taken]
    empty = {found.path for _, found in negatives}
    patients = Patients(source, spec, files)
    usable: list[tuple[Found, list[Found]]] = []
    problems: list[Problem] = []
    lookups: dict[tuple[str, ...], Lookup] = {}
    for pattern, found in [*(entry for entry in images if entry[1].path not in empty), *negatives]:
        lookup = lookups.setdefault(pattern.names, Lookup(pattern.names, masks))
        own = [] if found.path in empty else lookup.of(found)
        if not own and found.path not in empty and spec.states.no_mask == "left out":
            problems.append(Problem("missing mask", found.path, "an image without a label file: left out"))
        else:
            usable.append((found, own))
    lonely = sorted(taken - {file.path for _, own in usable for file in own})
    problems += [Problem("missing image", path, "a label file without an image") for path in lonely]
    ids = case_ids([(found.path, found.values[ROOT]) for found, _ in usable])
    cases = [
        CaseFiles(
            case_id=case_id,
            image=found.path,
            masks=tuple(MaskFile(file.path, file.values.get(LABEL, "")) for file in own),
            patient=patients.of(found),
            published_split=found.values.get(SPLIT, ""),
        )
        for case_id, (found, own) in zip(ids, usable, strict=True)
    ]
    return Index(tuple(cases), tuple(problems))


class Lookup:
    """Label files by the placeholders that they share with an image pattern."""

    def __init__(self, names: Sequence[str], masks: Iterable[tuple[Pattern, Found]]) -> None:
        self._tables: dict[tuple[str, ...], dict[tuple[str, ...], list[Found]]] = defaultdict(lambda: defaultdict(list))
        for pattern, found in masks:
            shared = tuple(name for name in pattern.names if name in names)
            self._tables[shared][found.key(shared)].append(found)

    def of(self, image: Found) -> list[Found]:
        """The files of the most specific mask pattern that has any for this image, and of its equals."""
        for shared in sorted(self._tables, key=len, reverse=True):
            if files := self._tables[shared].get(image.key(shared)):
                return files
        return []


class Patients:
    """Whose an image is: from its path, or from a table."""

    def __init__(self, source: Path, spec: DatasetSpec, files: Sequence[str]) -> None:
        self._rule = spec.patient
        self._table = _read_table(source, spec.patient, files) if isinstance(spec.patient, PatientTable) else {}

    def of(self, found: Found) -> str:
        """The patient as published; "" where nobody says."""
        if self._rule is None:
            return ""
        if isinstance(self._rule, str):
            return fill(self._rule, found.values)
        return self._table.get(fill(self._rule.image, found.values).casefold(), "")


def read_rows(path: Path, delimiter: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV table; spaces around names and values, and a byte order mark, do not count.

    Raises:
        InputError: It cannot be read, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                {(key or "").strip(): (value or "").strip() for key, value in row.items() if isinstance(key, str)}
                for row in csv.DictReader(file, delimiter=delimiter)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"Expected a CSV table, cannot read {path.name}; copy it again.") from error
    missing = [column for column in columns if rows and column not in rows[0]]
    if missing:
        raise InputError(f"Expected the column '{missing[0]}' in {path.name}, got {', '.join(rows[0])}.")
    return rows


def _read_table(source: Path, rule: PatientTable, files: Sequence[str]) -> Mapping[str, str]:
    pattern = compile_pattern(rule.table)
    rows = [
        row
        for path in files
        if pattern.match(path)
        for row in read_rows(source / path, rule.delimiter, (rule.key, rule.patient))
    ]
    return {row[rule.key].casefold(): row[rule.patient] for row in rows}


def _matches(files: Sequence[str], patterns: Sequence[str]) -> list[tuple[Pattern, Found]]:
    compiled = [compile_pattern(text) for text in patterns]
    found = []
    for path in files:
        for pattern in compiled:
            if match := pattern.match(path):
                found.append((pattern, match))
                break
    return found


def _divided(
    images: list[tuple[Pattern, Found]], masks: list[tuple[Pattern, Found]]
) -> tuple[list[tuple[Pattern, Found]], list[tuple[Pattern, Found]]]:
    """Files that fit an image pattern and a mask pattern go to the one with more fixed characters, or are masks.

    "{id}_mask.png" is narrower than "{id}.png", and "image.nii.gz" than "{label}.nii.gz".
    """
    of_image = {found.path: pattern.fixed for pattern, found in images}
    of_mask = {found.path: pattern.fixed for pattern, found in masks}
    return (
        [(p, f) for p, f in images if of_mask.get(f.path, -1) < p.fixed],
        [(p, f) for p, f in masks if of_image.get(f.path, -1) <= p.fixed],
    )


def _one_a_folder(images: Iterable[tuple[Pattern, Found]]) -> list[tuple[Pattern, Found]]:
    """The folders of files, each once, with the values of its first file."""
    folders: dict[str, tuple[Pattern, Found]] = {}
    for pattern, found in images:
        folder = found.path.rpartition("/")[0] or "."
        folders.setdefault(folder, (pattern, Found(folder, found.values)))
    return list(folders.values())
