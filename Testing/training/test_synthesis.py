"""Other grey values on the same shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from MedicalSAM3Lib.concepts import load_concepts
from Training.coverage import Coverage
from Training.synthesis import ENHANCEMENT_HU, FILLINGS_HU, change_contrast, paint_from_labels, texture

CONCEPTS = ("kidney", "left_kidney", "liver", "stomach", "rib")
SIDE = 48


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene() -> tuple[torch.Tensor, Coverage]:
    """Air, fat and tissue of equal organs: kidneys at 30 HU as the liver beside them; a stomach."""
    hu = torch.full((SIDE, SIDE), -1000.0)
    hu[4:44, 4:44] = -100.0
    hu[8:40, 8:40] = 30.0
    kidneys, left, liver, stomach = np.zeros((4, SIDE, SIDE), bool)
    kidneys[10:20, 10:20] = True
    left[10:20, 28:38] = True
    liver[26:38, 10:20] = True
    stomach[26:38, 28:38] = True
    masks = [(0, kidneys | left), (1, left), (2, liver), (3, stomach)]
    return hu, Coverage.of_masks((SIDE, SIDE), masks, len(CONCEPTS))


def core(cover: Coverage, concept: str) -> np.ndarray:
    """Pixels of a concept that the blur of an edge does not reach."""
    return ndimage.binary_erosion(cover.mask(CONCEPTS.index(concept)), iterations=3)


def test_contrast_agent_leaves_what_has_no_label_as_it_is() -> None:
    hu, cover = scene()
    far = ~ndimage.binary_dilation(cover.ids > 0, np.ones((7, 7)))
    assert far.sum() > 500
    for seed in range(20):
        changed = change_contrast(hu, cover, CONCEPTS, rng(seed))
        assert torch.equal(changed[far], hu[far])


def test_contrast_agent_changes_organs_within_their_range() -> None:
    hu, cover = scene()
    seen: dict[str, set[float]] = {"kidney": set(), "liver": set()}
    for seed in range(40):
        changed = change_contrast(hu, cover, CONCEPTS, rng(seed)) - hu
        for concept, values in seen.items():
            inside = changed[core(cover, concept)]
            low, high = ENHANCEMENT_HU[concept]
            assert low - 1e-3 <= float(inside.min()) <= float(inside.max()) <= high + 1e-3
            assert float(inside.max() - inside.min()) < 1e-3
            values.add(round(float(inside.mean()), 2))
    assert min(len(values) for values in seen.values()) > 10


def test_hollow_organs_are_filled_now_and_then_and_in_part() -> None:
    hu, cover = scene()
    inside = core(cover, "stomach")
    shares = [
        float((change_contrast(hu, cover, CONCEPTS, rng(seed)) != hu)[inside].float().mean()) for seed in range(60)
    ]
    assert 0.15 < np.mean([share > 0.02 for share in shares]) < 0.6
    assert any(0.05 < share < 0.95 for share in shares)


def test_a_painted_organ_has_a_grey_value_of_its_own() -> None:
    hu, cover = scene()
    apart = []
    for seed in range(30):
        painted = paint_from_labels(hu, cover, CONCEPTS, rng(seed))
        apart.append(abs(float(painted[core(cover, "kidney")].mean() - painted[core(cover, "liver")].mean())))
    assert np.median(apart) > 30


def test_a_side_is_painted_as_the_organ_that_it_belongs_to() -> None:
    hu, cover = scene()
    table = cover.table.copy()
    table[:, 1] = False
    without_side = Coverage(cover.ids, table)
    with_side = paint_from_labels(hu, cover, CONCEPTS, rng(3))
    assert torch.equal(with_side, paint_from_labels(hu, without_side, CONCEPTS, rng(3)))


def test_a_painted_body_stays_a_body() -> None:
    hu, cover = scene()
    air = ndimage.binary_erosion(hu.numpy() < -900, iterations=3, border_value=1)
    tissue = ndimage.binary_erosion((hu.numpy() > 0) & (cover.ids == 0), iterations=2)
    for seed in range(20):
        painted = paint_from_labels(hu, cover, CONCEPTS, rng(seed))
        assert painted.shape == hu.shape
        assert painted.dtype == torch.float32
        assert abs(float(painted[air].mean()) + 1000) < 40
        assert -250 < float(painted[tissue].mean()) < 300


@pytest.mark.parametrize("deviation", [1.0, 25.0])
def test_texture_deviates_as_it_says_at_its_nodes_and_by_two_thirds_between(deviation: float) -> None:
    fields = torch.stack([texture((96, 64), deviation, rng(seed)) for seed in range(60)])
    assert float(fields.mean()) == pytest.approx(0.0, abs=0.05 * deviation)
    assert float(fields.std()) == pytest.approx(2 / 3 * deviation, rel=0.06)
    steps = (fields[:, 1:] - fields[:, :-1]).abs().mean()
    assert float(steps) < 0.3 * deviation  # smooth: neighbours are alike


def test_every_organ_that_is_changed_is_a_known_concept_and_its_range_goes_up() -> None:
    known = {concept.concept_id for concept in load_concepts()}
    assert not ENHANCEMENT_HU.keys() & FILLINGS_HU.keys()
    for concept, (low, high) in (ENHANCEMENT_HU | FILLINGS_HU).items():
        assert concept in known
        assert low < high
