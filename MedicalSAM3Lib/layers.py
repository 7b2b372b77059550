"""Label maps for masks that may overlap: as many as it takes. No torch."""

from __future__ import annotations

import numpy as np

Where = tuple[int | slice, ...]


def add_to_first_free(layers: list[np.ndarray], where: Where, mask: np.ndarray, label: int) -> int:
    """Put a mask at a part of the first layer where it covers no other there; returns the number of that layer.

    Args:
        layers: At least one, of one shape and type; gets another, empty one where the mask meets others in all.
        where: The part of a layer that the mask lies on.
        mask: Boolean, of that part's shape.
        label: Not 0.
    """
    number = next((number for number, layer in enumerate(layers) if not layer[where][mask].any()), len(layers))
    if number == len(layers):
        layers.append(np.zeros_like(layers[0]))
    layers[number][where][mask] = label
    return number
