"""Losses: the published package's numbers on frozen inputs, hand-computed ones where we depart on purpose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor
from torch import distributed as dist

from Training import mask_losses
from Training.collate import Batch, LabelState
from Training.forward import LayerOutput, Outputs
from Training.losses import Counts, LossConfig, compute_losses, global_counts
from Training.mask_losses import (
    at_one_size,
    at_points,
    dice,
    focal,
    focal_and_dice,
    focal_and_dice_of_masks,
    union_of_objects,
)

FROZEN = Path(__file__).parent / "data" / "losses.safetensors"
LEAVES = ("one_logits", "one_boxes", "one_masks", "many_logits", "many_boxes", "many_masks", "presence", "semantic")
EVERY_TERM = LossConfig(mask_focal=200.0, mask_dice=10.0, absent_semantic=5.0)
LN2 = math.log(2)


def frozen_world() -> tuple[dict[str, Tensor], Batch]:
    """Predictions, ready for gradients, and the batch that they answer."""
    with safe_open(FROZEN, "pt") as file:
        names = list(file.keys())
        inputs = {name[6:]: file.get_tensor(name) for name in names if name.startswith("input.")}
    pairs, pair = inputs["presence"].shape[1], inputs["object_pair"]
    states = torch.full((pairs,), int(LabelState.ABSENT), dtype=torch.int8)
    states[pair] = int(LabelState.PRESENT)
    batch = Batch(
        images=torch.zeros(1, 3, 2, 2),
        phrases=tuple(f"concept {n}" for n in range(pairs)),
        pair_slice=torch.zeros(pairs, dtype=torch.int64),
        states=states,
        boxes_cxcywh=inputs["target_boxes"],
        masks=inputs["masks"],
        object_pair=pair,
    )
    return {name: inputs[name].requires_grad_() for name in LEAVES}, batch


def outputs_of(leaf: dict[str, Tensor], rows: Tensor | slice = slice(None)) -> Outputs:
    """What the detector would hand over, for some of the pairs."""
    layers = range(len(leaf["presence"]))
    one = [
        LayerOutput(leaf["one_logits"][k, rows], leaf["one_boxes"][k, rows], leaf["presence"][k, rows]) for k in layers
    ]
    many = [LayerOutput(leaf["many_logits"][k, rows], leaf["many_boxes"][k, rows], None) for k in layers]
    return Outputs(tuple(one), tuple(many), leaf["one_masks"][rows], leaf["many_masks"][rows], leaf["semantic"][rows])


def some_pairs(batch: Batch, rows: Tensor) -> Batch:
    """The batch of a rank that got only these pairs."""
    mine = torch.isin(batch.object_pair, rows)
    return replace(
        batch,
        phrases=tuple(batch.phrases[row] for row in rows.tolist()),
        pair_slice=batch.pair_slice[rows],
        states=batch.states[rows],
        boxes_cxcywh=batch.boxes_cxcywh[mine],
        masks=batch.masks[mine],
        object_pair=torch.searchsorted(rows, batch.object_pair[mine]),
    )


def gradients(loss: Tensor, leaf: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of the loss into every prediction; a missing one is an error."""
    return dict(zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True))


def blank(pairs: int, states: list[int], objects: list[int]) -> tuple[dict[str, Tensor], Batch]:
    """Undecided predictions (all logits 0) of one layer, four queries; every object fills the upper half."""
    half = torch.zeros(len(objects), 4, 4, dtype=torch.bool)
    half[:, :2] = True
    shapes = {
        "one_logits": (1, pairs, 4),
        "one_masks": (pairs, 4, 2, 2),
        "presence": (1, pairs),
        "semantic": (pairs, 2, 2),
    }
    leaf = {name: torch.zeros(shape, dtype=torch.float64, requires_grad=True) for name, shape in shapes.items()}
    leaf["one_boxes"] = torch.tensor([0.5, 0.25, 1.0, 0.5], dtype=torch.float64).expand(1, pairs, 4, 4).clone()
    leaf["one_boxes"].requires_grad_()
    for name in ("logits", "boxes", "masks"):
        leaf[f"many_{name}"] = leaf[f"one_{name}"].detach().clone().requires_grad_()
    batch = Batch(
        images=torch.zeros(1, 3, 4, 4),
        phrases=("liver",) * pairs,
        pair_slice=torch.zeros(pairs, dtype=torch.int64),
        states=torch.tensor(states, dtype=torch.int8),
        boxes_cxcywh=torch.tensor([[0.5, 0.25, 1.0, 0.5]], dtype=torch.float64).repeat(len(objects), 1),
        masks=half,
        object_pair=torch.tensor(objects, dtype=torch.int64),
    )
    return leaf, batch


