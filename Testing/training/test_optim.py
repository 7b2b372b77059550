"""Groups that partition the parameters, a schedule with known values, a step that survives what is not a number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from MedicalSAM3Lib.architecture import full_size
from MedicalSAM3Lib.errors import RunError, SettingsError
from Testing.training.tiny_world import tiny_model
from Training.config import OptimConfig, load_config
from Training.forward import freeze_unused
from Training.optim import (
    Group,
    Optimizer,
    assert_partition,
    build_groups,
    check_gradients,
    describe,
    layer_scale,
    schedule,
)
from Training.step import freeze_idle

RECIPE = Path(__file__).parents[2] / "Training" / "recipes" / "medical_sam3.yaml"
TRUNK = "detector_model.vision_encoder.backbone."


def full_size_scale(name: str, **settings: float) -> float:
    return layer_scale(TRUNK + name, 32, OptimConfig(**settings))[1]


def test_layer_decay_follows_the_numbering_of_sam3() -> None:
    assert full_size_scale("embeddings.patch_embeddings.projection.weight", layer_decay=0.9) == pytest.approx(0.9**33)
    assert full_size_scale("layer_norm.weight", layer_decay=0.85) == pytest.approx(0.85**33)
    assert full_size_scale("layers.0.mlp.fc1.weight", layer_decay=0.9) == pytest.approx(0.9**32)
    assert full_size_scale("layers.31.mlp.fc1.weight", layer_decay=0.9) == pytest.approx(0.9)


def test_the_position_embedding_has_a_factor_of_its_own() -> None:
    name = "embeddings.position_embeddings"
    assert full_size_scale(name, layer_decay=0.5) == 1.0
    assert full_size_scale(name, layer_decay=0.5, position_embedding_scale=0.25) == 0.25


def test_blocks_gather_into_the_groups_that_are_asked_for() -> None:
    scales = [full_size_scale(f"layers.{i}.mlp.fc1.weight", layer_decay=0.85, layer_groups=12) for i in range(32)]
    assert len(set(scales)) == 12
    assert scales == sorted(scales)
    assert scales[0] == pytest.approx(0.85**12)
    assert scales[-1] == pytest.approx(0.85)


def test_groups_partition_the_trainable_parameters() -> None:
    model = tiny_model()
    freeze_unused(model)
    groups = build_groups(model, OptimConfig(layer_decay=0.9))
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    trainable = [id(parameter) for parameter in model.parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    total = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{total:,}" in describe(groups).splitlines()[-1]


def test_biases_and_layer_norms_do_not_decay_and_all_else_does() -> None:
    model = tiny_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    freeze_unused(model)
    free = {names[id(p)] for g in build_groups(model, OptimConfig()) if g.weight_decay == 0 for p in g.parameters}
    assert f"{TRUNK}layers.0.layer_norm1.weight" in free
    assert f"{TRUNK}layers.0.mlp.fc1.bias" in free
    assert not free & {
        f"{TRUNK}embeddings.position_embeddings",
        "detector_model.detr_decoder.query_embed.weight",
        "detector_model.mask_decoder.pixel_decoder.norms.0.weight",
        f"{TRUNK}layers.0.mlp.fc1.weight",
    }


def test_each_module_has_its_rate() -> None:
    model = tiny_model()
    freeze_unused(model)
    rates = {group.name: group.lr for group in build_groups(model, OptimConfig(lr=1e-3, module_lr={"decoder": 3e-4}))}
    assert rates["decoder"] == rates["decoder (no decay)"] == 3e-4
    assert rates["masks"] == 1e-3


def test_a_parameter_without_a_module_is_named() -> None:
    model = tiny_model()
    model.register_parameter("stray", nn.Parameter(torch.zeros(1)))
    with pytest.raises(SettingsError, match="for stray, got none"):
        build_groups(model, OptimConfig())


def test_what_is_no_partition_is_refused() -> None:
    one, two = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="two groups"):
        assert_partition([Group("a", 1, 0, [one]), Group("b", 1, 0, [one])], [one])
    with pytest.raises(AssertionError, match="not the trainable"):
        assert_partition([Group("a", 1, 0, [one])], [one, two])


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (10, 0.5),
        (20, 1.0),
        (40, 1 / math.sqrt(2)),
        (80, 0.5),
        (1000, 1 / math.sqrt(50)),
        (1990, 0.5 / math.sqrt(1990 / 20)),
        (2000, 0.0),
    ],
)
def test_schedule_has_its_known_values(step: int, factor: float) -> None:
    config = OptimConfig(warmup=20, timescale=20, cooldown=20)
    assert schedule(step, 2000, config) == pytest.approx(factor)


def test_schedule_without_warm_up_and_cool_down_starts_at_once() -> None:
    assert schedule(0, 10, OptimConfig(timescale=3)) == 1.0
    assert schedule(9, 10, OptimConfig(timescale=3)) == pytest.approx(0.5)


@given(st.integers(0, 50), st.integers(1, 50), st.integers(0, 50), st.integers(1, 500))
def test_schedule_stays_within_zero_and_one(warmup: int, timescale: int, cooldown: int, total: int) -> None:
    config = OptimConfig(warmup=warmup, timescale=timescale, cooldown=cooldown)
    assert all(0.0 <= schedule(step, total, config) <= 1.0 for step in range(total + 1))


def small_optimizer(**settings: float) -> tuple[nn.Parameter, Optimizer]:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    return parameter, Optimizer([Group("decoder", 0.1, 0.0, [parameter])], OptimConfig(**settings), 10)


def test_a_step_reports_the_norm_before_clipping_and_clears_the_gradient() -> None:
    parameter, optimizer = small_optimizer(clip=0.5)
    seen = []
    optimizer.adamw.register_step_pre_hook(lambda *_: seen.append(parameter.grad.clone()))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert optimizer.step(0) == 5.0
    torch.testing.assert_close(seen[0], torch.tensor([0.3, 0.4]))
    assert parameter.grad is None


def test_rates_follow_the_schedule() -> None:
    _, optimizer = small_optimizer(warmup=4)
    assert optimizer.set_rates(1) == 0.25
    assert optimizer.rates() == {"decoder": pytest.approx(0.025)}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone_until_the_budget_is_spent(bad: float) -> None:
    parameter, optimizer = small_optimizer(max_skipped=2)
    before = parameter.detach().clone()
    for skipped in (1, 2):
        parameter.grad = torch.tensor([bad, 1.0])
        optimizer.step(0)
        assert optimizer.skipped == skipped
    assert torch.equal(parameter, before)
    assert not optimizer.adamw.state
    parameter.grad = torch.tensor([bad, 1.0])
    with pytest.raises(RunError, match="at most 2 losses or gradients that are not finite, got 3"):
        optimizer.step(0)


def test_a_parameter_without_gradient_is_named() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.zeros(2, 2)
    with pytest.raises(RunError, match="none for 1, first bias"):
        check_gradients(layer)
    layer.bias.requires_grad_(False)
    check_gradients(layer)


def test_the_full_size_network_falls_into_groups_with_and_without_its_tracker() -> None:
    tables = []
    for with_tracker in (False, True):
        with torch.device("meta"):
            model = full_size(with_tracker).build()
        freeze_unused(model)
        tables.append(describe(build_groups(model, OptimConfig(layer_decay=0.85))))
    # The tracker is trained by other means: it is frozen here, and changes nothing.
    assert tables[0] == tables[1]
    rates = {line.split("  ")[0]: line.split()[-2] for line in tables[0].splitlines()[1:-1]}
    assert sum(name.startswith("trunk.") and "(" not in name for name in rates) == 34
    assert rates["trunk.0"] == f"{1e-4 * 0.85**33:.2e}"
    assert rates["trunk.32"] == "8.50e-05"
    assert rates["trunk.position"] == "1.00e-04"


def test_the_recipe_puts_every_parameter_of_sam3_into_one_group_at_the_papers_rate() -> None:
    config = load_config(RECIPE)
    with torch.device("meta"):
        model = full_size(tracker=True).build()
    freeze_idle(model, config.losses)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_groups(model, config.optim)
    grouped = [names[id(parameter)] for group in groups for parameter in group.parameters]
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert sorted([*grouped, *frozen]) == sorted(names.values())
    # What text alone never reads is all that does not learn: the tracker, box prompts, levels without a reader.
    reached = sum(p.numel() for name, p in model.named_parameters() if name.startswith("detector_model."))
    learning = sum(parameter.numel() for group in groups for parameter in group.parameters)
    assert 0.99 < learning / reached < 1
    rates = {name: group.lr for group in groups for name in [group.name] if "(" not in name}
    assert rates["decoder"] == rates["masks"] == rates["scoring"] == 3e-4
    assert rates["text"] == rates["neck"] == 5e-5
    assert rates["geometry"] == 1e-4
    # Eq. 1: 32 blocks in L = 12 groups, l = 0..11, at 0.85 ** (12 - l); the embedding lies below them.
    layers = [rates[f"trunk.{number}"] for number in range(13)]
    assert layers == pytest.approx([5e-5 * 0.85 ** (13 - number) for number in range(13)])
    assert "trunk.13" not in rates
