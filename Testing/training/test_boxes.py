"""Boxes: overlaps worked out by hand, and boxes that are none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from Training.boxes import cxcywh_to_xyxy, overlap

UNIT = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
boxes = st.tuples(*[st.floats(0.01, 0.99) for _ in range(4)]).map(
    lambda c: torch.tensor([min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])], dtype=torch.float64)
)


def test_corners_of_a_box() -> None:
    corners = cxcywh_to_xyxy(torch.tensor([[0.5, 0.25, 0.2, 0.1]], dtype=torch.float64))
    torch.testing.assert_close(corners, torch.tensor([[0.4, 0.2, 0.6, 0.3]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("other", "iou", "giou"),
    [
        ([0.0, 0.0, 1.0, 1.0], 1.0, 1.0),
        ([0.0, 0.0, 0.5, 1.0], 0.5, 0.5),
        ([0.5, 0.0, 1.5, 1.0], 1 / 3, 1 / 3),
        ([2.0, 0.0, 3.0, 1.0], 0.0, -1 / 3),
        ([1.0, 1.0, 2.0, 2.0], 0.0, -0.5),
    ],
)
def test_overlap_by_hand(other: list[float], iou: float, giou: float) -> None:
    found = overlap(UNIT, torch.tensor(other, dtype=torch.float64))
    assert found[0].item() == pytest.approx(iou)
    assert found[1].item() == pytest.approx(giou)


@given(boxes, boxes)
def test_overlap_is_symmetric_and_bounded(a: torch.Tensor, b: torch.Tensor) -> None:
    iou, giou = overlap(a, b)
    mirrored = overlap(b, a)
    torch.testing.assert_close((iou, giou), mirrored)
    assert 0 <= iou <= 1
    assert -1 <= giou <= iou + 1e-12


@pytest.mark.parametrize("other", [[0.3, 0.3, 0.3, 0.3], [0.3, 0.3, 0.3, 0.8], [0.6, 0.6, 0.6, 0.6]])
def test_a_box_without_area_gives_finite_numbers_and_gradients(other: list[float]) -> None:
    point = torch.tensor([0.3, 0.3, 0.3, 0.3], dtype=torch.float64, requires_grad=True)
    iou, giou = overlap(point, torch.tensor(other, dtype=torch.float64))
    (iou + giou).backward()
    assert iou.item() == 0
    assert bool(torch.isfinite(giou))
    assert bool(torch.isfinite(point.grad).all())


def test_leading_dimensions_broadcast() -> None:
    queries, objects = torch.rand(2, 5, 4), torch.rand(2, 1, 4)
    assert overlap(queries, objects)[0].shape == (2, 5)
