"""Sharded on two ranks as replicated on two: the same losses, the same checkpoint, and it resumes either way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model_folder import load_model_folder
from Testing.training import tiny_run
from Testing.training.test_train import assert_same_run, steps_of, two_processes, weights
from Testing.training.tiny_world import SIDE, tiny_config, tiny_model
from Training.distributed import Ranks
from Training.export import main as export
from Training.sharding import divided_like, divided_weights, gathered, shard
from Training.step import TrainStep

SHARD = "run.shard=true"


def finish(out: Path, *overrides: str) -> None:
    assert [process.wait(timeout=240) for process in two_processes(out, *overrides)] == [0, 0]


def moments(out: Path) -> dict[int, dict[str, torch.Tensor]]:
    folder = out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip()
    state: dict[int, dict[str, torch.Tensor]] = torch.load(folder / "state.pt", weights_only=True)["adamw"]["state"]
    return state


@pytest.mark.slow
def test_a_sharded_run_in_parts_is_the_replicated_one_also_in_its_checkpoints(tmp_path: Path) -> None:
    """Stopped and resumed in between; resuming it replicated is loading a checkpoint like any other."""
    one, other = tmp_path / "replicated", tmp_path / "sharded"
    common = ("exact=true", "run.validate_every=3")
    finish(one, *common)
    finish(other, *common, SHARD, "run.steps=4", "run.accumulate=2", "run.recompute=true")
    finish(other, *common, SHARD, "run.allow_changed=[run.steps,run.accumulate,run.recompute]")
    first = [line for line in steps_of(one) if "terms" in line]
    second = [line for line in steps_of(other) if "terms" in line]
    assert len(first) == len(second) == 6
    for line, same in zip(first, second, strict=True):
        assert line["terms"] == pytest.approx(same["terms"], rel=1e-7, abs=1e-9)
        assert line["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-7)
    assert steps_of(one)[-1]["validation"] == steps_of(other)[-1]["validation"]
    here, there = weights(one), weights(other)
    assert here.keys() == there.keys()
    for name, value in here.items():
        torch.testing.assert_close(value, there[name], rtol=1e-6, atol=1e-8)
    mine, same_moments = moments(one), moments(other)
    assert mine.keys() == same_moments.keys()
    for number, values in mine.items():
        assert {type(value) for value in same_moments[number].values()} == {torch.Tensor}
        torch.testing.assert_close(values, same_moments[number], rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_a_sharded_run_goes_on_bit_for_bit_and_with_other_ranks_to_rounding_and_is_exported(tmp_path: Path) -> None:
    whole, parts, alone = tmp_path / "whole", tmp_path / "parts", tmp_path / "alone"
    common = ("exact=true", "run.steps=3", "run.save_every=1", "run.keep=3", f"data.preprocess.image_size={SIDE}")
    finish(whole, *common, SHARD)
    for out in (parts, alone):  # back to the second step, as the message about a damaged checkpoint says
        shutil.copytree(whole, out)
        (out / "checkpoints" / "latest").write_text("step_00000002\n")
        shutil.rmtree(out / "checkpoints" / "step_00000003")
    finish(parts, *common, SHARD)
    assert_same_run(whole, parts)
    mine, same = moments(whole), moments(parts)
    assert all(torch.equal(mine[n][name], value) for n, values in same.items() for name, value in values.items())
    # One rank with the slices of both: a checkpoint of two ranks that shared the weights is one like any other.
    changed = "run.allow_changed=[run.shard,data.batch_slices,world_size]"
    assert tiny_run.main(str(alone), [*common, "data.batch_slices=4", changed]) == 0
    expected = weights(whole)
    for name, value in weights(alone).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-8)
    assert export([str(whole), "--out", str(tmp_path / "model"), "--dtype", "float32"]) == 0
    exported = load_model_folder(tmp_path / "model").model.state_dict()
    assert exported.keys() == expected.keys()
    assert all(torch.equal(value, expected[name].float()) for name, value in exported.items())


def test_one_rank_alone_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run={"shard": True})
    step = TrainStep(tiny_model(), config.losses, autocast=False)
    with pytest.raises(SettingsError, match=r"run\.shard: expected several ranks"):
        shard(step, config, Ranks(0, 1, 0, torch.device("cpu")))


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"run": {"ema_decay": 0.9}}, r"run\.ema_decay"), ({"optim": {"low_rank": 2}}, r"optim\.low_rank")],
)
def test_what_needs_whole_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
) -> None:
    monkeypatch.setattr("Training.sharding.distributed.is_initialized", lambda: True)
    changes = {**changes, "run": {"shard": True, **changes.get("run", {})}}
    config = tiny_config(tmp_path, **changes)
    step = TrainStep(tiny_model(), config.losses, autocast=False)
    with pytest.raises(SettingsError, match=f"expected no {named} beside it"):
        shard(step, config, Ranks(0, 2, 0, torch.device("cpu")))


def test_what_is_not_divided_stays_as_it_is() -> None:
    model = tiny_model()
    state = model.state_dict()
    same = divided_weights({**state, "extra": torch.ones(1)}, model)
    assert all(same[name] is value for name, value in state.items())
    assert "extra" in same
    parameter = next(model.parameters())
    value = torch.zeros_like(parameter)
    assert divided_like(value, parameter) is value
    with gathered(model):
        assert next(model.parameters()) is parameter
