"""The loop: killed and resumed bit for bit, stopped in order, on two ranks as on one."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from safetensors.torch import load_file
from torch import Tensor

from MedicalSAM3Lib.errors import RunError, SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import sha256_of
from Testing.training import tiny_run
from Testing.training.tiny_world import (
    ARCHITECTURE,
    SIDE,
    FakeTokenizer,
    SquareSource,
    tiny_config,
    tiny_data,
    tiny_model,
)
from Training import loop as module
from Training.collate import Batch
from Training.config import ModelConfig
from Training.distributed import Ranks
from Training.loop import Data
from Training.loss_config import LossConfig
from Training.manifest import ManifestRow, write_manifest
from Training.network import build_network
from Training.optim import check_gradients
from Training.step import TrainStep, encode_phrases, freeze_idle
from Training.train import main, train

ROOT = Path(__file__).parents[2]
ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums come out in one order, and other work on the machine does not stall the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    out: Path, *, data: Data | None = None, resume: bool = False, model: MedicalSam3 | None = None, **settings: Any
) -> MedicalSam3:
    model = model or tiny_model()
    train(tiny_config(out, **settings), ALONE, model, FakeTokenizer(), data or tiny_data(), resume=resume)  # type: ignore[arg-type]
    return model


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The lines of the log that depend on nothing but the numbers."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if not k.endswith(("seconds", "per_second", "utilisation"))} for line in lines
    ]


def weights(out: Path) -> dict[str, Tensor]:
    folder = out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip()
    return load_file(folder / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert steps_of(one) == steps_of(other)
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def tiny_process(out: Path, *overrides: str, pipe: bool = False, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", "-m", "Testing.training.tiny_run", str(out), *overrides]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE if pipe else None)


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = tiny_process(killed, "pause=0.3", "run.precision=bf16")
    # After the third of six steps; checkpoints are of the second and the fourth, so one is computed again.
    wait_for_line(killed, 3, [process])
    process.kill()
    process.wait()
    assert len(steps_of(killed)) < 6
    run(killed, resume=True, run={"precision": "bf16"})
    run(whole, run={"precision": "bf16"})
    assert_same_run(killed, whole)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_at_the_next_step_and_ends(tmp_path: Path, asked: signal.Signals) -> None:
    class Terminated(SquareSource):
        def batch(self, step: int) -> Batch:
            if step == 3:
                signal.raise_signal(asked)
            return super().batch(step)

    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    before = signal.getsignal(asked)
    data = Data(Terminated(), tiny_data().val, "0" * 64)
    config = tiny_config(stopped, run={"save_every": 100})
    finished = train(config, ALONE, tiny_model(), FakeTokenizer(), data, resume=False)  # type: ignore[arg-type]
    assert not finished
    assert signal.getsignal(asked) is before
    assert (stopped / "checkpoints" / "latest").read_text() == "step_00000004\n"
    assert len(steps_of(stopped)) == 4
    run(stopped, resume=True)
    run(whole)
    assert_same_run(stopped, whole)


def two_processes(out: Path, *overrides: str, **settings: Any) -> list[subprocess.Popen[bytes]]:
    """The same run on two ranks that talk by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    return [tiny_process(out, *overrides, **meeting, RANK=r, LOCAL_RANK=r, **settings) for r in "01"]


def wait_for_line(out: Path, line: int, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 240
    while not (out / "log.jsonl").is_file() or len((out / "log.jsonl").read_text().splitlines()) < line:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_ranks_killed_at_a_random_step_go_on_bit_for_bit(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    common = ("run.steps=8", "run.save_every=3")
    processes = two_processes(killed, *common, "pause=0.1")
    wait_for_line(killed, int(np.random.default_rng().integers(1, 8)), processes)
    for process in processes:
        process.kill()
        process.wait()
    for out in (killed, whole):
        assert [process.wait(timeout=240) for process in two_processes(out, *common)] == [0, 0]
    assert len(steps_of(killed)) == 8
    assert_same_run(killed, whole)


def test_a_rank_that_hangs_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    processes = two_processes(tmp_path, "hang=[2,1]", "run.timeout_minutes=0.3", pipe=True)
    try:
        _, said = processes[0].communicate(timeout=240)
    finally:
        processes[1].kill()
        processes[1].communicate()
    assert processes[0].returncode == 1
    assert b"Expected all ranks at step 2, got rank 1 missing" in said
    assert b"--resume auto" in said
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000002\n"


def test_two_ranks_are_one_rank_with_twice_the_batch(tmp_path: Path) -> None:
    # Slice 3 is the second rank's: both ranks must skip that step, as one rank does.
    common = ("exact=true", "run.validate_every=3", "broken=[1,3]")
    processes = two_processes(tmp_path / "two", *common)
    tiny_run.main(str(tmp_path / "one"), [*common, "data.batch_slices=4"])
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    one, two = steps_of(tmp_path / "one"), steps_of(tmp_path / "two")
    assert len(one) == len(two) == 8
    for line, other in zip(one, two, strict=True):
        assert line.get("validation") == other.get("validation")
        assert line.get("skipped") == other.get("skipped")
        if line.get("loss") is not None:
            assert line["terms"] == pytest.approx(other["terms"], rel=1e-10, abs=1e-12)
            assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-10)
    assert [line["step"] for line in two if "terms" in line and line["loss"] is None] == [1]
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-8, atol=1e-10)


