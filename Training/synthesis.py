"""Change what organs look like while their shapes stay: contrast phases, fillings, and pictures from labels.

One patient shows one contrast phase on one scanner. Painting the same anatomy with other grey values teaches
shape and context instead (the idea of SynthSeg: Billot et al., Medical Image Analysis 2023).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from Training.coverage import Coverage
from Training.transforms import gaussian_blur

ENHANCEMENT_HU: dict[str, tuple[float, float]] = {
    "aorta": (0, 330),
    "iliac_artery": (0, 330),
    "heart": (0, 250),
    "inferior_vena_cava": (0, 180),
    "portal_vein": (0, 180),
    "iliac_vein": (0, 180),
    "kidney": (0, 200),
    "spleen": (-15, 110),
    "liver": (-40, 80),
    "pancreas": (-10, 80),
    "adrenal_gland": (0, 60),
    "prostate": (0, 50),
    "back_muscle": (-30, 20),
    "psoas_muscle": (-30, 20),
    "gluteal_muscle": (-30, 20),
    "vertebra": (-150, 200),
    "hip_bone": (-150, 200),
    "sacrum": (-150, 200),
    "femur": (-150, 200),
}
"""Range of the shift in HU that contrast agent, fat or bone density make, wide on purpose."""

FILLINGS_HU: dict[str, tuple[float, float]] = {
    "stomach": (-950, 350),
    "small_bowel": (-300, 350),
    "colon": (-950, 350),
    "duodenum": (-100, 300),
    "urinary_bladder": (-10, 350),
    "gallbladder": (0, 60),
}
"""Air, food, water and oral or excreted contrast agent."""


def change_contrast(hu: Tensor, cover: Coverage, concepts: Sequence[str], rng: np.random.Generator) -> Tensor:
    """Shift organs and fill hollow ones in a CT slice ``(S, S)`` in HU; edges stay soft."""
    strength = rng.uniform(0, 1)
    change = torch.zeros_like(hu)
    for concept, (low, high) in ENHANCEMENT_HU.items():
        mask = _mask(cover, concepts, concept)
        if mask is not None:
            # A phase moves all organs together; each departs from it a little.
            share = float(np.clip(strength + rng.normal(0, 0.25), 0, 1))
            change = torch.where(mask, torch.full_like(hu, low + share * (high - low)), change)
    for concept, (low, high) in FILLINGS_HU.items():
        mask = _mask(cover, concepts, concept)
        if mask is not None and rng.random() < 0.4:
            filled = rng.uniform(low, high) + texture(hu.shape, 25.0, rng)
            part = mask & (texture(hu.shape, 1.0, rng) > rng.uniform(-1.5, 0.5))
            change = torch.where(part, filled - hu, change)
    return hu + gaussian_blur(change[None], 0.7)[0]


def paint_from_labels(hu: Tensor, cover: Coverage, concepts: Sequence[str], rng: np.random.Generator) -> Tensor:
    """A picture ``(S, S)`` in HU whose every structure has a grey value of its own, drawn at random.

    Tissue that has no label keeps its kind (air, fat, soft, bone), so that the body stays a body.
    """
    spread = rng.uniform(20, 150)
    picture = hu.clamp(max=-1000.0)
    for low, high, centre in ((-400, -20, -100), (-20, 130, 30), (130, 4000, 350)):
        kind = (hu >= low) & (hu < high)
        picture = torch.where(kind, torch.full_like(hu, centre + rng.normal(0, spread / 3)), picture)
    for number, concept in enumerate(concepts):
        if concept.startswith(("left_", "right_")):
            continue
        mask = torch.from_numpy(cover.mask(number))
        if bool(mask.any()):
            own = float(hu[mask].median()) + rng.normal(0, spread)
            picture = torch.where(mask, torch.full_like(hu, own), picture)
    picture = picture + texture(hu.shape, rng.uniform(2, 25), rng)
    picture = gaussian_blur(picture[None], rng.uniform(0.4, 1.2))[0]
    return picture + torch.from_numpy(rng.normal(0, rng.uniform(2, 25), tuple(hu.shape)).astype(np.float32))


def texture(shape: Sequence[int], deviation: float, rng: np.random.Generator) -> Tensor:
    """A smooth random field: numbers of the given standard deviation on a coarse grid, straight lines between.

    Between two numbers lies their mean, so the field as a whole deviates by about two thirds of it.
    """
    side = int(rng.integers(6, 28))
    coarse = torch.from_numpy(rng.standard_normal((1, 1, side, side), dtype=np.float32))
    return functional.interpolate(coarse, size=tuple(shape), mode="bilinear", align_corners=False)[0, 0] * deviation


def _mask(cover: Coverage, concepts: Sequence[str], concept: str) -> Tensor | None:
    if concept not in concepts:
        return None
    covered = cover.mask(concepts.index(concept))
    return torch.from_numpy(covered) if covered.any() else None
