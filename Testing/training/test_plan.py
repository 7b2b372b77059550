"""The plan of a run agrees with what its steps take, and a rehearsal writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from MedicalSAM3Lib.architecture import full_size
from MedicalSAM3Lib.errors import SettingsError
from Testing.training.tiny_world import ARCHITECTURE, FakeTokenizer, tiny_config, tiny_model
from Training.config import load_config
from Training.distributed import Ranks
from Training.dry_run import dry_run, made_up
from Training.memory import LiveBytes
from Training.optim import build_groups
from Training.plan import Plan, make_plan, say
from Training.step import freeze_idle
from Training.train import main

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("masks", [{}, {"mask_focal": 0.0, "mask_dice": 0.0}])
def test_predicted_memory_is_within_fifteen_per_cent_of_the_measured(
    tmp_path: Path, precision: str, masks: dict[str, Any]
) -> None:
    data = {"batch_slices": 3, "phrases_per_slice": 3}
    config = tiny_config(tmp_path / "run", run={"precision": precision}, data=data, losses=masks)
    plan, measured = dry_run(config, ALONE, tiny_model(), FakeTokenizer())  # type: ignore[arg-type]
    assert plan.bytes_peak == pytest.approx(measured.bytes_peak, rel=0.15)
    assert not (tmp_path / "run").exists()


def test_the_papers_run_is_planned_at_its_full_size_without_its_weights() -> None:
    config = load_config(RECIPE)
    with torch.device("meta"):
        model = full_size(tracker=False).build()
    freeze_idle(model, config.losses)
    plan = make_plan(config, model, 4, torch.device("cpu"), 163_500)
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


def test_clips_are_not_rehearsed() -> None:
    config = tiny_config("x", data={"clips": {"per_step": 1}})
    with pytest.raises(SettingsError, match="without clips"):
        dry_run(config, ALONE, tiny_model(), FakeTokenizer())  # type: ignore[arg-type]


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
