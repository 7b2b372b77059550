"""The straightforward way of training has our loss and our gradient, and the tables say what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib.model import MedicalSam3
from Testing.benchmarks import bench, bench_training
from Testing.benchmarks.bench_training import (
    LOSSES,
    MASK_WAYS,
    Cost,
    World,
    make_batch,
    make_step,
    mask_losses,
    masks_table,
    measure_masks,
    measure_step,
)
from Testing.benchmarks.plain_training import plain_step
from Testing.benchmarks.worlds import Options
from Testing.training.tiny_world import FakeTokenizer, tiny_model, without_dropout
from Training.step import TrainStep, encode_phrases, freeze_idle

WORLD = World("small", images=2, concepts=4, with_optimizer=False)


@pytest.fixture(scope="module")
def model() -> MedicalSam3:
    model = without_dropout(tiny_model()).double().train()
    freeze_idle(model, LOSSES)
    return model


def gradients(model: MedicalSam3, work: Callable[[], Any]) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = float(work())
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"many_aux_matcher": "one_to_many"}, {"one_to_many": False}])
def test_pair_by_pair_comes_to_the_loss_and_the_gradient_of_ours(model: MedicalSam3, changes: dict[str, Any]) -> None:
    losses = LOSSES.model_copy(update=changes)
    batch = make_batch(WORLD.images, WORLD.concepts, model.image_size, torch.float64)
    batch = replace(batch, states=torch.where(torch.arange(8) == 5, -1, batch.states).to(torch.int8))  # one unknown
    phrases = encode_phrases(batch.phrases, FakeTokenizer())  # type: ignore[arg-type]
    step = TrainStep(model, losses, autocast=False)

    def ours() -> float:
        loss = torch.stack(list(step(batch, phrases).values())).sum()
        loss.backward()
        return float(loss.detach())

    own_loss, own = gradients(model, ours)
    plain_loss, plain = gradients(model, lambda: plain_step(model, batch, phrases, losses))
    assert plain_loss == pytest.approx(own_loss, rel=1e-6)  # boxes of the batch are fp32
    assert own_loss > 0
    assert plain.keys() == own.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(plain[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()) + 1e-9)


def test_the_trunk_sees_a_slice_once_in_ours_and_once_a_pair_in_the_other(model: MedicalSam3) -> None:
    seen: list[int] = []
    trunk = model.detector_model.vision_encoder.backbone
    hook = trunk.register_forward_hook(lambda module, inputs, output: seen.append(len(output.last_hidden_state)))
    world = replace(WORLD, dtype=torch.float64)
    for way in ("ours", "plain"):
        make_step(model, FakeTokenizer(), world, way)()  # type: ignore[arg-type]
    hook.remove()
    assert seen == [2] + [1] * 8


def test_ways_of_comparing_masks_agree() -> None:
    torch.manual_seed(0)
    masks = torch.nn.functional.interpolate(torch.randn(6, 1, 4, 4), (48, 48), mode="bilinear")[:, 0] > 0
    logits = torch.where(torch.nn.functional.avg_pool2d(masks[:, None].float(), 4)[:, 0] > 0.5, 3.0, -3.0)
    values = {way: torch.stack(mask_losses(way, logits, masks)) for way in MASK_WAYS}
    torch.testing.assert_close(values["enlarged"], values["ours, target"])
    torch.testing.assert_close(values["enlarged"], values["ours, logits"], rtol=0.25, atol=0.05)


def test_a_step_and_the_masks_are_measured() -> None:
    for way in ("plain", "ours"):
        cost = measure_step(replace(WORLD, images=1, concepts=2, with_optimizer=True), way, 1)
        assert cost.seconds > 0
    assert measure_masks("ours, points", 3, 32, 8).seconds > 0


def test_tables_set_ours_beside_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fake(work: object, *arguments: Any) -> Cost:
        asked.append(arguments)
        return Cost(9.0, 800.0) if "plain" in arguments or "enlarged" in arguments else Cost(3.0, 100.0)

    monkeypatch.setattr(bench_training, "in_fresh_process", fake)
    (steps,) = bench_training.run(Options())
    assert [row[0] for row in steps.rows] == ["1", "4", "8"]
    assert steps.rows[1] == ("4", "9.00", "3.00", "3.00", "800", "100", "0.12")
    full, masks = bench_training.run_full(Options(size="small"))
    assert full.rows[1][0] == "4"
    assert "small" in full.title
    assert [row[3] for row in masks.rows] == ["1.00", "0.12", "0.12", "0.12"]
    assert masks_table({"enlarged": Cost(1.0, None)}, 3, 8).rows == (("enlarged", "1.00", "-", "-"),)


def test_the_full_size_runs_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    for name in bench.SECTIONS:
        monkeypatch.setitem(bench.SECTIONS, name, lambda options, name=name: (ran.append(name), [])[1])
    assert bench.main([]) == 0
    assert "training" in ran
    assert not {"full", "training-full"} & set(ran)
    assert bench.main(["--full"]) == 0
    assert ran[-1] == "training-full"
    assert capsys.readouterr().out
