"""The objects of a concept in a picture: connected pieces of what covers it."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def pieces_of(mask: np.ndarray, smallest: int, most: int) -> Tensor:
    """Connected pieces of a concept, largest first, without specks.

    Args:
        mask: bool ``(S, S)``, where the concept is.
        smallest: Pixels of the smallest piece that counts.
        most: How many are kept.

    Returns:
        bool ``(objects, S, S)``; no object where there is none.
    """
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = [label + 1 for label in np.argsort(-sizes, kind="stable") if sizes[label] >= smallest][:most]
    return torch.from_numpy(np.stack([labels == label for label in kept])) if kept else no_pieces(mask.shape)


def no_pieces(shape: tuple[int, ...]) -> Tensor:
    """Masks of a concept that is not there: bool ``(0, S, S)``."""
    return torch.zeros(0, *shape, dtype=torch.bool)
