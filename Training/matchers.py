"""Which query answers for which object: one-to-one by assignment, one-to-many by quality.

Both match every decoder layer and every pair in one go: K decoder layers, B (slice, phrase) pairs, Q
queries, T objects of the whole batch packed in order of their pair, M matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from Training.boxes import cxcywh_to_xyxy, overlap

# What a query costs whose answer is not a number: worse than any real one, yet matchable, so that the
# loss becomes non-finite and the training loop, not the matcher, decides what to do about it.
NOT_A_NUMBER_COST = 1e6


class HungarianConfig(BaseModel):
    """Weights of the assignment cost; the defaults are the paper's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    l1: float = Field(5.0, ge=0)
    classification: float = Field(2.0, ge=0)
    giou: float = Field(2.0, ge=0)
    alpha: float = Field(0.25, ge=0, le=1)
    gamma: float = Field(2.0, ge=0)


class OneToManyConfig(BaseModel):
    """Which queries count as positive for an object; the defaults are the paper's.

    Attributes:
        topk: About how many queries an object may have.
        threshold: The quality that each of them must exceed.
        alpha: Share of the score in the quality; the rest is IoU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topk: int = Field(4, ge=1)
    threshold: float = Field(0.4, ge=0, le=1)
    alpha: float = Field(0.3, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Matches:
    """M matches: int64 ``(M,)`` each; ``object`` counts through the packed objects."""

    layer: Tensor
    pair: Tensor
    query: Tensor
    object: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def take(self, index: Tensor) -> Matches:
        """Some of the matches, by position or by a mask."""
        return Matches(self.layer[index], self.pair[index], self.query[index], self.object[index])

    def of_layers(self, start: int, stop: int) -> Matches:
        """The matches of layers ``start`` to ``stop`` (excluded), with layers counted from ``start``."""
        kept = self.take((self.layer >= start) & (self.layer < stop))
        return Matches(kept.layer - start, kept.pair, kept.query, kept.object)


def join(first: Matches, second: Matches) -> Matches:
    """Both, in order."""
    return Matches(
        torch.cat([first.layer, second.layer]),
        torch.cat([first.pair, second.pair]),
        torch.cat([first.query, second.query]),
        torch.cat([first.object, second.object]),
    )


@torch.no_grad()
def match_hungarian(
    logits_kbq: Tensor, boxes_kbq4: Tensor, target_t4: Tensor, object_pair: Tensor, config: HungarianConfig
) -> Matches:
    """Cheapest assignment of each pair's objects to its queries; what is left over stays unmatched.

    Args:
        logits_kbq: Scores without presence.
        boxes_kbq4: cx, cy, w, h in 0..1.
        target_t4: Objects' boxes, alike.
        object_pair: Pair of each object, ascending ``(T,)``.
        config: Weights of the cost.
    """
    cost = _cost(logits_kbq[:, object_pair], boxes_kbq4[:, object_pair], target_t4, config)
    cost = torch.nan_to_num(cost, NOT_A_NUMBER_COST, NOT_A_NUMBER_COST, -NOT_A_NUMBER_COST)
    # The only wait for the device: every layer's and pair's cost crosses at once, and whose objects they are with it.
    crossed = torch.cat([object_pair.to(cost.dtype), cost.flatten()]).cpu().numpy()
    pairs, costs = crossed[: len(object_pair)], crossed[len(object_pair) :].reshape(cost.shape)
    found = [np.empty((0, 3), np.int64)]
    for start, stop in _runs(pairs):
        for k in range(len(costs)):
            rows, columns = linear_sum_assignment(costs[k, start:stop])
            found.append(np.stack([np.full(len(rows), k), columns, rows + start], 1))
    matched = torch.from_numpy(np.concatenate(found)).to(object_pair.device)
    return Matches(matched[:, 0], object_pair[matched[:, 2]], matched[:, 1], matched[:, 2])


@torch.no_grad()
def match_one_to_many(
    logits_kbq: Tensor, boxes_kbq4: Tensor, target_t4: Tensor, object_pair: Tensor, config: OneToManyConfig
) -> Matches:
    """All queries whose quality for an object is both among its best and good enough.

    An object may have none, and a query may answer for several objects. Arguments as in
    ``match_hungarian``.
    """
    queries = logits_kbq.shape[2]
    if len(target_t4) == 0:
        nothing = object_pair.new_zeros(0)
        return Matches(nothing, nothing, nothing, nothing)
    probability, predicted = logits_kbq[:, object_pair].sigmoid(), boxes_kbq4[:, object_pair]
    iou, _ = overlap(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target_t4)[:, None])
    quality = config.alpha * probability + (1 - config.alpha) * iou
    best = torch.quantile(quality, max(0.0, 1 - config.topk / queries), dim=2, keepdim=True)
    layer, item, query = torch.nonzero((quality > best) & (quality > config.threshold), as_tuple=True)
    return Matches(layer, object_pair[item], query, item)


def _cost(logits_ktq: Tensor, boxes_ktq4: Tensor, target_t4: Tensor, config: HungarianConfig) -> Tensor:
    """Cost ``(K, T, Q)`` of giving each object to each query of its pair."""
    probability = logits_ktq.sigmoid()
    hit, miss = functional.logsigmoid(logits_ktq), functional.logsigmoid(-logits_ktq)
    score = (1 - config.alpha) * probability**config.gamma * miss - config.alpha * (
        1 - probability
    ) ** config.gamma * hit
    distance = (boxes_ktq4 - target_t4[:, None]).abs().sum(-1)
    _, giou = overlap(cxcywh_to_xyxy(boxes_ktq4), cxcywh_to_xyxy(target_t4)[:, None])
    return config.l1 * distance + config.classification * score - config.giou * giou


def _runs(pairs: np.ndarray) -> list[tuple[int, int]]:
    """First and last (excluded) object of each pair that has any."""
    if len(pairs) == 0:
        return []
    borders = [0, *(np.flatnonzero(np.diff(pairs)) + 1).tolist(), len(pairs)]
    return list(pairwise(borders))
