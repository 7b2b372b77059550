"""What is saved comes back, a kill spoils nothing, and another run's checkpoint is refused by name."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from MedicalSAM3Lib.errors import OutputError, SettingsError, WeightsError
from Training import checkpoints as module
from Training.checkpoints import Checkpoints, Meta, check_same_run, flatten, read_meta, restore, weights_file
from Training.config import OptimConfig
from Training.distributed import Ranks
from Training.optim import Group, Optimizer

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def small_run(seed: int = 0) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = Optimizer([Group("decoder", 1e-2, 0.1, list(model.parameters()))], OptimConfig(), 10)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step(0)
    return model, optimizer


def meta(step: int = 1, **changes: Any) -> Meta:
    config = {"optim": {"lr": 1e-3, "module_lr": {}}, "run": {"out": "here", "steps": 10, "keep": 2}}
    values = Meta(step, None, 0, 1, "abc", config, {"torch": "2"})
    return dataclasses.replace(values, **changes)


def save(store: Checkpoints, step: int, *, is_best: bool = False) -> None:
    store.save(*small_run(), meta(step), is_best=is_best, is_main=True)
    store.finish()


def test_weights_optimiser_and_random_numbers_come_back(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / "checkpoints", keep=2)
    model, optimizer = small_run()
    optimizer.skipped = 3
    store.save(model, optimizer, meta(7, best_score=0.5, skipped=3), is_best=False, is_main=True)
    store.finish()
    expected = torch.rand(4)
    other, others = small_run(seed=1)
    found = restore(store.find("latest") or tmp_path, other, others, ALONE)
    assert found == meta(7, best_score=0.5, skipped=3)
    assert torch.equal(torch.rand(4), expected)
    assert others.skipped == 3
    assert all(torch.equal(other.state_dict()[key], value) for key, value in model.state_dict().items())
    before, after = optimizer.adamw.state_dict()["state"], others.adamw.state_dict()["state"]
    assert all(torch.equal(after[i][key], before[i][key]) for i in before for key in before[i])


def test_another_number_of_ranks_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1)
    save(store, 1)
    model, optimizer = small_run()
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    restore(store.find("latest") or tmp_path, model, optimizer, Ranks(0, 2, 0, torch.device("cpu")))
    assert torch.equal(torch.rand(2), expected)


def test_the_latest_stay_and_the_best_besides(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=2)
    assert store.find("latest") is None
    for step in range(1, 6):
        save(store, step, is_best=step == 2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"latest", "best", "step_00000002", "step_00000004", "step_00000005"}
    assert store.find("best") == tmp_path / "step_00000002"
    assert store.find("latest") == tmp_path / "step_00000005"


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "checkpoints", keep=1).save(*small_run(), meta(), is_best=True, is_main=False)
    assert not list(tmp_path.iterdir())


def test_a_save_that_is_cut_off_leaves_the_latest_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Checkpoints(tmp_path, keep=2)
    save(store, 1)
    with monkeypatch.context() as patch:
        patch.setattr(module.torch, "save", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(28))))
        with pytest.raises(OutputError, match="step_00000002, but no space left on device; make room"):
            save(store, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step_00000001"}
    restore(tmp_path / "step_00000001", *small_run(), ALONE)
    save(store, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step_00000001", "step_00000003"}


def test_a_save_that_failed_is_told_at_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Checkpoints(tmp_path, keep=2)
    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", lambda *_, **__: (_ for _ in ()).throw(SafetensorError("I/O error")))
        store.save(*small_run(), meta(1), is_best=False, is_main=True)
        with pytest.raises(OutputError, match="step_00000001, but the writer failed"):
            store.save(*small_run(), meta(2), is_best=False, is_main=True)
    assert store.find("latest") is None


def test_what_is_saved_is_what_was_there_when_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, write = threading.Event(), module._write_files
    monkeypatch.setattr(module, "_write_files", lambda *a: (go_on.wait(30), write(*a)))
    store, (model, optimizer) = Checkpoints(tmp_path, keep=1), small_run()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = [state["exp_avg"].clone() for state in optimizer.adamw.state.values()]
    store.save(model, optimizer, meta(1), is_best=False, is_main=True)
    assert store.find("latest") is None
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step(1)
    go_on.set()
    store.finish()
    other, others = small_run(seed=1)
    restore(tmp_path / "step_00000001", other, others, ALONE)
    assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(s["exp_avg"], m) for s, m in zip(others.adamw.state.values(), moments, strict=True))
    assert not torch.equal(model.weight, before["weight"])


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "meta.json"])
def test_a_bit_that_changed_is_noticed(tmp_path: Path, name: str) -> None:
    store = Checkpoints(tmp_path, keep=1)
    save(store, 1)
    path = tmp_path / "step_00000001" / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        restore(path.parent, *small_run(), ALONE)


def test_the_running_mean_is_what_is_used_where_there_is_one(tmp_path: Path) -> None:
    store, (model, optimizer) = Checkpoints(tmp_path, keep=2), small_run()
    save(store, 1)
    assert weights_file(tmp_path / "step_00000001").name == "model.safetensors"
    mean = {name: tensor * 0 for name, tensor in model.state_dict().items()}
    store.save(model, optimizer, meta(2), is_best=False, is_main=True, mean=mean)
    store.finish()
    assert not load_file(weights_file(tmp_path / "step_00000002"))["weight"].any()
    restore(tmp_path / "step_00000002", *small_run(), ALONE)


def test_a_checkpoint_that_nothing_points_at_is_written_again(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=2)
    save(store, 1)
    (tmp_path / "latest").unlink()
    save(store, 1)
    assert store.find("latest") == tmp_path / "step_00000001"


def test_a_folder_without_meta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"without a readable meta\.json"):
        read_meta(tmp_path)
    (tmp_path / "meta.json").write_text('{"step": 1}')
    with pytest.raises(WeightsError, match=r"without a readable meta\.json"):
        read_meta(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
@pytest.mark.parametrize("content", [b"", b"cut off", pickle.dumps(Path("a pickle of something else"))])
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    store = Checkpoints(tmp_path, keep=1)
    save(store, 1)
    (tmp_path / "step_00000001" / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        restore(tmp_path / "step_00000001", *small_run(), ALONE)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1)
    save(store, 1)
    with pytest.raises(WeightsError, match=r"0\.weight"):
        restore(tmp_path / "step_00000001", nn.Sequential(nn.Linear(3, 2)), small_run()[1], ALONE)


def changed(**sections: dict[str, Any]) -> Meta:
    config = meta().config
    return meta(config={name: {**values, **sections.get(name, {})} for name, values in config.items()})


def test_the_same_settings_go_on() -> None:
    check_same_run(meta(1), meta(0), ())
    check_same_run(meta(), changed(run={"out": "there", "keep": 9}), ())


@pytest.mark.parametrize(
    ("current", "key", "difference"),
    [
        (changed(optim={"lr": 2e-3}), "optim.lr", "0.001 -> 0.002"),
        (changed(optim={"module_lr": {"trunk": 1e-5}}), "optim.module_lr.trunk", "None -> 1e-05"),
        (changed(run={"steps": 20}), "run.steps", "10 -> 20"),
        (meta(manifest_sha256="def"), "manifest", "'abc' -> 'def'"),
        (meta(world_size=4), "world_size", "1 -> 4"),
    ],
)
def test_each_difference_is_named_and_can_be_allowed(current: Meta, key: str, difference: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_same_run(meta(), current, ())
    assert f"{key} {difference}" in str(caught.value)
    assert "run.allow_changed=[" in str(caught.value)
    check_same_run(meta(), current, (key, "optim.module_lr"))


def test_nested_settings_flatten_to_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}
