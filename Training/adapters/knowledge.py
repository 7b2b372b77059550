"""On which slices of a case somebody looked for a concept: the ground for present, absent and unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from Training.adapters.case import CaseFiles
from Training.adapters.decode import Masks
from Training.dataset_spec import DatasetSpec


def known_slices(spec: DatasetSpec, files: CaseFiles, masks: Masks) -> Mapping[str, np.ndarray]:
    """Concept name to bool ``(K,)``; a concept that is missing here is unknown on every slice.

    Concepts of the dictionary count as looked for, unless the data set says otherwise; where each label has a
    file of its own, those without a file were not.
    """
    slices = masks.shape_kji[0]
    named = {concept for file in files.masks if file.label for concept in spec.concepts_of(file.label) or ()}
    known: dict[str, np.ndarray] = {}
    for concept in dict.fromkeys((*spec.concepts(), *masks.masks_kji, *spec.states.absent)):
        pixels = pixels_on_slices(masks.masks_kji.get(concept), slices)
        shown = pixels >= spec.states.least_pixels
        if concept in spec.states.absent or not (files.masks or files.details):
            known[concept] = np.ones(slices, bool)
        elif spec.states.empty_slices == "unknown":
            known[concept] = shown
        elif named:
            known[concept] = np.full(slices, concept in named)
        else:
            known[concept] = np.full(slices, shown.any() or spec.states.not_shown == "absent")
        known[concept] &= shown | (pixels == 0)
    return {concept: slices for concept, slices in known.items() if slices.any()}


def looked_for(spec: DatasetSpec, labels: Iterable[str], masks: Masks) -> Mapping[str, np.ndarray]:
    """What a data set lists itself, where no dictionary names it: absent where an image does not show it.

    Args:
        spec: The data set; nothing is added where it has a dictionary, or says that what is not shown is unknown.
        labels: As the data set calls them.
        masks: Of the image.
    """
    if spec.labels or spec.states.not_shown == "unknown":
        return {}
    concepts = {concept for label in labels for concept in spec.concepts_of(label) or ()}
    return {concept: np.ones(masks.shape_kji[0], bool) for concept in concepts - set(masks.masks_kji)}


def pixels_on_slices(mask_kji: np.ndarray | None, slices: int) -> np.ndarray:
    """int ``(K,)``: how many pixels of each slice a mask covers; none without a mask."""
    if mask_kji is None:
        return np.zeros(slices, np.int64)
    return np.count_nonzero(mask_kji.reshape(slices, -1), axis=1)
