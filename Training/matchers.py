"""Which query answers for which object: one-to-one by assignment, one-to-many by quality.

Both match every decoder layer and every pair in one go: what it costs is computed on the device, crosses to the host
at once, and is decided there. K decoder layers, B (slice, phrase) pairs, Q queries, T objects of the whole batch packed
in order of their pair, M matches.
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

from Training import transfer
from Training.boxes import cxcywh_to_xyxy, overlap
from Training.transfer import to_device

HostIndex = np.ndarray | Tensor
"""int64 in main memory."""

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
    """M matches in main memory, where they were found: int64 ``(M,)`` each; ``object`` counts the packed objects."""

    layer: np.ndarray
    pair: np.ndarray
    query: np.ndarray
    object: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    def of_layers(self, start: int, stop: int) -> Matches:
        """The matches of layers ``start`` to ``stop`` (excluded), with layers counted from ``start``."""
        kept = np.flatnonzero((self.layer >= start) & (self.layer < stop))
        return Matches(self.layer[kept] - start, self.pair[kept], self.query[kept], self.object[kept])

    def on(self, device: torch.device) -> Places:
        """The same where the loss reads with them."""
        packed = np.stack([self.layer, self.pair, self.query, self.object])
        return Places(*to_device(packed, device).unbind())


@dataclass(frozen=True, slots=True)
class Places:
    """Matches on a device, as indices."""

    layer: Tensor
    pair: Tensor
    query: Tensor
    object: Tensor


def join(first: Matches, second: Matches) -> Matches:
    """Both, in order."""
    return Matches(
        np.concatenate([first.layer, second.layer]),
        np.concatenate([first.pair, second.pair]),
        np.concatenate([first.query, second.query]),
        np.concatenate([first.object, second.object]),
    )


def match_hungarian(
    logits_kbq: Tensor, boxes_kbq4: Tensor, target_t4: Tensor, object_pair: HostIndex, config: HungarianConfig
) -> Matches:
    """Cheapest assignment of each pair's objects to its queries; what is left over stays unmatched.

    Args:
        logits_kbq: Scores without presence.
        boxes_kbq4: cx, cy, w, h in 0..1.
        target_t4: Objects' boxes, alike.
        object_pair: Pair of each object, ascending ``(T,)``, in main memory.
        config: Weights of the cost.
    """
    pairs = np.asarray(object_pair)
    (cost,) = transfer.to_host(hungarian_cost(logits_kbq, boxes_kbq4, target_t4, pairs, config))
    return assign(cost, pairs)


def match_one_to_many(
    logits_kbq: Tensor, boxes_kbq4: Tensor, target_t4: Tensor, object_pair: HostIndex, config: OneToManyConfig
) -> Matches:
    """All queries whose quality for an object is both among its best and good enough.

    An object may have none, and a query may answer for several objects. Arguments as in
    ``match_hungarian``.
    """
    pairs = np.asarray(object_pair)
    (quality,) = transfer.to_host(many_quality(logits_kbq, boxes_kbq4, target_t4, pairs, config))
    return choose_good(quality, pairs, config)


def assign(cost_ktq: np.ndarray, pairs: np.ndarray) -> Matches:
    """The cheapest assignment by ``hungarian_cost``, layer by layer and pair by pair."""
    found = [np.empty((0, 3), np.int64)]
    for start, stop in _runs(pairs):
        for k in range(len(cost_ktq)):
            rows, columns = linear_sum_assignment(cost_ktq[k, start:stop])
            found.append(np.stack([np.full(len(rows), k), columns, rows + start], 1))
    layer, query, item = np.concatenate(found).T
    return Matches(layer, pairs[item], query, item)


def choose_good(quality_ktq: np.ndarray, pairs: np.ndarray, config: OneToManyConfig) -> Matches:
    """The queries that ``many_quality`` calls good, object by object."""
    if len(pairs) == 0:
        nothing = np.empty(0, np.int64)
        return Matches(nothing, nothing, nothing, nothing)
    best = np.quantile(quality_ktq, max(0.0, 1 - config.topk / quality_ktq.shape[2]), axis=2, keepdims=True)
    layer, item, query = np.nonzero((quality_ktq > best) & (quality_ktq > config.threshold))
    return Matches(layer, pairs[item], query, item)


@torch.no_grad()
def hungarian_cost(
    logits_kbq: Tensor, boxes_kbq4: Tensor, target_t4: Tensor, pairs: np.ndarray, config: HungarianConfig
) -> Tensor:
    """Cost ``(K, T, Q)`` of giving each object to each query of its pair."""
    index = to_device(pairs, logits_kbq.device)
    cost = _cost(logits_kbq[:, index], boxes_kbq4[:, index], target_t4, config)
    return torch.nan_to_num(cost, NOT_A_NUMBER_COST, NOT_A_NUMBER_COST, -NOT_A_NUMBER_COST)


@torch.no_grad()
def many_quality(
    logits_kbq: Tensor, boxes_kbq4: Tensor, target_t4: Tensor, pairs: np.ndarray, config: OneToManyConfig
) -> Tensor:
    """Quality ``(K, T, Q)`` of each query of an object's pair: its score and its IoU, weighed."""
    index = to_device(pairs, logits_kbq.device)
    probability, predicted = logits_kbq[:, index].sigmoid(), boxes_kbq4[:, index]
    iou, _ = overlap(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target_t4)[:, None])
    return config.alpha * probability + (1 - config.alpha) * iou


def _cost(logits_ktq: Tensor, boxes_ktq4: Tensor, target_t4: Tensor, config: HungarianConfig) -> Tensor:
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
