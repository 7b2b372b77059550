"""nnU-Net raw and Medical Segmentation Decathlon: folders with fixed names, labels in ``dataset.json``."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import Case, CaseFiles, Index
from Training.adapters.decode import Masks
from Training.adapters.indexing import pair_files
from Training.adapters.knowledge import known_slices, looked_for
from Training.adapters.paired import check_grid
from Training.adapters.reading import is_picture, read_image, read_labels
from Training.dataset_layouts import ArrayOptions, NnunetLayout
from Training.dataset_spec import DatasetSpec

SUFFIX = "{suffix:nii.gz|nii|nrrd|mha|png|tif|tiff|bmp}"


def index(source: Path, layout: NnunetLayout, spec: DatasetSpec) -> Index:
    """All training cases; nnU-Net numbers the channels of an image, the Decathlon does not."""
    numbered = f"imagesTr/{{id}}_{layout.channel:04d}.{SUFFIX}"
    plain = f"imagesTr/{{id:.+?(?<!_[0-9]{{4}})}}.{SUFFIX}"
    # Labels may have another suffix than images; the placeholder must not be compared.
    masks = f"labelsTr/{{id}}.{SUFFIX.replace('suffix', 'labelsuffix')}"
    found = pair_files(source, spec, [numbered, plain], [masks])
    roots = {files.image: files.image.rpartition("imagesTr/")[0] for files in found.cases}
    names = {root: tuple(label_numbers(source / root / "dataset.json").items()) for root in set(roots.values())}
    cases = [replace(files, details=names[roots[files.image]]) for files in found.cases]
    return Index(tuple(cases), found.problems)


def label_numbers(path: Path) -> dict[str, tuple[int, ...]]:
    """Label name to its numbers, background left out; both {"1": "liver"} and {"liver": 1 or [1, 2]} are read.

    Raises:
        InputError: There is no such file, or it has no labels.
    """
    try:
        labels: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))["labels"]
        names = {}
        for key, value in labels.items():
            name, numbers = (value, [int(key)]) if isinstance(value, str) else (key, value)
            numbers = numbers if isinstance(numbers, list) else [numbers]
            if name.lower() not in ("background", "ignore"):
                names[str(name)] = tuple(int(number) for number in numbers)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("Expected a dataset.json with labels beside imagesTr, cannot read one.") from error
    return names


def read(source: Path, layout: NnunetLayout, spec: DatasetSpec, files: CaseFiles) -> Case:
    """The pixels of one case; regions of several labels are a concept each.

    Raises:
        InputError: A file cannot be read, or its labels lie on another grid.
    """
    path = source / files.image
    is_numbered = re.search(r"_[0-9]{4}[.]", path.name)
    image = read_image(path, ArrayOptions() if is_numbered else ArrayOptions(frame=layout.channel))
    labels = read_labels(source / files.masks[0].path, ArrayOptions(), palette=False)
    check_grid(labels, image)
    masks = Masks(spec, image.shape_kji)
    named: set[int] = {0}
    for name, numbers in files.details:
        inside = np.isin(labels.array, numbers)
        named.update(numbers)
        if inside.any():
            masks.add(name, inside.astype(np.uint16))
    for value in np.unique(labels.array):
        if value not in named:
            masks.note(f"{value:g}")
    known = {**known_slices(spec, files, masks), **looked_for(spec, (name for name, _ in files.details), masks)}
    image_file = path if is_picture(path) and image.is_2d else None
    return masks.case(image, image_file, known)