@pytest.mark.parametrize("case", ["paper", "other"])
def test_same_losses_and_gradients_as_the_published_package(case: str) -> None:
    leaf, batch = frozen_world()
    with safe_open(FROZEN, "pt") as file:
        config = LossConfig(**json.loads(file.metadata()["cases"])[case])
        terms = compute_losses(outputs_of(leaf), batch, config, global_counts(batch))
        total = sum(terms.values())
        torch.testing.assert_close(total, file.get_tensor(f"{case}.total"), atol=1e-9, rtol=1e-9)
        for name, gradient in gradients(total, leaf).items():
            torch.testing.assert_close(gradient, file.get_tensor(f"{case}.grad.{name}"), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("case", ["paper", "other"])
def test_same_terms_as_the_published_package(case: str) -> None:
    leaf, batch = frozen_world()
    with safe_open(FROZEN, "pt") as file:
        config = LossConfig(**json.loads(file.metadata()["cases"])[case])
        names = [name for name in list(file.keys()) if f"{case}.term" in name]
        theirs = {name.split("term.")[1]: float(file.get_tensor(name)) for name in names}
    ours = {
        name: float(term.detach())
        for name, term in compute_losses(outputs_of(leaf), batch, config, global_counts(batch)).items()
    }
    pairs = {
        "box_l1": "loss_bbox",
        "box_giou": "loss_giou",
        "classification": "loss_ce",
        "presence": "presence_loss",
        "mask_focal": "loss_mask",
        "mask_dice": "loss_dice",
        "semantic_focal": "loss_semantic_seg",
        "semantic_dice": "loss_semantic_dice",
        "semantic_presence": "loss_semantic_presence",
    }
    for name, their_name in pairs.items():
        weight = getattr(config, name)
        assert ours[name] == pytest.approx(weight * theirs[their_name], abs=1e-9)
        if f"{name}_aux" in ours:
            earlier = theirs[f"{their_name}_aux_0"] + theirs[f"{their_name}_aux_1"]
            assert ours[f"{name}_aux"] == pytest.approx(weight * earlier, abs=1e-9)
        if f"many_{name}" in ours:  # their one-to-many terms already hold lambda
            assert ours[f"many_{name}"] == pytest.approx(weight * theirs[f"{their_name}_o2m"], abs=1e-9)


def test_the_frozen_world_holds_the_hard_cases() -> None:
    _, batch = frozen_world()
    with safe_open(FROZEN, "pt") as file:
        pair_query = file.get_tensor("paper.match.many.2")[:, :2].tolist()
    assert len({tuple(row) for row in pair_query}) < len(pair_query)  # a query with two objects
    assert bool((batch.boxes_cxcywh[:, 2] == 0).any())  # a box without area
    assert bool((batch.states == LabelState.ABSENT).any())


def test_absent_pairs_train_presence_only() -> None:
    leaf, batch = blank(1, [LabelState.ABSENT], [])
    terms = compute_losses(outputs_of(leaf), batch, LossConfig(), global_counts(batch))
    assert {name: float(term.detach()) for name, term in terms.items() if float(term.detach()) != 0} == pytest.approx(
        {"presence": 20 * 0.5 * LN2, "semantic_presence": LN2}
    )
    gradient = gradients(sum(terms.values()), leaf)
    assert gradient["presence"].item() == pytest.approx(0.5 * (20 * 0.5 + 1))
    assert all(not bool(gradient[name].any()) for name in LEAVES if name != "presence")


def test_absent_pairs_empty_the_map_when_asked() -> None:
    leaf, batch = blank(3, [LabelState.ABSENT, LabelState.PRESENT, LabelState.ABSENT], [1])
    config = LossConfig(absent_semantic=3.0)
    terms = compute_losses(outputs_of(leaf), batch, config, global_counts(batch))
    assert float(terms["absent_semantic"].detach()) == pytest.approx(3 * (1 - 0.6) * 0.5**2 * LN2, rel=1e-5)
    gradient = torch.autograd.grad(terms["absent_semantic"], leaf["semantic"])[0]
    assert bool((gradient[[0, 2]] > 0).all())
    assert not bool(gradient[1].any())


def test_a_present_pair_by_hand() -> None:
    """One object that query 0 fits exactly; logits 0; so IoU 1 and quality .5^.25."""
    leaf, batch = blank(1, [LabelState.PRESENT], [0])
    with torch.no_grad():
        leaf["one_boxes"][0, 0, 1:] = torch.tensor([0.1, 0.9, 0.1, 0.1])
    outputs = replace(outputs_of(leaf), many=(), many_instances=None)
    config = LossConfig(mask_focal=200.0, mask_dice=10.0)
    terms = {
        name: float(term.detach())
        for name, term in compute_losses(outputs, batch, config, global_counts(batch)).items()
    }
    assert terms["box_l1"] == 0
    assert terms["box_giou"] == pytest.approx(0)
    # BCE at logit 0 is ln 2 whatever the target; three unmatched queries weigh .5^2; mean over 200 queries.
    assert terms["classification"] == pytest.approx(20 * (10 * LN2 + 3 * 0.25 * LN2) / 200)
    # Enlarged to 4 x 4: p = .5 everywhere, 8 of 16 pixels true.
    assert terms["mask_focal"] == pytest.approx(200 * (0.25 + 0.75) / 2 * 0.25 * LN2)
    assert terms["mask_dice"] == pytest.approx(10 * (1 - (8 + 1) / (8 + 8 + 1)))
    assert terms["semantic_focal"] == pytest.approx(20 * (0.6 + 0.4) / 2 * 0.25 * LN2, rel=1e-5)
    assert terms["semantic_dice"] == pytest.approx(30 * (1 - 9 / 17), rel=1e-5)
    assert terms["presence"] == pytest.approx(20 * 0.5 * LN2)


@pytest.mark.parametrize("size", ["target", "logits"])
def test_unknown_pairs_change_nothing(size: str) -> None:
    """No loss, no gradient, no share in a denominator, even if objects were given by mistake."""
    leaf, batch = frozen_world()
    config = EVERY_TERM.model_copy(update={"mask_loss_size": size})
    known = torch.tensor([0, 1, 3, 4, 6])
    states = torch.full_like(batch.states, int(LabelState.UNKNOWN))
    states[known] = batch.states[known]
    hidden = replace(batch, states=states)
    with_unknown = compute_losses(outputs_of(leaf), hidden, config, global_counts(hidden))
    gradient = gradients(sum(with_unknown.values()), leaf)
    alone = some_pairs(batch, known)
    without = compute_losses(outputs_of(leaf, known), alone, config, global_counts(alone))
    torch.testing.assert_close(with_unknown, without, atol=1e-12, rtol=1e-12)
    unknown = torch.tensor([2, 5, 7])
    for name, tensor in gradient.items():
        rows = tensor[unknown] if name.endswith("masks") or name == "semantic" else tensor[:, unknown]
        assert not bool(rows.any()), name


def test_nothing_known_is_zero_and_reaches_every_head() -> None:
    leaf, batch = blank(2, [LabelState.UNKNOWN, LabelState.UNKNOWN], [])
    terms = compute_losses(outputs_of(leaf), batch, EVERY_TERM, global_counts(batch))
    total = sum(terms.values())
    assert float(total.detach()) == 0
    assert all(not bool(gradient.any()) for gradient in gradients(total, leaf).values())


@pytest.mark.parametrize("config", [LossConfig(), EVERY_TERM, EVERY_TERM.model_copy(update={"point_sampling": 8})])
def test_no_objects_is_finite_and_reaches_every_head(config: LossConfig) -> None:
    leaf, batch = blank(2, [LabelState.ABSENT, LabelState.ABSENT], [])
    total = sum(compute_losses(outputs_of(leaf), batch, config, global_counts(batch)).values())
    assert bool(torch.isfinite(total))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients(total, leaf).values())


