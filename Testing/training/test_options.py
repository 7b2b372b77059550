"""Options of a run that must not change what it computes, and those that must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from MedicalSAM3Lib.errors import SettingsError
from Testing.training import tiny_run
from Testing.training.tiny_world import FakeTokenizer, SquareSource, tiny_config, tiny_model
from Training.config import make_config
from Training.ema import RunningMean
from Training.low_rank import merged
from Training.memory import LiveBytes
from Training.recompute import recompute_layers
from Training.step import TrainStep, encode_phrases, freeze_idle, make_ready


def weights(out: Path, name: str = "model.safetensors") -> dict[str, Tensor]:
    folder = out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip()
    return load_file(folder / name)


def train(out: Path, *overrides: str) -> list[dict[str, Any]]:
    assert tiny_run.main(str(out), ["exact=true", "run.steps=3", *overrides]) == 0
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps of four slices."""
    out = tmp_path_factory.mktemp("plain")
    train(out, "data.batch_slices=4")
    return out


def test_a_step_in_parts_is_the_same_step(tmp_path: Path, plain: Path) -> None:
    lines = train(tmp_path, "data.batch_slices=4", "run.accumulate=4")
    whole = [json.loads(line) for line in (plain / "log.jsonl").read_text().splitlines()]
    for line, other in zip(lines, whole, strict=True):
        assert line["terms"] == pytest.approx(other["terms"], rel=1e-10, abs=1e-12)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-10)
    expected = weights(plain)
    for name, tensor in weights(tmp_path).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-8, atol=1e-10)


def test_parts_of_a_batch_have_all_of_it_once() -> None:
    batch = SquareSource(batch_slices=4).batch(0)
    parts = batch.split(2)
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert sum((part.phrases for part in parts), ()) == batch.phrases
    assert torch.equal(torch.cat([part.masks for part in parts]), batch.masks)
    assert [part.pair_slice.tolist() for part in parts] == [[0, 0, 0, 1, 1, 1]] * 2
    assert [part.object_pair.tolist() for part in parts] == [[0, 3]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": {"accumulate": 3}}, "divisor of data.batch_slices"),
        ({"run": {"accumulate": 2}, "data": {"clips": {"per_step": 1}}}, "beside data.clips"),
        ({"run": {"ema_decay": 1.0}}, "ema_decay"),
        ({"optim": {"frozen": ["nose"]}}, "frozen"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, dict[str, Any]], message: str) -> None:
    values = tiny_config("x").model_dump(mode="json")
    for section, more in changes.items():
        values[section] |= more
    with pytest.raises(SettingsError, match=message):
        make_config(values)


def test_recomputing_layers_takes_less_memory_and_gives_the_same_gradients() -> None:
    gradients, peaks = [], []
    for recomputed in (False, True):
        model = tiny_model()
        config = tiny_config("x", run={"recompute": recomputed})
        make_ready(model, config, with_clips=False)
        batch = SquareSource(batch_slices=8).batch(0)
        phrases = encode_phrases(batch.phrases, FakeTokenizer())  # type: ignore[arg-type]
        torch.manual_seed(0)
        with LiveBytes() as live:
            terms = TrainStep(model.train(), config.losses, autocast=False)(batch, phrases)
            forward = live.now
            torch.stack(list(terms.values())).sum().backward()
        peaks.append(forward)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)
    # Most of what so small a network holds is its masks; at full size the trunk is most.
    assert peaks[1] < 0.95 * peaks[0]


def test_recomputing_reaches_every_layer_and_changes_no_name() -> None:
    model = tiny_model()
    names = list(model.state_dict())
    assert recompute_layers(model) == 2 + 1 + 1
    assert list(model.state_dict()) == names


def test_frozen_modules_stay_as_they_are(tmp_path: Path) -> None:
    train(tmp_path, "optim.frozen=[text,trunk]")
    before, after = tiny_model().double().state_dict(), weights(tmp_path)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved
    assert not [name for name in moved if "text_encoder" in name or "text_projection" in name or ".backbone." in name]


def test_nothing_left_to_learn_is_refused() -> None:
    everything = ["trunk", "neck", "text", "geometry", "encoder", "decoder", "masks", "scoring"]
    with pytest.raises(SettingsError, match="left to learn"):
        make_ready(tiny_model(), tiny_config("x", optim={"frozen": everything}), with_clips=False)


