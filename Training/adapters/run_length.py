"""Run lengths in a CSV table, as data science contests publish masks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import Case, CaseFiles, Index, Problem, case_ids
from Training.adapters.decode import Masks
from Training.adapters.indexing import SPLIT, Patients, read_rows
from Training.adapters.knowledge import known_slices
from Training.adapters.patterns import ROOT, compile_pattern, list_files
from Training.adapters.reading import is_picture, read_image
from Training.dataset_layouts import ArrayOptions, RunLengthLayout
from Training.dataset_spec import INSIDE, DatasetSpec


def index(source: Path, layout: RunLengthLayout, spec: DatasetSpec) -> Index:
    """All images that a table names; one that is named without a code shows nothing.

    Raises:
        InputError: A table lacks a column.
    """
    files = list_files(source)
    tables = [compile_pattern(text) for text in layout.table]
    codes: dict[str, list[tuple[str, str]]] = defaultdict(list)
    columns = [layout.id_column, layout.code_column, *([layout.label_column] if layout.label_column else [])]
    for path in files:
        if any(table.match(path) for table in tables):
            for row in read_rows(source / path, ",", columns):
                label = row[layout.label_column] if layout.label_column else INSIDE
                codes[row[layout.id_column].casefold()].append((label, row[layout.code_column]))
    patients = Patients(source, spec, files)
    patterns = [compile_pattern(text) for text in layout.image]
    cases: list[CaseFiles] = []
    problems: list[Problem] = []
    roots: list[tuple[str, str]] = []
    named = set()
    for path in files:
        found = next((match for pattern in patterns if (match := pattern.match(path))), None)
        if found is None:
            continue
        name = found.values["id"].casefold()
        if name not in codes:
            problems.append(Problem("missing mask", path, "an image that no table names: left out"))
            continue
        named.add(name)
        roots.append((path, found.values[ROOT]))
        cases.append(
            CaseFiles(
                case_id="",
                image=path,
                patient=patients.of(found),
                published_split=found.values.get(SPLIT, ""),
                details=tuple(code for code in dict.fromkeys(codes[name]) if code[1] not in layout.none),
            )
        )
    if cases:
        problems += [
            Problem("missing image", name, "a row of the table without an image") for name in sorted(set(codes) - named)
        ]
    ids = case_ids(roots)
    return Index(tuple(replace(case, case_id=one) for case, one in zip(cases, ids, strict=True)), tuple(problems))


def read(source: Path, layout: RunLengthLayout, spec: DatasetSpec, files: CaseFiles) -> Case:
    """The pixels of one case; every row of the table is an object.

    Raises:
        InputError: The image cannot be read, or a code runs beyond it.
    """
    path = source / files.image
    image = read_image(path, ArrayOptions())
    masks = Masks(spec, image.shape_kji)
    for label, code in files.details:
        masks.add_object(label, decode_runs(code, image.shape_kji[1:], layout)[None])
    image_file = path if is_picture(path) else None
    return masks.case(image, image_file, known_slices(spec, files, masks))


def decode_runs(code: str, shape_ji: tuple[int, int], layout: RunLengthLayout) -> np.ndarray:
    """bool ``(J, I)`` of pairs "start length start length ...".

    Raises:
        InputError: Not such pairs, or they run beyond the picture.
    """
    try:
        numbers = np.array([int(part) for part in code.split()], np.int64)
    except ValueError as error:
        raise InputError("Expected run lengths as pairs of whole numbers, got something else.") from error
    if len(numbers) % 2 or (numbers < 0).any():
        raise InputError(f"Expected run lengths as pairs of numbers, got {len(numbers)} of them.")
    starts, lengths = numbers[::2], numbers[1::2]
    if layout.starts == "relative":
        starts = np.cumsum(starts) + np.concatenate([[0], np.cumsum(lengths)[:-1]])[: len(starts)]
    else:
        starts = starts - 1
    height, width = shape_ji
    if len(starts) and (starts.min() < 0 or (starts + lengths).max() > height * width):
        raise InputError(f"Expected run lengths within {height} x {width} pixels, got some beyond; see whose they are.")
    flat = np.zeros(height * width, bool)
    for start, length in zip(starts, lengths, strict=True):
        flat[start : start + length] = True
    return flat.reshape(width, height).T if layout.order == "columns" else flat.reshape(height, width)