def test_a_network_learns_where_the_squares_are(tmp_path: Path) -> None:
    run(tmp_path, run={"steps": 30, "save_every": 100}, optim={"lr": 1e-2, "clip": 10.0})
    dice = [line["terms"]["semantic_dice"] for line in steps_of(tmp_path)]
    assert sum(dice[-5:]) < 0.65 * sum(dice[:5])


def test_the_loss_is_the_sum_of_its_terms(tmp_path: Path) -> None:
    run(tmp_path, run={"steps": 2})
    for line in steps_of(tmp_path):
        assert line["loss"] == math.fsum(line["terms"].values())
        assert line["pairs"] == 6
        assert line["lr"]["decoder"] > 0


def test_epochs_count_passes_over_the_slices(tmp_path: Path) -> None:
    data = Data(SquareSource(length=2), tiny_data().val, "0" * 64)
    run(tmp_path, data=data, run={"steps": None, "epochs": 1.5})
    assert len(steps_of(tmp_path)) == 3


def test_a_used_folder_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, run={"steps": 1})
    with pytest.raises(SettingsError, match="--resume auto"):
        run(tmp_path, run={"steps": 1})


def test_other_settings_are_refused_unless_allowed(tmp_path: Path) -> None:
    run(tmp_path, run={"steps": 2})
    with pytest.raises(SettingsError, match=r"run\.steps 2 -> 4"):
        run(tmp_path, resume=True, run={"steps": 4})
    run(tmp_path, resume=True, run={"steps": 4, "allow_changed": ["run.steps"]})
    assert len(steps_of(tmp_path)) == 4


def test_the_best_checkpoint_is_the_one_of_the_best_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: Iterator[float] = iter([0.2, 0.7, math.nan, 0.7, 0.5])
    monkeypatch.setattr(module, "validate", lambda *_: {"dice": next(scores)})
    run(tmp_path, run={"steps": 5, "validate_every": 1, "keep": 1, "save_every": 100})
    assert (tmp_path / "checkpoints" / "best").read_text() == "step_00000002\n"
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step_00000005\n"
    assert [line["validation"]["dice"] for line in steps_of(tmp_path) if "validation" in line] == [
        0.2,
        0.7,
        None,
        0.7,
        0.5,
    ]


def test_a_checkpoint_of_a_run_is_a_model_to_start_from(tmp_path: Path) -> None:
    run(tmp_path, run={"steps": 1})
    start = ModelConfig(start_from=str(tmp_path / "checkpoints" / "step_00000001"))
    model, tokenizer = build_network(start, seed=0)
    expected = weights(tmp_path)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert tokenizer.encode(["liver"])[0].shape == (1, 32)


def test_a_warm_start_happens_once_and_stays_in_the_log(tmp_path: Path) -> None:
    calls = []

    def warm(model: MedicalSam3, log: Any) -> None:
        calls.append(model)
        for step in range(9):
            log(step, 1.0)

    data = Data(tiny_data().train, tiny_data().val, "0" * 64, warm)
    run(tmp_path, data=data, run={"steps": 2})
    run(tmp_path, data=data, resume=True, run={"steps": 4, "allow_changed": ["run.steps"]})
    assert len(calls) == 1
    assert sum("warm_start" in line for line in steps_of(tmp_path)) == 9


def test_pictures_that_are_not_numbers_are_skipped_until_the_run_gives_up(tmp_path: Path) -> None:
    class Broken(SquareSource):
        def batch(self, step: int) -> Batch:
            batch = super().batch(step)
            if step >= 1:
                batch.images.fill_(math.nan)
            return batch

    data = Data(Broken(), tiny_data().val, "0" * 64)
    with pytest.raises(RunError, match="at most 2 losses or gradients that are not finite, got 3 by step 3") as caught:
        run(tmp_path, data=data, optim={"max_skipped": 2, "lr": 1e-3, "clip": 1.0})
    assert "bad_batch_step_3_rank_0.pt" in str(caught.value)
    kept = torch.load(tmp_path / "bad_batch_step_3_rank_0.pt", weights_only=True)
    assert kept["images"].isnan().all()
    assert kept["phrases"] == ["square", "disc", "cross"] * 2
    assert any(math.isnan(term) for term in kept["terms"].values())
    lines = steps_of(tmp_path)
    assert [line["skipped"] for line in lines] == [0, 1, 2]
    assert lines[1]["loss"] is None


def test_a_parameter_that_no_loss_reaches_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.detector_model.detr_decoder.register_parameter("idle", torch.nn.Parameter(torch.zeros(1)))
    with pytest.raises(RunError, match=r"none for 1, first detector_model\.detr_decoder\.idle"):
        run(tmp_path, model=model)


