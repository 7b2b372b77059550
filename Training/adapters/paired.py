"""An image and its label files: the layout of most data sets, 2D and 3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.structures import Volume
from Training.adapters import decode, segments
from Training.adapters.case import Case, CaseFiles, Index
from Training.adapters.decode import Masks
from Training.adapters.indexing import pair_files
from Training.adapters.knowledge import known_slices
from Training.adapters.reading import LOSSY, is_array, is_picture, read_image, read_labels
from Training.dataset_layouts import PairsLayout
from Training.dataset_spec import DatasetSpec


def index(source: Path, layout: PairsLayout, spec: DatasetSpec) -> Index:
    """All cases of a tree, by their names alone."""
    return pair_files(source, spec, layout.image, layout.mask, layout.negative, folders=layout.folders)


def read(source: Path, layout: PairsLayout, spec: DatasetSpec, files: CaseFiles) -> Case:
    """The pixels of one case.

    Raises:
        InputError: A file cannot be read, or its labels lie on another grid than the image.
    """
    path = source / files.image
    image = read_image(path, layout.image_array)
    masks = Masks(spec, image.shape_kji)
    for file in files.masks:
        try:
            _add(masks, source / file.path, file.label, layout, image)
        except InputError as error:
            raise InputError(f"{file.path}: {error}") from error
    usable = is_picture(path) and image.is_2d and not is_array(path, layout.image_array)
    image_file = path if usable and not layout.image_array.slices_are_channels else None
    return masks.case(image, image_file, known_slices(spec, files, masks))


def _add(masks: Masks, path: Path, label: str, layout: PairsLayout, image: Volume) -> None:
    if layout.form == "segments":
        for name, inside in segments.read_segments(path, image).items():
            masks.add(name, inside.astype(np.uint16))
        return
    volume = read_labels(path, layout.mask_array, palette=layout.form in ("binary", "colours", "outline"))
    check_grid(volume, image)
    raw, lossy = volume.array, path.suffix.lower() in LOSSY
    if layout.form == "binary":
        decode.add_binary(masks, raw, label, lossy=lossy, soft=layout.soft)
    elif layout.form == "labels":
        decode.add_labels(masks, raw)
    elif layout.form == "colours":
        decode.add_colours(masks, raw, lossy=lossy or layout.soft)
    elif layout.form == "instances":
        decode.add_instances(masks, raw, label)
    else:
        decode.add_outline(masks, raw, label)


def check_grid(labels: Volume, image: Volume) -> None:
    """Same size; the same place too where both files say where they are."""
    if labels.shape_kji != image.shape_kji:
        raise InputError(f"Expected labels {image.shape_kji} as the image, got {labels.shape_kji}; see whose they are.")
    placed = not (np.array_equal(labels.ijk_to_lps, np.eye(4)) or np.array_equal(image.ijk_to_lps, np.eye(4)))
    if placed and not np.allclose(labels.ijk_to_lps, image.ijk_to_lps, atol=0.1):
        raise InputError("Expected labels on the grid of the image, got another place or spacing; resample them.")
