"""Matchers: small assignments by hand and by brute force, and the published package's on frozen inputs."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors import safe_open

from Training.boxes import cxcywh_to_xyxy, overlap
from Training.matchers import HungarianConfig, Matches, OneToManyConfig, match_hungarian, match_one_to_many

FROZEN = Path(__file__).parent / "data" / "losses.safetensors"
PAPER = HungarianConfig()
MANY = OneToManyConfig()


def random_world(seed: int, layers: int, counts: list[int], queries: int) -> tuple[torch.Tensor, ...]:
    """Logits, boxes, targets and their pairs."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    pair = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    boxes = 0.1 + 0.4 * random(layers, len(counts), queries, 4)
    return 4 * random(layers, len(counts), queries) - 2, boxes, 0.1 + 0.4 * random(len(pair), 4), pair


def rows(matches: Matches) -> list[tuple[int, ...]]:
    """Matches as sortable rows of layer, pair, query, object."""
    return sorted(
        zip(matches.layer.tolist(), matches.pair.tolist(), matches.query.tolist(), matches.object.tolist(), strict=True)
    )


def cost_by_hand(logit: torch.Tensor, box: torch.Tensor, target: torch.Tensor) -> float:
    """The paper's matching cost of one query and one object."""
    p = torch.sigmoid(logit)
    score = -0.25 * (1 - p) ** 2 * p.log() + 0.75 * p**2 * (1 - p).log()
    _, giou = overlap(cxcywh_to_xyxy(box), cxcywh_to_xyxy(target))
    return float(5 * (box - target).abs().sum() + 2 * score - 2 * giou)


def test_all_layers_and_pairs_cross_to_the_host_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    crossed = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (crossed.append(tensor.numel()), cpu(tensor))[1])
    logits, boxes, target, pair = random_world(0, 6, [2, 0, 3], 7)
    assert len(match_hungarian(logits, boxes, target, pair, PAPER)) == 6 * 5
    assert crossed == [6 * 5 * 7]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_assignment_is_the_cheapest_of_all(seed: int, objects: int) -> None:
    logits, boxes, target, pair = random_world(seed, 1, [objects], 4)
    matches = match_hungarian(logits, boxes, target, pair, PAPER)
    cost = [[cost_by_hand(logits[0, 0, q], boxes[0, 0, q], target[t]) for q in range(4)] for t in range(objects)]
    best = min(permutations(range(4), objects), key=lambda order: sum(cost[t][q] for t, q in enumerate(order)))
    assert rows(matches) == sorted((0, 0, q, t) for t, q in enumerate(best))


def test_batched_equals_single() -> None:
    logits, boxes, target, pair = random_world(1, 3, [2, 0, 4, 1], 6)
    for match, config in ((match_hungarian, PAPER), (match_one_to_many, OneToManyConfig(threshold=0.1))):
        whole = rows(match(logits, boxes, target, pair, config))
        parts = []
        for k in range(3):
            for b in range(4):
                mine = torch.nonzero(pair == b)[:, 0]
                found = match(
                    logits[k : k + 1, b : b + 1], boxes[k : k + 1, b : b + 1], target[mine], pair[mine] * 0, config
                )
                parts += [(k, b, q, int(mine[t])) for _, _, q, t in rows(found)]
        assert whole == sorted(parts)


def test_no_objects_no_matches() -> None:
    logits, boxes, target, pair = random_world(2, 2, [0, 0], 5)
    for matches in (
        match_hungarian(logits, boxes, target, pair, PAPER),
        match_one_to_many(logits, boxes, target, pair, MANY),
    ):
        assert len(matches) == 0
        assert matches.query.dtype == np.int64


def test_more_objects_than_queries_leaves_objects_unmatched() -> None:
    matches = match_hungarian(*random_world(3, 1, [5], 3), PAPER)
    assert sorted(matches.query.tolist()) == [0, 1, 2]
    assert len(set(matches.object.tolist())) == 3


