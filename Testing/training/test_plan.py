"""The plan of a run agrees with what its steps take, and a rehearsal writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from MedicalSAM3Lib.architecture import full_size
from MedicalSAM3Lib.model import MedicalSam3
from Testing.lib.checkpoint_worlds import small_model
from Testing.training.tiny_world import ARCHITECTURE, FakeTokenizer, tiny_config, tiny_model
from Training import transfer
from Training.config import load_config
from Training.distil import DistilConfig, Teacher
from Training.distributed import Ranks
from Training.dry_run import dry_run
from Training.made_up import made_up, made_up_values
from Training.memory import LiveBytes
from Training.optim import build_groups
from Training.plan import Plan, make_plan, say
from Training.sharding import gathered_at_once
from Training.step import freeze_idle, make_ready
from Training.train import main
from Training.warmstart import initialise

ALONE = Ranks(0, 1, 0, torch.device("cpu"))
RECIPE = Path(__file__).parents[2] / "Training" / "recipes" / "medical_sam3.yaml"


def test_live_bytes_count_what_is_there_and_the_most_that_was() -> None:
    live = LiveBytes()
    live.add([before := torch.zeros(1000)])
    with live:
        one = torch.zeros(250)
        part = one[:10] + 0  # 40 bytes of its own
        del one
        after = torch.zeros(25)
    assert live.now == 4000 + 40 + 100
    assert live.peak == 4000 + 1000 + 40
    assert len(before) + len(part) + len(after) == 1035


def with_tracker() -> MedicalSam3:
    model = small_model()
    initialise(model)
    return model


CLIPS = {"per_step": 1, "length": 3}
NO_INSTANCES = {"mask_focal": 0.0, "mask_dice": 0.0}
EVERY_OPTION = {
    "run": {"accumulate": 3, "recompute": True, "ema_decay": 0.9},
    "optim": {"low_rank": 2, "frozen": ["geometry"]},
    "losses": {"mask_loss_size": "logits"},
}


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (tiny_model, {}),
        (tiny_model, {"run": {"precision": "bf16"}, "losses": NO_INSTANCES}),
        (tiny_model, {"losses": {"point_sampling": 100}}),
        (tiny_model, {"distil": {"teacher": "beside"}}),
        (tiny_model, EVERY_OPTION),
        (with_tracker, {"data": {"clips": CLIPS, "batch_slices": 1}, "run": {"precision": "bf16"}}),
        (with_tracker, {"data": {"clips": CLIPS, "batch_slices": 1}, "losses": {"detector": False}}),
    ],
)
def test_predicted_memory_is_within_fifteen_per_cent_of_the_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[], MedicalSam3],
    settings: dict[str, Any],
) -> None:
    beside = SimpleNamespace(model=tiny_model(5), tokenizer=FakeTokenizer())
    monkeypatch.setattr("MedicalSAM3Lib.registry.load_model", lambda *_, **__: beside)
    settings = {**settings, "data": {"batch_slices": 3, "phrases_per_slice": 3, **settings.get("data", {})}}
    config = tiny_config(tmp_path / "run", **settings)
    plan, measured = dry_run(config, ALONE, make(), FakeTokenizer())  # type: ignore[arg-type]
    assert plan.bytes_peak == pytest.approx(measured.bytes_peak, rel=0.15)
    assert "prediction is" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert measured.slices == config.data.batch_slices + 3 * config.data.clips.per_step


def test_what_stays_on_a_rank_is_counted_by_hand() -> None:
    """Weights, moments, buckets, running mean and teacher; and the work of a step is that of all its parts."""
    model, who = tiny_model(), Teacher(tiny_model(5), DistilConfig(teacher="beside"))
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())

    def plan_of(ranks: int, who: Teacher | None = None, **run: Any) -> Plan:
        config = tiny_config("x", run=run, losses={"mask_loss_size": "logits"})
        make_ready(model, config, with_clips=False)
        return make_plan(config, model, FakeTokenizer(), ranks, ALONE.device, 0, who)  # type: ignore[arg-type]

    alone, taught = plan_of(1), plan_of(2, who, ema_decay=0.5)
    learning = alone.learning
    assert alone.bytes_fixed == weights + 8 * learning
    assert taught.bytes_fixed == weights + 12 * learning + 2 * weights
    assert taught.flops > alone.flops
    in_parts, sharded = plan_of(1, accumulate=2), plan_of(2, shard=True)
    assert in_parts.flops == pytest.approx(alone.flops, rel=0.05)
    assert in_parts.bytes_step < alone.bytes_step
    assert sharded.bytes_fixed == (weights + 12 * learning) // 2 + gathered_at_once(model)
    assert gathered_at_once(model) < weights


def test_fake_values_are_gone_after_the_walk() -> None:
    before = transfer.to_host
    with made_up_values(read=True):
        told = transfer.to_host(torch.zeros(2, 3), torch.zeros(0, 3))
    assert [part.shape for part in told] == [(2, 3), (0, 3)]
    assert told[0].min() > 0
    assert transfer.to_host is before


@pytest.mark.parametrize("recipe", sorted(path.name for path in RECIPE.parent.glob("*.yaml")))
def test_each_recipe_is_one_that_can_be_rehearsed(recipe: str) -> None:
    config = load_config(RECIPE.parent / recipe)
    batch = made_up(config, 64, 0, 0)
    clips = config.data.clips
    assert len(batch.images) == config.data.batch_slices + clips.per_step * clips.length
    pairs = config.data.batch_slices * config.data.phrases_per_slice
    assert len(batch.phrases) == pairs + clips.per_step * clips.length * clips.objects
    assert (batch.clips is None) == (clips.per_step == 0)
    if batch.clips is not None:
        assert batch.clips.shown.all()
        assert batch.clips.masks.shape[:2] == (clips.per_step * clips.objects, clips.length)


def test_the_papers_run_is_planned_at_its_full_size_without_its_weights() -> None:
    config = load_config(RECIPE)
    with torch.device("meta"):
        model = full_size(tracker=False).build()
    freeze_idle(model, config.losses)
    plan = make_plan(config, model, FakeTokenizer(), 4, torch.device("cpu"), 163_500)  # type: ignore[arg-type]
    # Weights, two moments and buckets of 0.84 billion parameters in fp32; activations of a slice beside it on 80 GB.
    assert plan.bytes_fixed == pytest.approx(16 * plan.learning, rel=0.02)
    assert 13e9 < plan.bytes_fixed < plan.bytes_peak < 80e9
    # At least 6 FLOP for each of the trunk's 0.45 billion weights and 5184 tokens.
    assert 6 * 0.45e9 * 5184 < plan.flops < 60 * 0.45e9 * 5184
    text = say(plan, build_groups(model, config.optim), model, 4)
    assert "epoch: 16,350 steps" in text
    assert "trunk.12" in text
    assert "frozen:" in text


def test_time_is_the_steps_at_the_measured_pace() -> None:
    model = tiny_model()
    plan = Plan(10, 5, 1 << 30, 1 << 29, 2 * 10**12, 1e12, 1200, 600)
    assert plan.utilisation(4.0) == 0.5
    assert plan.bytes_peak == 3 << 29
    text = say(plan, build_groups(model, tiny_config("x").optim), model, 2, seconds=6.0)
    assert "1.50 GiB predicted" in text
    assert "steps: 1,200 on 2 ranks, 2.0 h" in text
    assert "epoch: 600 steps, 60.0 min" in text
    assert "as measured" in text


def test_made_up_pictures_have_the_pairs_of_the_run() -> None:
    config = tiny_config("x", data={"batch_slices": 2, "phrases_per_slice": 4, "negatives": 0.5})
    batch = made_up(config, 56, 0, 0)
    assert batch.images.shape == (2, 3, 56, 56)
    assert batch.states.tolist() == [1, 1, 0, 0] * 2
    assert len(batch.masks) == 4
    assert not torch.equal(batch.images, made_up(config, 56, 0, 1).images)


def test_the_command_rehearses_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = {**ARCHITECTURE["text_config"], "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
    config = tiny_config(tmp_path / "run", model={"architecture": {**ARCHITECTURE, "text_config": text}})
    path = tmp_path / "recipe.yaml"
    path.write_text(config.model_dump_json())
    assert main(["--config", str(path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "GiB at the peak, the prediction is" in said
    assert "slices/s, utilisation" in said
    assert [one.name for one in tmp_path.iterdir()] == ["recipe.yaml"]
