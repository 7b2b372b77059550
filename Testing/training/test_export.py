"""A checkpoint becomes a model that the library loads strictly, in both layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import load_model_folder
from MedicalSAM3Lib.weights import load_checkpoint
from Testing.lib.checkpoint_worlds import SIDE, meta_tensors, small_model
from Testing.training.tiny_world import tiny_config
from Training.checkpoints import Checkpoints, Meta
from Training.config import OptimConfig
from Training.export import export_ours, main
from Training.optim import Group, Optimizer


@pytest.fixture
def model() -> MedicalSam3:
    return small_model()


@pytest.fixture
def run(tmp_path: Path, model: MedicalSam3) -> Path:
    """A run with one checkpoint, whose running mean is half of the weights."""
    config = tiny_config(tmp_path, data={"preprocess": {"image_size": SIDE}}).model_dump(mode="json")
    optimizer = Optimizer([Group("decoder", 1e-3, 0.0, list(model.parameters())[:1])], OptimConfig(), 10)
    store = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
    mean = {name: tensor / 2 for name, tensor in model.state_dict().items()}
    meta = Meta(7, 0.5, 0, 1, "0" * 64, config, {"torch": "2"}, "abc")
    store.save(model, optimizer, meta, is_best=True, is_main=True, mean=mean)
    store.finish()
    return tmp_path / "run"


def assert_half(got: MedicalSam3, model: MedicalSam3) -> None:
    expected = model.state_dict()
    assert got.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name] / 2) for name, value in got.state_dict().items())


def test_our_layout_is_a_model_folder(run: Path, model: MedicalSam3, capsys: pytest.CaptureFixture[str]) -> None:
    out = run.parent / "model"
    assert main([str(run), "--out", str(out), "--dtype", "float32"]) == 0
    assert "step_00000007, ema.safetensors" in capsys.readouterr().out
    loaded = load_model_folder(out)
    assert_half(loaded.model, model)
    assert "not examined" in loaded.notice
    card = loaded.card.read_text()
    assert "after 7 steps" in card
    assert "Dice 0.5000" in card
    assert "code: abc" in card


def test_metas_layout_is_loaded_strictly(run: Path, model: MedicalSam3) -> None:
    base, out = run.parent / "sam3.pt", run.parent / "tuned.pt"
    torch.save({"model": meta_tensors(model)}, base)
    checkpoint = run / "checkpoints" / "step_00000007"
    assert main([str(checkpoint), "--layout", "meta", "--base", str(base), "--out", str(out)]) == 0
    from MedicalSAM3Lib.architecture import architecture_of

    assert_half(load_checkpoint(out, architecture=architecture_of(model)), model)


def test_what_cannot_be_exported_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--layout", "meta", "--out", str(tmp_path / "x.pt")]) == 2
    assert "--base" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "got neither" in capsys.readouterr().err
    weights = run / "checkpoints" / "step_00000007" / "ema.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert main([str(run), "--out", str(tmp_path / "x")]) == 3
    assert "ema.safetensors of 'step_00000007' was changed" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_place_that_cannot_be_written_to_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="make room or choose another place"):
        export_ours(run / "checkpoints" / "step_00000007", tmp_path / "file" / "model")
