"""Batches: a function of seed, step and rank, and what they say about each phrase."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.concepts import find_concept
from MedicalSAM3Lib.errors import InputError
from Testing.training.data_world import SPEC, in_memory, labelled, source_of, write_world
from Training.collate import Batch, LabelState
from Training.config import DataConfig
from Training.data import BatchSource, TrainingData
from Training.manifest import read_manifest
from Training.transforms import NO_AUGMENTATION, AugmentConfig

CONCEPTS = ("left_lung", "lung", "liver", "spleen")


def scene(count: int = 6, side: int = 32, **changes: Any) -> Any:
    """Lungs in two pieces, a speck of liver beside a large one, no spleen."""
    masks = {name: np.zeros((count, side, side), bool) for name in CONCEPTS}
    masks["left_lung"][:, 4:14, 18:28] = True
    masks["lung"][:, 4:14, 18:28] = True
    masks["lung"][:, 6:14, 3:11] = True
    masks["liver"][:, 18:28, 4:20] = True
    masks["liver"][:, 18, 26] = True
    slices = np.full((count, side, side), -200.0)
    for bit, mask in enumerate(masks.values()):
        slices[mask] += 150.0 * (bit + 1)
    return in_memory(slices + np.arange(count)[:, None, None], masks, **changes)


def source(**config: Any) -> BatchSource:
    return source_of(scene(), CONCEPTS, **config)


def fields(batch: Batch) -> list[torch.Tensor]:
    return [batch.images, batch.masks, batch.boxes_cxcywh, batch.states, batch.pair_slice, batch.object_pair]


def same(one: Batch, other: Batch) -> bool:
    tensors = zip(fields(one), fields(other), strict=True)
    return one.phrases == other.phrases and all(torch.equal(a, b) for a, b in tensors)


def objects_of(batch: Batch, phrase: str) -> torch.Tensor:
    return batch.masks[batch.object_pair == batch.phrases.index(phrase)]


AUGMENTED: dict[str, Any] = {"augment": AugmentConfig(), "batch_slices": 2, "phrases_per_slice": 3}


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    batches = [source(**AUGMENTED).batch(step) for step in range(4)]
    again = source(**AUGMENTED)
    assert all(same(again.batch(step), batches[step]) for step in (3, 0, 2, 1))
    assert not torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(source(**AUGMENTED, seed=6).batch(0).images, batches[0].images)


def test_two_ranks_draw_what_one_draws_with_twice_the_batch() -> None:
    ranks = [source(**AUGMENTED, rank=rank, world_size=2) for rank in (0, 1)]
    whole = source(**{**AUGMENTED, "batch_slices": 4})
    for step in range(3):
        parts, one = [rank.batch(step) for rank in ranks], whole.batch(step)
        assert parts[0].phrases + parts[1].phrases == one.phrases
        assert torch.equal(torch.cat([part.images for part in parts]), one.images)
        assert torch.equal(torch.cat([part.masks for part in parts]), one.masks)
        assert torch.equal(torch.cat([part.states for part in parts]), one.states)
    assert len(ranks[0]) == len(whole) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_made_ahead_are_the_same_and_go_on_anywhere(workers: int) -> None:
    made = source(**AUGMENTED)
    ahead = list(made.prefetched(2, 7, workers))
    assert len(ahead) == 5
    assert all(same(batch, made.batch(step)) for step, batch in enumerate(ahead, start=2))
    assert all(same(a, b) for a, b in zip(made.prefetched(4, 7), ahead[2:], strict=True))
    assert list(made.prefetched(3, 3)) == []


def test_absent_concepts_and_nonsense_have_no_objects() -> None:
    batch = source(negatives=1.0, nonsense=0.5, phrases_per_slice=4, batch_slices=20).batch(0)
    seen: Counter[str] = Counter()
    for pair, phrase in enumerate(batch.phrases):
        concept = find_concept(phrase)
        is_first = pair % 4 == 0
        kind = "spleen" if concept and concept.concept_id == "spleen" else "positive" if is_first else "nonsense"
        seen[kind] += 1
        assert (batch.states[pair] == LabelState.PRESENT) == is_first
        assert (batch.states[pair] == LabelState.ABSENT) == (not is_first)
        assert bool((batch.object_pair == pair).any()) == is_first
        if kind == "nonsense":
            assert concept is None or concept.concept_id not in CONCEPTS
    assert seen["positive"] == 20
    assert seen["spleen"] + seen["nonsense"] == 60
    assert min(seen.values()) > 5


@pytest.mark.parametrize("negatives", [0.0, 0.3, 0.6])
def test_the_set_share_is_absent_even_where_a_slice_shows_one_concept_only(negatives: float) -> None:
    """Most published data sets label one thing: asking for more of what is not there would drown it."""
    volume = in_memory(np.zeros((1, 16, 16)), {"liver": np.ones((1, 16, 16), bool)})
    batch = source_of(volume, ("liver",), phrases_per_slice=30, negatives=negatives, batch_slices=600).batch(0)
    present = batch.states == LabelState.PRESENT
    assert int(present.sum()) == 600
    assert float((~present).float().mean()) == pytest.approx(negatives, abs=0.04)


def test_no_concept_is_asked_twice_of_a_slice() -> None:
    batch = source(negatives=0.0, phrases_per_slice=3, batch_slices=20).batch(0)
    for n in range(20):
        asked = [find_concept(batch.phrases[pair]) for pair in range(60) if batch.pair_slice[pair] == n]
        assert sorted(concept.concept_id for concept in asked if concept) == ["left_lung", "liver", "lung"]


def test_a_concept_that_is_cut_off_is_unknown() -> None:
    whole = scene()
    # Neither the left lung nor the liver is on the canvas.
    volume = replace(whole, slices=whole.slices[:, :16, :16], coverage=whole.coverage[:, :16, :16])
    batch = source_of(volume, CONCEPTS, negatives=0.0, phrases_per_slice=3).batch(0)
    by_concept = {find_concept(phrase): int(state) for phrase, state in zip(batch.phrases, batch.states, strict=True)}
    states = {concept.concept_id: state for concept, state in by_concept.items() if concept}
    assert states == {"left_lung": LabelState.UNKNOWN, "liver": LabelState.UNKNOWN, "lung": LabelState.PRESENT}


def test_objects_are_connected_pieces_the_largest_first_without_specks() -> None:
    batch = source(negatives=0.0, phrases_per_slice=3, min_object_pixels=20).batch(0)
    phrases = {find_concept(phrase).concept_id: phrase for phrase in batch.phrases}  # type: ignore[union-attr]
    lungs, liver = objects_of(batch, phrases["lung"]), objects_of(batch, phrases["liver"])
    assert (len(lungs), len(liver)) == (2, 1)
    assert lungs.flatten(1).sum(1).tolist() == [15 * 15, 12 * 12]
    assert not (lungs[0] & lungs[1]).any()
    one = source(negatives=0.0, phrases_per_slice=3, min_object_pixels=20, max_objects=1).batch(0)
    assert torch.equal(objects_of(one, phrases["lung"]), lungs[:1])


def test_large_structures_are_drawn_more_often_where_size_counts() -> None:
    volume = scene(count=1, side=32)
    areas = dict(zip(CONCEPTS, volume.coverage[0].areas().tolist(), strict=True))
    settings = {"phrases_per_slice": 1, "batch_slices": 600, "sided_weight": 1.0, "size_power": 1.0}
    drawn = source_of(volume, CONCEPTS, **settings).batch(0)
    counts = Counter(concept.concept_id for phrase in drawn.phrases if (concept := find_concept(phrase)))
    for concept, area in areas.items():
        assert counts[concept] / 600 == pytest.approx(area / sum(areas.values()), abs=0.07)


def test_one_side_is_drawn_less_often_than_the_organ() -> None:
    volume = scene(count=1, side=32)
    drawn = source_of(volume, CONCEPTS, phrases_per_slice=1, batch_slices=600, sided_weight=0.25).batch(0)
    counts = Counter(concept.concept_id for phrase in drawn.phrases if (concept := find_concept(phrase)))
    # Weights 0.25, 1 and 1 of 2.25.
    assert counts["left_lung"] / 600 == pytest.approx(1 / 9, abs=0.04)
    assert counts["lung"] / 600 == pytest.approx(4 / 9, abs=0.06)


def test_volumes_are_drawn_by_their_weight() -> None:
    dark, bright = scene(volume_id="dark"), scene(volume_id="bright")
    bright = in_memory(bright.slices + 5000, {"liver": bright.coverage.mask(2)}, volume_id="bright")
    drawn = source_of([dark, bright], ("liver",), batch_slices=400, volume_weights={"bright": 3.0}).batch(0)
    assert float((drawn.images.amin((1, 2, 3)) > 0.9).float().mean()) == pytest.approx(0.75, abs=0.06)


def test_validation_asks_all_known_concepts_of_untouched_slices_in_order() -> None:
    volume = scene(splits=("train", "val", "val", "", "val", "train"))
    volume.states[:, 3] = LabelState.UNKNOWN
    whole = source_of(volume, CONCEPTS, split="val", batch_slices=2, augment=AugmentConfig())
    assert len(whole) == 2
    first, second = whole.batch(0), whole.batch(1)
    assert first.phrases == ("left lung", "lung", "liver") * 2
    assert (len(first.images), len(second.images)) == (2, 1)
    assert same(first, whole.batch(0))
    speck = objects_of(first, "liver")
    assert len(speck) == 2  # a reference keeps its specks
    ranks = [source_of(volume, CONCEPTS, split="val", rank=rank, world_size=2) for rank in (0, 1)]
    images = torch.cat([ranks[0].batch(0).images, ranks[1].batch(0).images, ranks[0].batch(1).images])
    assert torch.equal(images, torch.cat([first.images, second.images]))
    assert [len(rank) for rank in ranks] == [2, 1]


def test_a_rank_without_validation_slices_has_no_batches() -> None:
    volume = scene(splits=("val", *["train"] * 5))
    assert len(source_of(volume, CONCEPTS, split="val", rank=1, world_size=2)) == 0


def test_training_without_training_slices_is_refused() -> None:
    with pytest.raises(InputError, match="split 'train' in the manifest, got none"):
        source_of(scene(splits=("val",) * 6), CONCEPTS)


def test_a_slice_of_absent_concepts_is_asked_for_what_is_absent_and_for_nonsense() -> None:
    volume = in_memory(np.zeros((2, 16, 16)), {}, known={"liver": LabelState.ABSENT})
    batch = source_of(volume, ("liver",), phrases_per_slice=3, negatives=1.0, nonsense=0.0).batch(0)
    assert (batch.states == LabelState.ABSENT).all()
    assert len(batch.masks) == 0


def test_a_manifest_is_served_by_split(tmp_path: Path) -> None:
    path = write_world(tmp_path, [labelled(splits=["train"] * 6 + [""] + ["val"] * 5)])
    data = TrainingData.load(DataConfig(manifest=str(path), preprocess=SPEC, augment=NO_AUGMENTATION, batch_slices=2))
    train, val = data.source("train", seed=1), data.source("val", seed=1)
    assert (len(train), len(val)) == (3, 3)
    assert data.concepts == train.concepts == read_manifest(path).concepts()
    assert val.batch(2).images.shape == (1, 3, 48, 48)
    assert val.batch(0).phrases[: len(data.concepts)] == tuple(name.replace("_", " ") for name in data.concepts)
