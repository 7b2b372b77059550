"""bfloat16 against float32: how much faster the trunk is, and how many voxels it costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.runtime import Runtime, pick_runtime
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Volume
from Testing.benchmarks.measuring import seconds
from Testing.benchmarks.tables import Table, format_name, number, ratio
from Testing.benchmarks.worlds import Options, load_case

REPEATS = 3
TRUNK = ("Format", "Trunk (s)", "float32 / this")
LABELS = ("Concept", "Dice between exact and balanced", "Voxels, exact", "Voxels, balanced")


def run(options: Options) -> Iterator[Table]:
    """The trunk on a batch of slices, and the labels of both on the bundled CT."""
    model = load_model(options.model, options.device)
    case = load_case("sample")
    assert case is not None
    slices = len(case.volume.array)
    yield trunk(f"The trunk of {model.name}, {slices} slices at once", model, case.volume, options, REPEATS)
    exact, balanced = (
        segment(case.volume, case.concepts, model, options.settings(speed=speed)) for speed in ("exact", "balanced")
    )
    rows, values = [], []
    for one, other in zip(exact.findings, balanced.findings, strict=True):
        values.append(dice(exact.mask_kji(one), balanced.mask_kji(other)))
        rows.append((one.phrase, number(values[-1], 4), str(one.voxels), str(other.voxels)))
    rows.append(("mean", number(float(np.nanmean(values)), 4), "", ""))
    name = format_name(pick_runtime(options.settings(speed="balanced")).dtype)
    yield Table(f"float32 (exact) and {name} (balanced) on {case.title}", LABELS, tuple(rows))


def trunk(title: str, model: LoadedModel, volume: Volume, options: Options, repeats: int) -> Table:
    """Time of the trunk over all slices of a volume at once, in both formats, whatever the device prefers."""
    settings = options.settings(speed="exact")
    device = pick_runtime(settings).device
    pictures = prepare(volume, model.preprocess, settings).batch(slice(0, len(volume.array)), device)
    times = {
        dtype: seconds(partial(_encode, model, pictures, Runtime(device, dtype)), repeats)
        for dtype in (torch.float32, torch.bfloat16)
    }
    rows = tuple(
        (format_name(dtype), number(taken, 3), ratio(times[torch.float32], taken)) for dtype, taken in times.items()
    )
    return Table(title, TRUNK, rows)


def _encode(model: LoadedModel, pictures: torch.Tensor, runtime: Runtime) -> None:
    with runtime.computing():
        model.model.encode_trunk(pictures)[0, 0, 0].item()  # waits for the device