def test_ranks_with_part_of_the_batch_average_to_the_whole() -> None:
    leaf, batch = frozen_world()
    whole = global_counts(batch)
    expected = sum(compute_losses(outputs_of(leaf), batch, EVERY_TERM, whole).values())
    shared = Counts(whole.objects / 2, whole.pairs / 2, whole.positives / 2, whole.absents / 2)
    halves = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5, 6, 7])]
    found = [
        sum(compute_losses(outputs_of(leaf, rows), some_pairs(batch, rows), EVERY_TERM, shared).values())
        for rows in halves
    ]
    mean = (found[0] + found[1]) / 2
    torch.testing.assert_close(mean, expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(gradients(mean, leaf), gradients(expected, leaf), atol=1e-9, rtol=1e-9)


def test_counts_are_those_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second rank with 5 objects in 3 known pairs, 2 of them present."""

    def add_the_other_rank(total: Tensor, group: Any = None) -> None:
        total += torch.tensor([5.0, 3.0, 2.0], dtype=total.dtype)

    _, batch = blank(2, [LabelState.PRESENT, LabelState.UNKNOWN], [0])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", add_the_other_rank)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    counts = global_counts(batch)
    assert (float(counts.objects), float(counts.pairs)) == (3.0, 2.0)
    assert float(counts.positives) == pytest.approx(1.5, rel=1e-6)
    assert float(counts.absents) == pytest.approx(0.5, rel=1e-5)


def test_boxes_without_area_are_finite() -> None:
    leaf, batch = frozen_world()
    with torch.no_grad():
        leaf["one_boxes"][..., 2:] = 0.0
        leaf["many_boxes"][:] = batch.boxes_cxcywh[0]
        batch.boxes_cxcywh[:, 2:] = 0.0
    total = sum(compute_losses(outputs_of(leaf), batch, EVERY_TERM, global_counts(batch)).values())
    assert bool(torch.isfinite(total))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients(total, leaf).values())


@pytest.mark.parametrize("name", ["one_boxes", "many_boxes", "one_masks", "many_masks", "presence", "semantic"])
@pytest.mark.parametrize("size", ["target", "logits"])
def test_gradients_are_finite_differences(name: str, size: str) -> None:
    """All but the scores' own terms, whose target is detached on purpose."""
    leaf, batch = frozen_world()
    config = EVERY_TERM.model_copy(update={"classification": 0.0, "mask_loss_size": size})
    counts = global_counts(batch)

    def total() -> Tensor:
        return sum(compute_losses(outputs_of(leaf), batch, config, counts).values())

    slope = torch.autograd.grad(total(), leaf[name])[0].flatten()
    for place in [*slope.abs().topk(5).indices.tolist(), 0]:
        assert slope[place].item() == pytest.approx(_difference(total, leaf[name], place), rel=1e-5, abs=1e-7)


def _difference(function: Callable[[], Tensor], tensor: Tensor, place: int, step: float = 1e-6) -> float:
    values = []
    with torch.no_grad():
        flat = tensor.view(-1)
        kept = flat[place].item()
        for sign in (1, -1):
            flat[place] = kept + sign * step
            values.append(function().item())
        flat[place] = kept
    return (values[0] - values[1]) / (2 * step)


def test_dice_of_two_by_two_pixels_by_hand() -> None:
    logits = torch.tensor([[40.0, -40.0, 40.0, -40.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    # One pixel in common, two and two: 1 - (2 * 1 + 1) / (2 + 2 + 1).
    assert dice(logits, target).item() == pytest.approx(0.4)
    assert dice(-40 * torch.ones(1, 4), torch.zeros(1, 4)).item() == pytest.approx(0.0)


def test_focal_by_hand() -> None:
    logits, target = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    expected = [0.25 * 0.25 * LN2, 0.75 * 0.25 * LN2, 0.5 * 0.25 * LN2]
    assert focal(logits, target, 0.25, 2.0).tolist() == pytest.approx(expected)


def test_masks_shrink_by_area_and_logits_grow_bilinearly() -> None:
    mask = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]], dtype=torch.bool)
    logits = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    assert at_one_size(logits, mask, "logits")[1].tolist() == [[1.0, 0.25, 0.0, 0.25]]
    enlarged, kept = at_one_size(logits, mask, "target")
    assert enlarged.tolist() == [[1.0] * 16]
    assert kept.tolist() == [mask.flatten().float().tolist()]


def test_points_see_the_same_picture_and_prefer_doubt() -> None:
    torch.manual_seed(0)
    side = 16
    logits = torch.full((2, side, side), 8.0)
    logits[:, :, : side // 2] = -8.0
    logits[:, :, side // 2] = 0.0  # one undecided column of sixteen
    masks = torch.ones(2, 2 * side, 2 * side, dtype=torch.bool)
    values, target = at_points(logits, masks, 200, 3.0, 0.75)
    assert values.shape == target.shape == (2, 200)
    torch.testing.assert_close(target, torch.ones(2, 200))
    uniform, _ = at_points(logits, masks, 200, 3.0, 0.0)
    assert (values.abs() < 4).float().mean() > 2 * (uniform.abs() < 4).float().mean()


@pytest.mark.parametrize("size", ["target", "logits"])
def test_a_few_masks_at_a_time_give_the_losses_and_gradients_of_all_at_once(
    size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(7, 6, 5, dtype=torch.float64), torch.rand(7, 21, 18) < 0.4
    found = []
    for most in (10**9, 2 * 21 * 18):
        monkeypatch.setattr(mask_losses, "MOST_VALUES", most)
        leaf = logits.clone().requires_grad_()
        terms = focal_and_dice_of_masks(leaf, masks, size, 0.25, 2.0)
        (terms[0] + 3 * terms[1]).backward()
        found.append((*terms, leaf.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    # What is compared is the same to the bit.
    monkeypatch.setattr(mask_losses, "MOST_VALUES", 1)
    one_by_one = at_one_size(logits, masks, "logits")
    monkeypatch.setattr(mask_losses, "MOST_VALUES", 10**9)
    assert torch.equal(one_by_one[1], at_one_size(logits, masks, "logits")[1])


def test_points_of_masks_are_read_a_few_masks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = torch.randn(5, 8, 8), torch.rand(5, 24, 24) < 0.5
    read = []
    for most in (10**9, 1):
        monkeypatch.setattr(mask_losses, "MOST_VALUES", most)
        torch.manual_seed(1)
        read.append(at_points(logits, masks, 50, 3.0, 0.75))
    assert all(torch.equal(one, other) for one, other in zip(*read, strict=True))


def test_no_masks_are_no_loss_and_no_error() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    terms = focal_and_dice_of_masks(logits, torch.zeros(0, 8, 8, dtype=torch.bool), "target", 0.25, 2.0)
    assert [term.item() for term in terms] == [0.0, 0.0]
    assert [part.shape for part in at_points(logits, torch.zeros(0, 8, 8, dtype=torch.bool), 5, 3.0, 0.75)] == [
        (0, 5)
    ] * 2


def test_enlarged_masks_are_not_kept_for_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_losses, "MOST_VALUES", 4 * 112 * 112)
    logits, masks = torch.randn(40, 32, 32, requires_grad=True), torch.rand(40, 112, 112) < 0.5

    def kept(work: Callable[[], Any]) -> int:
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            answer = work()
        assert answer
        return sum(sizes.values())

    enlarged = kept(lambda: focal_and_dice(*at_one_size(logits, masks, "target"), 0.25, 2.0))
    for size in ("target", "logits"):
        assert kept(lambda size=size: focal_and_dice_of_masks(logits, masks, size, 0.25, 2.0)) < enlarged / 8


def test_union_counts_an_overlap_once_and_keeps_pairs_apart() -> None:
    masks = torch.zeros(3, 1, 3, dtype=torch.bool)
    masks[0, 0, :2], masks[1, 0, 1:], masks[2, 0, 0] = True, True, True
    union = union_of_objects(masks, torch.tensor([0, 0, 2]), 3)
    assert union[:, 0].tolist() == [[True] * 3, [False] * 3, [True, False, False]]


def test_half_precision_outputs_give_fp32_terms() -> None:
    leaf, batch = frozen_world()
    half = {name: tensor.detach().bfloat16().requires_grad_() for name, tensor in leaf.items()}
    exact = sum(compute_losses(outputs_of(leaf), batch, EVERY_TERM, global_counts(batch)).values())
    rough = sum(compute_losses(outputs_of(half), batch, EVERY_TERM, global_counts(batch)).values())
    assert rough.dtype in (torch.float32, torch.float64)
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)


def test_masks_are_compared_only_where_a_weight_asks_for_it() -> None:
    leaf, batch = frozen_world()
    outputs = outputs_of(leaf)
    boxes_only = LossConfig(semantic_focal=0, semantic_dice=0)
    assert LossConfig().with_masks
    assert not boxes_only.with_masks
    terms = compute_losses(
        replace(outputs, semantic=None, instances=None, many_instances=None), batch, boxes_only, global_counts(batch)
    )
    assert not any("mask" in name or name in ("semantic_focal", "semantic_dice") for name in terms)


def test_an_unknown_or_impossible_weight_is_refused() -> None:
    with pytest.raises(ValidationError):
        LossConfig(box_11=5)
    with pytest.raises(ValidationError):
        LossConfig(presence=-1)