def test_the_running_mean_is_the_one_that_was_computed_by_hand() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    mean = RunningMean(layer, 0.75)
    layer.weight.data.fill_(5.0)
    mean.update(layer)
    assert mean.tensors["weight"].item() == 2.0
    with mean.applied(layer):
        assert layer.weight.item() == 2.0
    assert layer.weight.item() == 5.0
    mean.load({"weight": torch.tensor([[7.0]])})
    assert mean.tensors["weight"].item() == 7.0


def test_a_running_mean_goes_on_bit_for_bit(tmp_path: Path) -> None:
    common = ("run.ema_decay=0.5", "run.save_every=1", "run.validate_every=2")
    train(tmp_path / "whole", *common)
    train(tmp_path / "parts", *common, "run.steps=2")
    train(tmp_path / "parts", *common, "run.allow_changed=[run.steps]")
    whole, parts = (weights(tmp_path / name, "ema.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
    final = weights(tmp_path / "whole")
    assert any(not torch.equal(final[name], tensor) for name, tensor in whole.items())


ADAPTERS = ("optim.low_rank=2", "optim.low_rank_modules=[trunk,text,decoder]")


def test_adapters_learn_alone_and_are_added_to_the_weights_for_good(tmp_path: Path) -> None:
    train(tmp_path, *ADAPTERS)
    before, saved = tiny_model().double().state_dict(), weights(tmp_path)
    after = merged(saved)
    assert after.keys() == before.keys()
    adapted = {name.partition(".parametrizations")[0] + ".weight" for name in saved if ".parametrizations" in name}
    frozen = [
        name for name in before if name.startswith(inside := "detector_model.detr_decoder") and name not in adapted
    ]
    assert all(torch.equal(saved[f"{name[:-7]}.parametrizations.weight.original"], before[name]) for name in adapted)
    assert frozen
    assert all(torch.equal(after[name], before[name]) for name in frozen)
    moved = {name for name in adapted if not torch.equal(after[name], before[name])}
    assert any(name.startswith(inside) for name in moved)
    change = after[next(iter(moved))] - before[next(iter(moved))]
    assert torch.linalg.matrix_rank(change, rtol=1e-9) <= 2


def test_adapters_start_as_none_and_their_sum_is_the_same_network() -> None:
    config = tiny_config("x", optim={"low_rank": 2})
    model, other = tiny_model().eval(), tiny_model().eval()
    batch = SquareSource(batch_slices=1).batch(0)
    expected = model.encode_trunk(batch.images)
    make_ready(model, config, with_clips=False)
    assert torch.equal(model.encode_trunk(batch.images), expected)
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.3)
    other.load_state_dict(merged(model.state_dict()), strict=True)
    assert not torch.allclose(other.encode_trunk(batch.images), expected, atol=1e-3)
    torch.testing.assert_close(other.encode_trunk(batch.images), model.encode_trunk(batch.images))


def test_adapters_go_on_bit_for_bit(tmp_path: Path) -> None:
    train(tmp_path / "whole", *ADAPTERS)
    train(tmp_path / "parts", *ADAPTERS, "run.steps=2")
    train(tmp_path / "parts", *ADAPTERS, "run.allow_changed=[run.steps]")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())


def test_adapters_without_a_place_are_refused() -> None:
    config = tiny_config("x", optim={"low_rank": 2, "low_rank_modules": ["tracker"]})
    with pytest.raises(SettingsError, match="linear layers, got none"):
        make_ready(tiny_model(), config, with_clips=False)


def test_an_unknown_label_gives_exactly_no_gradient() -> None:
    def gradient(with_unknown: bool) -> dict[str, Tensor]:
        model, config = tiny_model().eval(), tiny_config("x")
        freeze_idle(model, config.losses)
        batch = SquareSource(batch_slices=1).batch(0)
        if not with_unknown:
            batch.states.fill_(-1)
        phrases = encode_phrases(batch.phrases, FakeTokenizer())  # type: ignore[arg-type]
        torch.stack(list(TrainStep(model, config.losses, autocast=False)(batch, phrases).values())).sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    assert all(not value.any() for value in gradient(with_unknown=False).values())
    assert any(value.any() for value in gradient(with_unknown=True).values())
