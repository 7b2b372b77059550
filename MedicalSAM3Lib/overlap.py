"""How well two masks agree. The one Dice of the project: the demo, the tests and the training use it."""

from __future__ import annotations

import numpy as np


def dice(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    """Dice coefficient of two masks of one shape, 0 (apart) to 1 (equal).

    Args:
        mask_a: Boolean (or 0/1) array of any shape.
        mask_b: Boolean (or 0/1) array of the same shape.

    Returns:
        ``2 |A and B| / (|A| + |B|)``; NaN when both are empty, because there is nothing to agree on.

    Raises:
        ValueError: The shapes differ.
    """
    a, b = np.asarray(mask_a, dtype=bool), np.asarray(mask_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"expected two masks of one shape, got {a.shape} and {b.shape}")
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2.0 * np.count_nonzero(a & b) / total if total else float("nan")


def iou(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    """Intersection over union of two masks of one shape, 0 (apart) to 1 (equal); NaN when both are empty.

    Raises:
        ValueError: The shapes differ.
    """
    twice = dice(mask_a, mask_b)
    return twice / (2.0 - twice)
