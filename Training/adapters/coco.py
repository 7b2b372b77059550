"""COCO JSON: polygons and run lengths, one file for many images, labels by category name."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import Case, CaseFiles, Index, Problem, case_ids
from Training.adapters.decode import Masks
from Training.adapters.indexing import SPLIT, Patients
from Training.adapters.knowledge import known_slices, looked_for
from Training.adapters.patterns import ROOT, Found, compile_pattern, first_match, list_files
from Training.adapters.reading import is_picture, read_image
from Training.dataset_layouts import ArrayOptions, CocoLayout
from Training.dataset_spec import DatasetSpec

FILE_NAME = "file_name"


def index(source: Path, layout: CocoLayout, spec: DatasetSpec) -> Index:
    """All images that a JSON file names; images of the same name under another split stay apart.

    Raises:
        InputError: A JSON file is not one of COCO.
    """
    files = list_files(source)
    tables = [compile_pattern(text) for text in layout.annotations]
    patterns = [compile_pattern(text) for text in layout.image]
    images = [found for path in files if (found := first_match(patterns, path))]
    patients = Patients(source, spec, files)
    cases: list[CaseFiles] = []
    problems: list[Problem] = []
    for path in files:
        if table := first_match(tables, path):
            new, wrong = _cases_of(source, table, images, patients)
            cases += new
            problems += wrong
    roots = {found.path: found.values[ROOT] for found in images}
    ids = case_ids([(case.image, roots[case.image]) for case in cases])
    cases = [replace(case, case_id=case_id) for case, case_id in zip(cases, ids, strict=True)]
    named = {case.image for case in cases}
    problems += [
        Problem("missing mask", found.path, "an image that no JSON file names: left out")
        for found in images
        if found.path not in named
    ]
    return Index(tuple(cases), tuple(problems))


def _cases_of(
    source: Path, table: Found, images: list[Found], patients: Patients
) -> tuple[list[CaseFiles], list[Problem]]:
    content = _load(source / table.path)
    categories = {item["id"]: str(item["name"]).strip() for item in content["categories"]}
    objects: dict[Any, list[tuple[str, Any]]] = defaultdict(list)
    for item in content["annotations"]:
        label = categories.get(item["category_id"], str(item["category_id"]))
        objects[item["image_id"]].append((label, item.get("segmentation")))
    # Some exporters list categories that nobody drew; what nobody drew anywhere, nobody looked for.
    drawn = tuple(dict.fromkeys(label for found in objects.values() for label, _ in found))
    by_name = _by_file_name(table, images)
    cases, problems, seen = [], [], set()
    for item in content["images"]:
        name = str(item["file_name"]).replace("\\", "/").rpartition("/")[2]
        found = by_name.get(name.casefold())
        if found is None:
            problems.append(Problem("missing image", table.path, f"{name} is named and not there"))
        elif found.path in seen:
            problems.append(Problem("duplicate", found.path, f"named twice in {table.path}: the first entry counts"))
        else:
            seen.add(found.path)
            values = {**table.values, **found.values}
            cases.append(
                CaseFiles(
                    case_id="",
                    image=found.path,
                    patient=patients.of(Found(found.path, values)),
                    published_split=values.get(SPLIT, ""),
                    details=(drawn, *objects.get(item["id"], ())),
                )
            )
    return cases, problems


def read(source: Path, layout: CocoLayout, spec: DatasetSpec, files: CaseFiles) -> Case:
    """The pixels of one case; every annotation is an object.

    Raises:
        InputError: The image cannot be read, or an annotation has no outline.
    """
    path = source / files.image
    image = read_image(path, ArrayOptions())
    masks = Masks(spec, image.shape_kji)
    drawn, *objects = files.details
    for label, segmentation in objects:
        masks.add_object(label, decode_object(segmentation, image.shape_kji[1:])[None])
    known = {**known_slices(spec, files, masks), **looked_for(spec, drawn, masks)}
    return masks.case(image, path if is_picture(path) else None, known)


def decode_object(segmentation: Any, shape_ji: tuple[int, int]) -> np.ndarray:
    """bool ``(J, I)`` of one annotation: polygons, run lengths as a list, or compressed ones.

    Raises:
        InputError: There is none, or it fits another picture.
    """
    from pycocotools import mask as coco_masks

    height, width = shape_ji
    if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], (int, float)):
        # A single polygon without the list around it, as some exporters write it.
        segmentation = [segmentation]
    if isinstance(segmentation, list):
        segmentation = [corners for corners in segmentation if len(corners) >= 6]
    if not segmentation:
        raise InputError("Expected an outline in every annotation, got an empty one; correct the JSON file.")
    if isinstance(segmentation, dict) and tuple(segmentation.get("size", ())) != shape_ji:
        raise InputError(f"Expected run lengths of {shape_ji}, as the image, got {segmentation.get('size')}.")
    try:
        runs: Any = segmentation
        if isinstance(segmentation, list):
            runs = coco_masks.merge(coco_masks.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            runs = coco_masks.frPyObjects(segmentation, height, width)
        return np.asarray(coco_masks.decode(runs), bool)
    except (TypeError, ValueError, KeyError) as error:
        raise InputError("Expected polygons or run lengths in every annotation, got something else.") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        complete = all(isinstance(content[key], list) for key in ("images", "annotations", "categories"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Expected a COCO file with images, annotations and categories: {path.name}.") from error
    if not complete:
        raise InputError(f"Expected a COCO file with images, annotations and categories: {path.name}.")
    return dict(content)


def _by_file_name(table: Found, images: list[Found]) -> dict[str, Found]:
    """Images that agree with a table in the placeholders that both have, by file name."""
    agreeing = {}
    for found in images:
        shared = set(table.values) & set(found.values) - {FILE_NAME}
        if table.key(sorted(shared)) == found.key(sorted(shared)):
            agreeing[found.values.get(FILE_NAME, found.path.rpartition("/")[2]).casefold()] = found
    return agreeing
