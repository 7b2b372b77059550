"""A model folder's presence is fitted in its place, on the slices of the split val"""

from __future__ import annotations

from pathlib import Path

import pytest

from MedicalSAM3Lib.model_folder import load_model_folder
from Testing.lib.small_world import save_small_model
from Testing.training.data_world import labelled, write_world
from Training.calibrate import ask_presence, main
from Training.config import DataConfig
from Training.data import TrainingData


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_small_model(tmp_path / "small")


def test_a_folder_is_calibrated_and_keeps_its_weights(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    volumes = [labelled(splits=["val"] * 12), labelled("mr", splits=["val"] * 12, modality="MR")]
    world, before = write_world(tmp_path, volumes), load_model_folder(folder)
    assert main(["--model", str(folder), "--manifest", str(world)]) == 0
    told = capsys.readouterr().out
    assert "before: CT calibration error" in told
    assert "96 pairs, MR calibration error" in told
    after = load_model_folder(folder)  # which verifies the sums
    assert after.weights_hash == before.weights_hash
    assert sorted(after.presence.model_extra or {}) == ["CT", "MR"]
    assert after.presence.mode == before.presence.mode
    assert after.presence.volume.run_mm > 0


def test_each_pair_has_the_modality_of_its_slice(tmp_path: Path, folder: Path) -> None:
    volumes = [labelled("mr", splits=["val"] * 3 + ["train"] * 9, modality="MR"), labelled(splits=["val"] * 12)]
    model = load_model_folder(folder)
    config = DataConfig(manifest=str(write_world(tmp_path, volumes)), preprocess=model.preprocess, batch_slices=2)
    asked = ask_presence(model.model, model.tokenizer, TrainingData.load(config))
    assert asked.modality.tolist() == ["MR"] * 3 * 8 + ["CT"] * 12 * 8


def test_without_validation_slices_nothing_is_written(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, before = write_world(tmp_path, [labelled()]), (folder / "presence.json").read_bytes()
    assert main(["--model", str(folder), "--manifest", str(world)]) == 2
    assert "split 'val'" in capsys.readouterr().err
    assert (folder / "presence.json").read_bytes() == before
