"""Many small pictures in one NumPy array, and a mask channel for each label in another: PanNuke's folds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.structures import Volume
from Training.adapters.case import Case, CaseFiles, Index, Problem
from Training.adapters.decode import Masks, add_instances
from Training.adapters.indexing import pair_files
from Training.adapters.knowledge import known_slices
from Training.adapters.reading import open_array
from Training.dataset_layouts import TilesLayout
from Training.dataset_spec import DatasetSpec


def index(source: Path, layout: TilesLayout, spec: DatasetSpec) -> Index:
    """A case for every tile of every array.

    Raises:
        InputError: An array cannot be read.
    """
    pairs = pair_files(source, spec, layout.image, layout.mask)
    cases, problems = [], list(pairs.problems)
    for pair in pairs.cases:
        if len(pair.masks) != 1:
            problems.append(Problem("missing mask", pair.image, f"one array of masks expected, got {len(pair.masks)}"))
            continue
        images, masks = open_array(source / pair.image, ""), open_array(source / pair.masks[0].path, "")
        if images.ndim != 4 or masks.ndim != 4 or images.shape[:3] != masks.shape[:3] or images.shape[3] != 3:
            text = f"images (N, H, W, 3) and masks (N, H, W, channels) expected, got {images.shape}, {masks.shape}"
            problems.append(Problem("size", pair.image, text))
            continue
        for part in range(len(images)):
            name = f"{pair.case_id}_{part:05d}"
            cases.append(CaseFiles(name, pair.image, pair.masks, pair.patient, pair.published_split, part))
    return Index(tuple(cases), tuple(problems))


def read(source: Path, layout: TilesLayout, spec: DatasetSpec, files: CaseFiles) -> Case:
    """One tile; numbers of a mask channel are objects.

    Raises:
        InputError: Values that are no 8-bit colours.
    """
    tile = np.asarray(open_array(source / files.image, "")[files.part])
    channels = np.asarray(open_array(source / files.masks[0].path, "")[files.part])
    if tile.min() < 0 or tile.max() > 255:
        raise InputError(f"Expected colours from 0 to 255, got {tile.min():g} to {tile.max():g}.")
    image = Volume(tile[None].astype(np.float32), np.eye(4), "RGB", is_2d=True, name=files.case_id)
    masks = Masks(spec, image.shape_kji)
    for channel in range(channels.shape[-1]):
        if channel not in layout.ignored_channels and channels[..., channel].any():
            add_instances(masks, channels[None, ..., channel], str(channel))
    return masks.case(image, None, known_slices(spec, files, masks))