def test_boxes_without_area_are_matched_all_the_same() -> None:
    logits, boxes, target, pair = random_world(4, 1, [2, 1], 4)
    boxes[..., 2:], target[:, 2:] = 0.0, 0.0
    assert len(match_hungarian(logits, boxes, target, pair, PAPER)) == 3
    assert len(match_one_to_many(logits, boxes, target, pair, MANY)) == 0


def test_an_answer_that_is_no_number_is_the_last_choice() -> None:
    logits, boxes, target, pair = random_world(5, 1, [2], 3)
    boxes[0, 0, 1] = torch.nan
    assert 1 not in match_hungarian(logits, boxes, target, pair, PAPER).query.tolist()
    boxes[:] = torch.nan
    assert len(match_hungarian(logits, boxes, target, pair, PAPER)) == 2


def test_one_to_many_by_hand() -> None:
    """Ten queries: four on the object, one of them with a poor score; two half on it; the rest elsewhere."""
    target = torch.tensor([[0.5, 0.5, 0.2, 0.2]], dtype=torch.float64)
    boxes = torch.tensor([[0.1, 0.1, 0.1, 0.1]], dtype=torch.float64).repeat(10, 1)
    boxes[:4], boxes[4:6] = target, torch.tensor([0.6, 0.5, 0.2, 0.2], dtype=torch.float64)
    logits = torch.full((10,), 2.0, dtype=torch.float64)
    logits[3] = -20.0
    matches = match_one_to_many(logits[None, None], boxes[None, None], target, torch.tensor([0]), MANY)
    # Quality: .3 * .88 + .7 = .96 (three), .7 (one), .3 * .88 + .7 / 3 = .50 (two): the best four, all above .4.
    assert matches.query.tolist() == [0, 1, 2, 3]
    strict = match_one_to_many(
        logits[None, None], boxes[None, None], target, torch.tensor([0]), OneToManyConfig(threshold=0.8)
    )
    assert strict.query.tolist() == [0, 1, 2]


def test_one_query_may_answer_for_two_objects() -> None:
    target = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.21, 0.2]], dtype=torch.float64)
    boxes = torch.full((1, 1, 8, 4), 0.05, dtype=torch.float64)
    boxes[0, 0, 2] = target[0]
    matches = match_one_to_many(
        torch.zeros(1, 1, 8, dtype=torch.float64), boxes, target, torch.tensor([0, 0]), OneToManyConfig(topk=1)
    )
    assert rows(matches) == [(0, 0, 2, 0), (0, 0, 2, 1)]


def test_more_wanted_than_there_are_queries() -> None:
    logits, boxes, target, pair = random_world(6, 1, [1], 3)
    matches = match_one_to_many(logits, boxes, target, pair, OneToManyConfig(topk=9, threshold=0.0))
    assert len(matches) == 2  # all but the worst: "better than the worst" is as low as the bar can go


def test_an_unknown_constant_is_refused() -> None:
    with pytest.raises(ValidationError):
        HungarianConfig(cost_bbox=5)
    with pytest.raises(ValidationError):
        OneToManyConfig(topk=0)


@pytest.mark.parametrize("case", ["paper", "other"])
@pytest.mark.parametrize("branch", ["one", "many"])
def test_same_matches_as_the_published_package(case: str, branch: str) -> None:
    with safe_open(FROZEN, "pt") as file:
        config = json.loads(file.metadata()["cases"])[case]
        given_ = [file.get_tensor(f"input.{name}") for name in (f"{branch}_logits", f"{branch}_boxes")]
        target, pair = file.get_tensor("input.target_boxes"), file.get_tensor("input.object_pair")
        expected = [file.get_tensor(f"{case}.match.{branch}.{k}").tolist() for k in range(3)]
    hungarian = match_hungarian(*given_, target, pair, HungarianConfig(**config.get("hungarian", {})))
    many = match_one_to_many(*given_, target, pair, OneToManyConfig(**config.get("many_matcher", {})))
    for k in range(3):
        greedy = branch == "many" and (k == 2 or config.get("many_aux_matcher") == "one_to_many")
        found = (many if greedy else hungarian).of_layers(k, k + 1)
        assert rows(found) == sorted((0, *row) for row in expected[k])
