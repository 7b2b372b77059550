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

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.model_folder import load_model_folder
from Testing.lib.small_world import SIDE, small_config
from Testing.training.dataset_trees import Tree, box
from Training.adapters import slicerio_package, totalsegmentator_package
from Training.case_rows import CaseRow, read_rows
from Training.evaluation_summary import in_own_words
from Training.manifest import read_manifest
from Training.packages import download

ROOT = Path(__file__).parents[2]
STEPS = 60
PATIENCE_S = 1800
"""For one command, on a machine that is busy with others."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="kills a group of processes"),
]


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


def prepare_published(folder: Path) -> Path:
    """Kvasir-SEG to train on, CVC-ClinicDB as the unseen one of the paper's Table 3; returns the manifest of both."""
    endoscopy(Tree(folder / "kvasir"), "images/k{}.jpg", "masks/k{}.jpg", 14)
    endoscopy(Tree(folder / "cvc"), "Original/{}.png", "Ground Truth/{}.png", 3)
    for name, source in (("kvasir_seg", "kvasir"), ("cvc_clinicdb", "cvc")):
        run("Training.prepare", name, "--source", str(folder / source), "--out", str(folder / "data" / name))
    manifests = [str(folder / "data" / name / "manifest.parquet") for name in ("kvasir_seg", "cvc_clinicdb")]
    run("Training.prepare", "--merge", *manifests, "--out", str(folder / "data" / "all.parquet"))
    return folder / "data" / "all.parquet"


def prepare_open(folder: Path) -> Path:
    """Real CT and MR of five people under open licences, as ``make demo-data`` fetches them; returns the manifest."""
    packages = folder / "data" / "packages"
    try:
        for package, is_source in ((totalsegmentator_package, True), (slicerio_package, False)):
            download(package.PACKAGE, package.VERSION, packages, source=is_source)
    except InputError as error:
        pytest.skip(f"needs a package index for the open data: {error}")
    run("Training.prepare", "--out", str(folder / "data"))
    return folder / "data" / "manifest.parquet"


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


def go_the_whole_way(folder: Path, manifest: Path, split: str) -> tuple[list[CaseRow], dict[str, dict[str, str]], str]:
    """Train on two ranks, kill, resume, publish, evaluate; returns the rows, Table 3 by data set, and the report."""
    config, run_folder = recipe(folder, manifest), folder / "run"
    train_and_kill(config, run_folder)
    assert len(steps_of(run_folder)) < STEPS
    run(*on_two_ranks(config))
    assert steps_of(run_folder) == list(range(STEPS))

    model, out = folder / "model", folder / "report"
    run("Training.publish", "--run", str(run_folder), "--out", str(model))
    assert load_model_folder(model).presence.default.temperature > 0
    told = run("Training.evaluate", "--checkpoint", str(model), "--manifest", str(manifest), "--split", split,
               "--out", str(out))  # fmt: skip
    assert told.strip().endswith("report.html")
    html = (out / "report.html").read_text(encoding="utf-8")
    assert str(folder) not in html  # a report can be shown to others
    with (out / "table3.csv").open(encoding="utf-8", newline="") as file:
        return read_rows(out / "cases.parquet"), {line["dataset"]: line for line in csv.DictReader(file)}, html


def test_the_whole_way_without_a_hands_touch(tmp_path: Path) -> None:
    manifest = prepare_published(tmp_path)
    splits = {(row.dataset, row.split) for row in read_manifest(manifest).rows}
    assert splits == {("kvasir_seg", "train"), ("kvasir_seg", "val"), ("cvc_clinicdb", "unseen")}
    rows, lines, html = go_the_whole_way(tmp_path, manifest, "unseen")
    named = [row for row in rows if row.kind == "canonical" and row.protocol == "paper"]
    assert [row.dataset for row in named] == ["cvc_clinicdb"] * 3
    assert (lines["cvc_clinicdb"]["dice_ours"], lines["cvc_clinicdb"]["n"]) == ("87.9", "3")
    assert lines["cvc_clinicdb"]["dice_here"] == f"{100 * np.mean([row.dice for row in named]):.1f}"
    assert lines["etis_larib"]["dice_here"] == ""
    assert "CVC" in html


def test_the_whole_way_on_openly_available_data(tmp_path: Path) -> None:
    manifest = prepare_open(tmp_path)
    every = read_manifest(manifest).rows
    assert {row.split for row in every} == {"train", "val", "test", "unseen"}
    assert {row.modality for row in every} == {"CT", "MR"}
    rows, lines, html = go_the_whole_way(tmp_path, manifest, "test")
    # Of real data, too, every question that has an answer was asked, and none twice.
    known = [row for row in every if row.split == "test" and row.label_state != "unknown"]
    asked = [row for row in rows if row.protocol == "paper" and in_own_words(row)]
    assert len({(row.case, row.concept) for row in asked}) == len(asked) == len(known)
    assert {row.patient for row in asked} == {row.patient for row in known}
    present = [row.dice for row in asked if row.is_present and row.dataset == "totalsegmentator"]
    assert lines["totalsegmentator"]["n"] == str(len(present))
    assert lines["totalsegmentator"]["dice_here"] == f"{100 * np.mean(present):.1f}"
    assert "totalsegmentator" in html
