"""Objects one by one: F1 and panoptic quality, where a concept has several

An object is found if one prediction covers more than half of both together (IoU above 0.5); that can be one only
(Kirillov et al., 2019). Objects of the reference are its numbers, where the data set tells them apart; else its
connected parts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from MedicalSAM3Lib.separate import LEAST_OBJECT_VOXELS, connected_parts

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    """Objects that were found, invented and missed, and the summed IoU of those found."""

    found: int
    invented: int
    missed: int
    summed_iou: float

    @property
    def f1(self) -> float:
        """Fraction of objects that were found rightly, 0..1; NaN where there is none on either side."""
        total = 2 * self.found + self.invented + self.missed
        return 2 * self.found / total if total else float("nan")

    @property
    def panoptic_quality(self) -> float:
        """F1 times the mean IoU of what was found, 0..1; NaN as ``f1``."""
        return self.f1 * self.summed_iou / self.found if self.found else self.f1


def match_objects(predicted: np.ndarray, reference: np.ndarray) -> ObjectCounts:
    """Match numbered objects.

    Args:
        predicted, reference: Integer arrays of one shape; 0 is no object, every other number one.

    Raises:
        ValueError: The shapes differ.
    """
    if predicted.shape != reference.shape:
        raise ValueError(f"expected two arrays of one shape, got {predicted.shape} and {reference.shape}")
    ours, theirs = (np.unique(array, return_inverse=True) for array in (predicted, reference))
    table = np.zeros((len(ours[0]), len(theirs[0])), np.int64)
    np.add.at(table, (ours[1].ravel(), theirs[1].ravel()), 1)
    sizes = table.sum(1)[:, None] + table.sum(0)[None] - table
    ratio = (table / np.maximum(sizes, 1))[np.ix_(ours[0] != 0, theirs[0] != 0)]
    matched = ratio > MATCH_IOU
    found = int(matched.sum())
    return ObjectCounts(found, ratio.shape[0] - found, ratio.shape[1] - found, float(ratio[matched].sum()))


def objects_of(labels: np.ndarray) -> tuple[np.ndarray, str] | None:
    """The objects of a reference and where they are known from, "numbers" or "parts"; None where it has one or none.

    Args:
        labels: Array of numbers, 0 outside. Parts that are specks are no objects (``separate``).
    """
    numbers = np.unique(labels[labels != 0])
    if len(numbers) > 1:
        return labels, "numbers"
    parts = parts_of(labels != 0)
    return (parts, "parts") if len(np.unique(parts)) > 2 else None


def parts_of(mask: np.ndarray) -> np.ndarray:
    """Connected parts of a boolean mask, numbered, without specks."""
    parts, count = connected_parts(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    parts[sizes[parts] < LEAST_OBJECT_VOXELS] = 0
    return parts
