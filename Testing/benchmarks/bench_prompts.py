"""What P concepts cost: our pipeline beside one full forward of ``transformers`` per slice and concept.

    python -m Testing.benchmarks.bench_prompts                          tiny, a minute
    python -m Testing.benchmarks.bench_prompts --size full --slices 1   SAM3's full size, random weights; minutes in
                                                                        bfloat16 on two cores, 3.4 GB of weights

Both sides have the same weights, the same slices, the same device and number format, in one process. Against us:
ours is the whole ``segment`` call (windowing, resizing, fusion and labels included) with the presence gate wide
open, so that every (slice, concept) pair pays for its masks; theirs is the bare forward of ``Sam3Model``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from MedicalSAM3Lib.architecture import full_size
from MedicalSAM3Lib.config import SegmentSettings, make_settings
from MedicalSAM3Lib.model_folder import LoadedModel, load_model_folder
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import PresenceSpec, SliceCalibration, VolumeRule
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.runtime import pick_runtime
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.text import load_tokenizer

CONCEPTS = (
    *("liver", "spleen", "left kidney", "right kidney", "stomach", "pancreas", "gallbladder", "aorta"),
    *("inferior vena cava", "portal vein", "duodenum", "left adrenal gland", "right adrenal gland", "vertebra"),
    *("left psoas muscle", "urinary bladder"),
)

OPEN_GATE = PresenceSpec(default=SliceCalibration(threshold=0.0), volume=VolumeRule(threshold=0.0))


def make_model(size: str) -> LoadedModel:
    """Our model with its gate open: the bundled tiny one, or SAM3's full size with random weights."""
    if size == "tiny":
        bundled = load_model_folder(resource("models", "tiny"))
        spec = PreprocessSpec(image_size=bundled.model.image_size)
        net, tokenizer = bundled.model, bundled.tokenizer
    else:
        torch.manual_seed(0)
        net, tokenizer = full_size(tracker=False).build(), load_tokenizer(resource("tokenizer"))
        spec = PreprocessSpec(image_size=net.image_size)
    return LoadedModel(net, tokenizer, spec, OPEN_GATE, size, "", True, "", resource("models"))


def make_volume(num_slices: int, side: int) -> Volume:
    """Noise in the range of soft tissue: what the slices show changes no cost while the gate is open."""
    array = np.random.default_rng(0).normal(50.0, 60.0, (num_slices, side, side)).astype(np.float32)
    return Volume(array, np.eye(4), modality="CT")


def forward_each(model: LoadedModel, volume: Volume, concepts: Sequence[str], settings: SegmentSettings) -> None:
    """The same work without sharing: trunk, text encoder and decoder for each slice and each concept."""
    runtime = pick_runtime(settings)
    stack = prepare(volume, model.preprocess, settings)
    for slice_index, concept in product(range(len(stack)), concepts):
        input_ids, attention_mask = (ids.to(runtime.device) for ids in model.tokenizer.encode([concept]))
        image = stack.batch(slice(slice_index, slice_index + 1), runtime.device)
        with runtime.computing():
            out = model.model.detector_model(pixel_values=image, input_ids=input_ids, attention_mask=attention_mask)
        out.pred_masks.float().cpu()  # waits for the device


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest time of ``repeats`` runs: the one that other programs disturbed least."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(
    model: LoadedModel, volume: Volume, counts: Sequence[int], settings: SegmentSettings, repeats: int
) -> Table:
    """Time both sides for each number of concepts."""
    segment(volume, CONCEPTS[:1], model, settings)  # not measured: first calls set up kernels and caches
    table = Table("Concepts", "Ours (s)", "Forward each (s)", "Forward each / ours", "Ours, per further concept (s)")
    first: tuple[int, float] | None = None
    for count in track(counts, "Measuring"):
        concepts = CONCEPTS[:count]
        ours = seconds(partial(segment, volume, concepts, model, settings), repeats)
        theirs = seconds(partial(forward_each, model, volume, concepts, settings), repeats)
        first = first or (count, ours)
        further = f"{(ours - first[1]) / (count - first[0]):.3f}" if count > first[0] else ""
        table.add_row(str(count), f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", further)
    return table


def main() -> None:
    """Read the options, measure, and print one row per number of concepts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--slices", type=int, help="default: 8 tiny, 1 full")
    parser.add_argument("--concepts", type=int, nargs="+", default=[1, 4, 16], help=f"numbers, 1 to {len(CONCEPTS)}")
    parser.add_argument("--repeats", type=int, help="the shortest counts; default: 2 tiny, 1 full")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--speed", default="balanced")
    options = parser.parse_args()
    is_tiny = options.size == "tiny"
    settings = make_settings(device=options.device, speed=options.speed)
    runtime = pick_runtime(settings)
    model = make_model(options.size)
    model.model.to(runtime.device)
    side = model.model.image_size
    volume = make_volume(options.slices or (8 if is_tiny else 1), side)
    table = measure(model, volume, options.concepts, settings, options.repeats or (2 if is_tiny else 1))
    number_format = str(runtime.dtype).removeprefix("torch.")
    print(
        f"{options.size}: {volume.shape_kji[0]} slices of {side} x {side}, {runtime.device}, {number_format}, "
        f"{torch.get_num_threads()} threads"
    )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
