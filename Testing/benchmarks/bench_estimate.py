"""Predicted against measured: ``estimate`` beside the run itself, on three volumes with the bundled model.

    python -m Testing.benchmarks.bench_estimate                 a minute or two on two idle cores

Each prediction and each run has a process of its own, one after the other, so that peaks are its own and both pay for
first calls. Seconds are the sum of the report's stages, memory is the report's peak of the process. Both sides
encode all phrases anew. On a machine that does other work the ratios show what that work did in between.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from rich.console import Console
from rich.progress import track
from rich.table import Table

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.demo import sample_path
from MedicalSAM3Lib.estimate import estimate
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.text_cache import SWITCH_VARIABLE
from Testing.benchmarks.bench_prompts import CONCEPTS

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING_CT = REPOSITORY / "data" / "tiny" / "abdomen-ct-a" / "image.nii.gz"
"""112 slices; there once ``Training.prepare`` has run."""

TRAINING_SHAPE, TRAINING_MM = (112, 101, 122), (3.0, 3.0, 3.0)
LARGE_SHAPE, LARGE_MM = (40, 512, 512), (0.8, 0.8, 5.0)


def body(path: Path, shape_kji: tuple[int, int, int], spacing_ijk_mm: Sequence[float]) -> Path:
    """Write a CT of a body: an ellipse of noisy soft tissue with a brighter organ and a bone, in air."""
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape_kji), indexing="ij")
    array = np.random.default_rng(0).normal(40.0, 20.0, shape_kji).astype(np.float32)
    array[(i + 0.35) ** 2 + j**2 + (k / 2) ** 2 < 0.12] += 60.0
    array[i**2 + (j - 0.45) ** 2 < 0.02] += 500.0
    array[(i / 0.9) ** 2 + (j / 0.7) ** 2 > 1.0] = -1000.0
    image = SimpleITK.GetImageFromArray(array.astype(np.int16))
    image.SetSpacing(list(spacing_ijk_mm))
    SimpleITK.WriteImage(image, str(path))
    return path


def volumes(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name and file of each volume; what is made up is written into ``folder``."""
    yield "bundled CT", sample_path()
    if TRAINING_CT.is_file():
        yield "training CT", TRAINING_CT
    else:
        yield "phantom like the training CT", body(folder / "middle.nii.gz", TRAINING_SHAPE, TRAINING_MM)
    yield "phantom 512 x 512 x 40", body(folder / "large.nii.gz", LARGE_SHAPE, LARGE_MM)


def child(*words: object) -> str:
    """Run a module in a new process; return what it prints."""
    environment = os.environ | {SWITCH_VARIABLE: "0"}
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def predicted(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``Estimate``."""
    words = ("--concepts", options.concepts, "--device", options.device, "--speed", options.speed)
    return json.loads(child("Testing.benchmarks.bench_estimate", "--predict", path, *words))


def measured(path: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The block ``run`` of the report."""
    asked = [word for concept in CONCEPTS[: options.concepts] for word in ("-c", concept)]
    where = ("--model", "tiny", "--device", options.device, "--speed", options.speed)
    files = ("-o", folder / "result.seg.nrrd", "--report", folder / "report.json", "--quiet")
    child("MedicalSAM3Lib.cli", "segment", path, *asked, *where, *files)
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))["run"]


def compare(options: argparse.Namespace, folder: Path) -> Table:
    """One row a volume."""
    table = Table("Volume", "Slices")
    for heading in (
        "Predicted (s)",
        "All gates open",
        "Measured (s)",
        "Ratio",
        "Predicted (MB)",
        "Measured (MB)",
        "Ratio",
    ):
        table.add_column(heading, justify="right")
    for name, path in track(list(volumes(folder)), "Measuring"):
        before, run = predicted(path, options), measured(path, options, folder)
        seconds, (host, device) = (
            sum(run["timings_s"].values()),
            (run["peak_memory_mb"][at] for at in ("host", "device")),
        )
        rows = [(name, str(run["slices"]), before["host_peak_mb"], host)]
        if device is not None:
            rows.append((f"{name}, on {run['device']}", "", before["device_peak_mb"], device))
        for label, slices, peak, reached in rows:
            times = (f"{before['seconds']:.1f}", f"{before['most_seconds']:.1f}", f"{seconds:.1f}")
            sizes = (f"{peak:.0f}", f"{reached:.0f}", f"{peak / reached:.2f}")
            table.add_row(label, slices, *times, f"{before['seconds'] / seconds:.2f}", *sizes)
    return table


def predict(path: Path, options: argparse.Namespace) -> None:
    """Print an estimate as JSON: the child's part."""
    settings = make_settings(device=options.device, speed=options.speed)
    volume, model = read_volume(path), load_model("tiny", device=settings.device, speed=settings.speed)
    print(json.dumps(asdict(estimate(volume, CONCEPTS[: options.concepts], model, settings))))


def main() -> None:
    """Read the options, compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", type=int, default=8, help=f"number, 1 to {len(CONCEPTS)}")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--speed", default="balanced")
    parser.add_argument("--predict", type=Path, metavar="FILE", help="print one estimate as JSON and no table")
    options = parser.parse_args()
    if options.predict is not None:
        predict(options.predict, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        table = compare(options, Path(folder))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
