"""Validation of a network whose answers are written down."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from MedicalSAM3Lib.mask_head import Masks
from MedicalSAM3Lib.model import Prompt, Pyramid, Queries, Slices, TextFeatures
from Testing.training.tiny_world import FakeTokenizer, SquareSource
from Training.collate import Batch, LabelState, Sample, collate
from Training.validation import Row, score_batch, summarise, validate

SIDE = 8
FULL, EMPTY = torch.ones(1, SIDE, SIDE, dtype=torch.bool), torch.zeros(0, SIDE, SIDE, dtype=torch.bool)


class WrittenDown(nn.Module):
    """Says of pair b: presence ``presence[b]``; of all pairs: one object of this score and mask, this map."""

    def __init__(self, presence: list[float], instance: Tensor, semantic: Tensor, score: float = 9.0) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self._presence, self._instance, self._semantic, self._score = presence, instance, semantic, score

    def encode_trunk(self, images: Tensor) -> Tensor:
        return images

    def pyramid(self, tokens: Tensor) -> Pyramid:
        return Pyramid((tokens,), (tokens,))

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        return TextFeatures(ids[..., None].float(), mask.bool())

    def share(self, pyramid: Pyramid) -> Slices:
        return Slices(*pyramid.levels, *pyramid.positions, pyramid.levels[0], (), ())

    def decode_queries(self, slices: Slices, text: TextFeatures) -> Queries:
        pairs = len(text.tokens)
        presence = torch.tensor(self._presence[:pairs])
        empty = torch.zeros(pairs, 1, 4)
        return Queries(
            presence, torch.full((pairs, 1), self._score), empty, empty, empty, Prompt(text.tokens, text.mask)
        )

    def decode_masks(self, slices: Slices, queries: Queries) -> Masks:
        pairs = len(queries.presence)
        assert len(slices.tokens) == pairs
        pixels = self._instance.expand(pairs, 1, -1, -1)
        return Masks(self._semantic.expand(pairs, -1, -1), pixels, torch.ones(pairs, 1, 1), torch.zeros(pairs, 1))


def half_map(value: float = 5.0) -> Tensor:
    """Logits of the left half of the picture."""
    logits = torch.full((4, 4), -5.0)
    logits[:, :2] = value
    return logits


def one_slice(*asked: tuple[str, LabelState, Tensor]) -> Any:
    phrases, states, masks = zip(*asked, strict=True)
    return collate([Sample(torch.zeros(3, SIDE, SIDE), phrases, states, masks)])


def score(model: nn.Module, batch: Any) -> list[Row]:
    return score_batch(model, FakeTokenizer(), batch, bf16=False)  # type: ignore[arg-type]


NOTHING = torch.full((4, 4), -5.0)


def test_a_found_mask_is_compared_with_all_objects_together() -> None:
    left = FULL.clone()
    left[:, :, 4:] = False
    objects = torch.cat([left & (torch.arange(SIDE) < 2), left & (torch.arange(SIDE) >= 2)])
    batch = one_slice(("liver", LabelState.PRESENT, objects))
    assert score(WrittenDown([9.0], NOTHING, half_map()), batch) == [Row("liver", 1.0, True, True)]
    assert score(WrittenDown([9.0], half_map(), NOTHING), batch) == [Row("liver", 1.0, True, True)]


def test_an_unsure_instance_does_not_count() -> None:
    batch = one_slice(("liver", LabelState.PRESENT, FULL))
    assert score(WrittenDown([9.0], half_map(), NOTHING, score=-1.0), batch)[0].dice == 0.0


def test_a_closed_gate_misses_what_is_there_and_agrees_on_what_is_not() -> None:
    batch = one_slice(("liver", LabelState.PRESENT, FULL), ("spleen", LabelState.ABSENT, EMPTY))
    rows = score(WrittenDown([-9.0, -9.0], half_map(), half_map()), batch)
    assert rows[0] == Row("liver", 0.0, True, False)
    assert math.isnan(rows[1].dice)
    assert not rows[1].is_found


def test_what_is_found_where_it_is_absent_scores_zero() -> None:
    batch = one_slice(("spleen", LabelState.ABSENT, EMPTY))
    assert score(WrittenDown([9.0], half_map(), half_map()), batch) == [Row("spleen", 0.0, False, True)]


def test_unknown_pairs_are_not_scored() -> None:
    batch = one_slice(("liver", LabelState.UNKNOWN, EMPTY), ("spleen", LabelState.PRESENT, FULL))
    assert [row.phrase for row in score(WrittenDown([9.0, 9.0], half_map(), half_map()), batch)] == ["spleen"]


def test_the_summary_is_a_mean_over_concepts_that_are_somewhere_present() -> None:
    nan = math.nan
    rows = [
        Row("liver", 1.0, True, True),
        Row("liver", 0.0, True, False),
        Row("liver", nan, False, False),
        Row("spleen", 1.0, True, True),
        Row("bladder", nan, False, False),
        Row("bladder", 0.0, False, True),
    ]
    scores = summarise(rows)
    assert scores["dice"] == 0.75
    assert scores["concepts"]["liver"] == {"dice": 0.5, "count": 2, "undefined": 1}
    assert scores["concepts"]["bladder"] == {"dice": 0.0, "count": 1, "undefined": 1}
    assert (scores["sensitivity"], scores["present"]) == (2 / 3, 3)
    assert (scores["specificity"], scores["absent"]) == (2 / 3, 3)


def test_nothing_to_score_is_not_a_number() -> None:
    assert math.isnan(summarise([])["dice"])


class CountedSource(SquareSource):
    """Remembers which batches were asked for."""

    def __init__(self, length: int) -> None:
        super().__init__(batch_slices=1, length=length)
        self.asked: list[int] = []

    def batch(self, step: int) -> Batch:
        self.asked.append(step)
        return super().batch(step)


@pytest.mark.parametrize("training", [True, False])
def test_validation_looks_at_the_batches_asked_for_and_leaves_the_mode_as_it_was(training: bool) -> None:
    source = CountedSource(length=5)
    model = WrittenDown([9.0, -9.0, 9.0], half_map(), half_map()).train(training)
    scores = validate(model, FakeTokenizer(), source, 3, bf16=False)  # type: ignore[arg-type]
    assert source.asked == [0, 1, 2]
    assert (scores["present"], scores["absent"]) == (3, 3)
    assert model.training is training


def test_validation_ends_with_the_source() -> None:
    source = CountedSource(length=2)
    validate(WrittenDown([9.0] * 3, NOTHING, NOTHING), FakeTokenizer(), source, 9, bf16=False)  # type: ignore[arg-type]
    assert source.asked == [0, 1]
