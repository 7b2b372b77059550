"""From published files to a report by commands alone: prepare, train on two ranks, kill, resume, publish, evaluate"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from MedicalSAM3Lib.model_folder import load_model_folder
from Testing.lib.small_world import SIDE, small_config
from Testing.training.dataset_trees import Tree, box
from Training.case_rows import read_rows
from Training.manifest import read_manifest

ROOT = Path(__file__).parents[2]
STEPS = 60
PATIENCE_S = 600


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}


def run(*words: str) -> str:
    """Run a module to its end; returns what it printed."""
    done = subprocess.run(
        command(*words), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def endoscopy(tree: Tree, image: str, mask: str, count: int) -> None:
    """Pictures of a pale wall with a red polyp, each elsewhere, in the places where a data set has its files."""
    for number in range(1, count + 1):
        inside = box(number % 3, number % 5, 1, 1)
        noise = np.random.default_rng(number).integers(0, 20, (*inside.shape, 3), np.uint8)
        tree.picture(
            image.format(number), np.where(inside[..., None], (200, 40, 40), (150, 120, 110)).astype("u1") + noise
        )
        tree.binary(mask.format(number), inside)


def prepare(folder: Path) -> Path:
    """Kvasir-SEG to train on, CVC-ClinicDB as the unseen one of the paper's Table 3; returns the manifest of both."""
    endoscopy(Tree(folder / "kvasir"), "images/k{}.jpg", "masks/k{}.jpg", 14)
    endoscopy(Tree(folder / "cvc"), "Original/{}.png", "Ground Truth/{}.png", 3)
    for name, source in (("kvasir_seg", "kvasir"), ("cvc_clinicdb", "cvc")):
        run("Training.prepare", name, "--source", str(folder / source), "--out", str(folder / "data" / name))
    manifests = [str(folder / "data" / name / "manifest.parquet") for name in ("kvasir_seg", "cvc_clinicdb")]
    run("Training.prepare", "--merge", *manifests, "--out", str(folder / "data" / "all.parquet"))
    return folder / "data" / "all.parquet"


def recipe(folder: Path, manifest: Path) -> Path:
    """A network of a few thousand weights, validated and saved often."""
    values = {
        "model": {"architecture": {key: value for key, value in small_config().items() if key != "model_type"}},
        "data": {"manifest": str(manifest), "batch_slices": 1, "preprocess": {"image_size": SIDE}},
        "warm_start": {"steps": 2, "batch_slices": 2},
        "losses": {"mask_focal": 200.0, "mask_dice": 10.0},
        "run": {"out": str(folder / "run"), "steps": STEPS, "save_every": 2, "validate_every": 20, "device": "cpu",
                "precision": "fp32", "seed": 7},
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def on_two_ranks(config: Path) -> list[str]:
    return ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "Training.train",
            "--config", str(config), "--resume", "auto"]  # fmt: skip


def steps_of(run_folder: Path) -> list[int]:
    """Numbers of the steps in the log, warm start and validation apart."""
    log = run_folder / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line["step"] for line in lines if "terms" in line]


def train_and_kill(config: Path, run_folder: Path) -> None:
    """Start training and kill launcher and ranks without a warning, after a checkpoint and before the end."""
    with subprocess.Popen(command(*on_two_ranks(config)), cwd=ROOT, env=environment(), start_new_session=True) as ranks:
        deadline = time.monotonic() + PATIENCE_S
        try:
            while len(steps_of(run_folder)) < 5:
                assert ranks.poll() is None, "training ended before it was killed"
                assert time.monotonic() < deadline, "training did not begin"
                time.sleep(0.05)
        finally:
            os.killpg(ranks.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills a group of processes")
def test_the_whole_way_without_a_hands_touch(tmp_path: Path) -> None:
    manifest = prepare(tmp_path)
    splits = {(row.dataset, row.split) for row in read_manifest(manifest).rows}
    assert splits == {("kvasir_seg", "train"), ("kvasir_seg", "val"), ("cvc_clinicdb", "unseen")}

    config, run_folder = recipe(tmp_path, manifest), tmp_path / "run"
    train_and_kill(config, run_folder)
    assert len(steps_of(run_folder)) < STEPS
    run(*on_two_ranks(config))
    assert steps_of(run_folder) == list(range(STEPS))

    model, out = tmp_path / "model", tmp_path / "report"
    run("Training.publish", "--run", str(run_folder), "--out", str(model))
    assert load_model_folder(model).presence.default.temperature > 0
    told = run("Training.evaluate", "--checkpoint", str(model), "--manifest", str(manifest), "--split", "unseen",
               "--out", str(out))  # fmt: skip
    assert told.strip().endswith("report.html")

    rows = read_rows(out / "cases.parquet")
    named = [row for row in rows if row.kind == "canonical" and row.protocol == "paper"]
    assert [row.dataset for row in named] == ["cvc_clinicdb"] * 3
    with (out / "table3.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["dataset"]: line for line in csv.DictReader(file)}
    assert (lines["cvc_clinicdb"]["dice_ours"], lines["cvc_clinicdb"]["n"]) == ("87.9", "3")
    assert lines["cvc_clinicdb"]["dice_here"] == f"{100 * np.mean([row.dice for row in named]):.1f}"
    assert lines["etis_larib"]["dice_here"] == ""
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "CVC" in html
    assert str(tmp_path) not in html  # a report can be shown to others