def test_the_forward_is_compiled_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[TrainStep] = []
    monkeypatch.setattr(TrainStep, "compile", lambda step: compiled.append(step))
    run(tmp_path / "plain", run={"steps": 1})
    assert not compiled
    run(tmp_path / "compiled", run={"steps": 1, "compile": True})
    assert len(compiled) == 1


MASK_LOSSES = {"mask_focal": 200.0, "mask_dice": 10.0}


@pytest.mark.parametrize(
    "losses", [{}, MASK_LOSSES, {"one_to_many": False}, {"semantic_focal": 0.0, "semantic_dice": 0.0}]
)
def test_what_decays_also_learns(losses: dict[str, Any]) -> None:
    model, config = tiny_model(), LossConfig(**losses)
    freeze_idle(model, config)
    step, learned = TrainStep(model, config, autocast=False), set()
    for number in range(6):
        batch = SquareSource().batch(number)
        sum(step(batch, encode_phrases(batch.phrases, FakeTokenizer())).values()).backward()  # type: ignore[arg-type]
        check_gradients(model)
        learned |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        model.zero_grad()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == learned


def test_the_trunk_runs_once_per_slice_and_text_once_per_phrase(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    trunk, text = MedicalSam3.encode_trunk, MedicalSam3.encode_text
    monkeypatch.setattr(MedicalSam3, "encode_trunk", lambda *a: (seen.update(slices=len(a[1])), trunk(*a))[1])
    monkeypatch.setattr(MedicalSam3, "encode_text", lambda *a: (seen.update(phrases=len(a[1])), text(*a))[1])
    batch = SquareSource(batch_slices=3).batch(0)
    step = TrainStep(tiny_model(), tiny_config("unused").losses, autocast=True)
    terms = step(batch, encode_phrases(batch.phrases, FakeTokenizer()))  # type: ignore[arg-type]
    assert seen == {"slices": 3, "phrases": 3}
    assert len(batch.phrases) == 9
    assert all(term.dtype in (torch.float32, torch.float64) and term.ndim == 0 for term in terms.values())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A ball in a small CT, its manifest and a recipe that trains on it."""
    k, j, i = np.indices((8, 20, 24))
    ball = (k - 4) ** 2 + (j - 9) ** 2 + (i - 11) ** 2 < 30
    for name, array in (("image", np.where(ball, 60, -80).astype(np.int16)), ("liver", ball.astype(np.uint8))):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((3.0, 3.0, 5.0))
        SimpleITK.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    common = {
        "dataset": "phantom",
        "image": "image.nii.gz",
        "mask": "liver.nii.gz",
        "volume_id": "ball",
        "axis": 2,
        "concept": "liver",
        "phrase": "liver",
        "patient": "nobody",
        "modality": "CT",
        "spacing": (3.0, 3.0, 5.0),
        "sha256": sha256_of(tmp_path / "image.nii.gz"),
        "licence": "CC0-1.0",
    }
    states = ["present" if mask.any() else "absent" for mask in ball]
    splits = ["val" if number in (3, 7) else "train" for number in range(8)]
    rows = [
        ManifestRow(**common, slice_index=number, label_state=state, split=split)
        for number, (state, split) in enumerate(zip(states, splits, strict=True))
    ]
    write_manifest(tmp_path / "manifest.parquet", rows)
    text = {**ARCHITECTURE["text_config"], "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
    values = {
        "model": {"architecture": {**ARCHITECTURE, "text_config": text}},
        "data": {"manifest": str(tmp_path / "manifest.parquet"), "preprocess": {"image_size": SIDE}},
        "warm_start": {"steps": 2, "batch_slices": 2},
        "run": {"out": str(tmp_path / "run"), "steps": 2, "validate_every": 2, "device": "cpu"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


def test_the_command_trains_from_a_manifest_and_goes_on(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "run"
    assert main(["--config", str(recipe)]) == 0
    lines = steps_of(out)
    assert [line["step"] for line in lines] == [0, 1, 0, 1, 1]
    assert lines[-1]["validation"]["present"] == 2
    assert (out / "checkpoints" / "best").is_file() or lines[-1]["validation"]["dice"] is None
    assert main(["--config", str(recipe), "--resume", "auto", "run.steps=3"]) == 2
    assert "run.steps 2 -> 3" in capsys.readouterr().err
    assert main(["--config", str(recipe), "--resume", "auto", "run.steps=3", "run.allow_changed=[run.steps]"]) == 0
    assert steps_of(out)[-2]["step"] == 2


def test_the_script_runs_by_its_path(recipe: Path) -> None:
    command = [sys.executable, str(ROOT / "Training" / "train.py"), "--config", str(recipe), "optim.rate=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=recipe.parent, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "optim.rate" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.manifest=nowhere.parquet", "cannot read nowhere.parquet"),
        ("data.preprocess.image_size=112", "expected 56"),
        ("optim.rate=1", "optim.rate"),
        ("model.architecture.depth=3", "got depth"),
    ],
)
def test_a_wrong_call_gets_one_line_and_exit_code_two(
    recipe: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(recipe), override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
