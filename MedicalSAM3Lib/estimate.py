"""What a run will take, before it: time by stage, memory at its peak, and the share of the features on disk.

    estimate(volume, ["liver", "spleen"], model).seconds

A few slices go through the stages on this machine (``probe``), and what they cost is scaled by slices and concepts.
It is the time of ``segment``: reading the file and loading the model are not in it. How many gates open is seen on
those slices; ``most_seconds`` and all memory are for the case that all of them do.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_store import temporary_folder
from MedicalSAM3Lib.guards import available_memory_bytes
from MedicalSAM3Lib.meter import Meter
from MedicalSAM3Lib.pipeline import check_concepts, check_settings
from MedicalSAM3Lib.probe import Costs, measure
from MedicalSAM3Lib.process_memory import peak_bytes, resident_bytes
from MedicalSAM3Lib.runtime import peak_memory_mb, pick_runtime, start_peak_memory
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Volume

if TYPE_CHECKING:
    from MedicalSAM3Lib.model_folder import LoadedModel

_LOGIT, _LABEL, _CONFIDENCE = 2, 2, 2
"""Bytes of a value: float16 maps, uint16 labels, float16 confidence on the region (float32 on the input's grid)."""

_COUNTING = 13
"""Bytes a voxel to count the parts of a mask: the mask, their numbers (4), and those once more as indices (8)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take on this machine, as it is now. Sizes are 10^6 (mb) and 10^9 (gb) bytes.

    Attributes:
        slices, concepts: How much is asked.
        device, dtype: Where and in which number format, as in the report.
        batch: Slices that go through the trunk together.
        stage_seconds: Stage to seconds, the stages of the report's ``timings_s``.
        seconds: All stages.
        most_seconds: The same if the gate of every concept opens on every slice.
        open_share: Share of the gates (0..1) that open, as seen on a few slices.
        host_peak_mb: This process at its peak, as in the report; None where the system does not tell.
        host_more_mb: What the run takes beyond what the process has before it.
        host_free_mb: Memory that is free before it.
        device_peak_mb: A CUDA device at its peak; None elsewhere.
        features_gb: Features of all slices.
        in_memory_share: Share of them (0..1) that memory keeps; the others go to the temporary file.
        disk_free_gb: Room for that file.
    """

    slices: int
    concepts: int
    device: str
    dtype: str
    batch: int
    stage_seconds: dict[str, float]
    seconds: float
    most_seconds: float
    open_share: float
    host_peak_mb: float | None
    host_more_mb: float
    host_free_mb: float
    device_peak_mb: float | None
    features_gb: float
    in_memory_share: float
    disk_free_gb: float

    @property
    def on_disk_gb(self) -> float:
        """Size of the temporary file."""
        return self.features_gb * (1.0 - self.in_memory_share)

    @property
    def problem(self) -> str:
        """Why the run would not go through, in one line; empty where it fits."""
        if self.host_more_mb > self.host_free_mb:
            sizes = f"{self.host_more_mb / 1e3:.1f} GB of {self.host_free_mb / 1e3:.1f} GB"
            return f"needs more memory than is free: {sizes}; ask for fewer slices, or set a lower memory budget"
        if self.on_disk_gb > self.disk_free_gb:
            sizes = f"{self.on_disk_gb:.1f} GB of {self.disk_free_gb:.1f} GB"
            return f"needs more disk than is free: {sizes}; ask for fewer slices, or set TMPDIR to a larger disk"
        return ""


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is to do: slices, concepts, voxels of the region and of the input, layers of labels, whether
    the confidence of each voxel is kept, and whether objects are tracked."""

    slices: int
    concepts: int
    region_voxels: int
    input_voxels: int
    layers: int
    with_map: bool
    is_tracked: bool

    @classmethod
    def of(cls, volume: Volume, stack: SliceStack, concepts: int, settings: SegmentSettings) -> Size:
        """Count; masks that may overlap hardly ever need more than a second layer."""
        return cls(
            slices=len(stack),
            concepts=concepts,
            region_voxels=int(np.prod(stack.region_shape)),
            input_voxels=int(np.prod(volume.shape_kji)),
            layers=1 if settings.overlap == "exclusive" else 2,
            with_map=settings.confidence_map,
            is_tracked=settings.mode != "detect",
        )


def estimate(
    volume: Volume, concepts: Sequence[str], model: LoadedModel, settings: SegmentSettings | None = None
) -> Estimate:
    """Predict time and memory of ``segment`` with these arguments.

    It costs what a few slices cost, moves the model to the run's device as ``segment`` does, and keeps nothing.

    Raises:
        PromptError, SettingsError: As ``segment``.
        RunError: Not even a few slices fit.
    """
    settings = settings or SegmentSettings()
    phrases = check_concepts(concepts)
    check_settings(settings, model)
    model.tokenizer.encode(phrases)
    runtime = pick_runtime(settings)
    runtime.place(model.model)
    start_peak_memory(runtime.device)

    highest, start, free = peak_bytes(), resident_bytes(), available_memory_bytes()
    meter = Meter(start)
    stack, preprocess_s, preparing = meter.run(lambda: prepare(volume, model.preprocess, settings))
    of_stack = meter.growth()
    costs = measure(stack, phrases, model, settings, runtime)
    device_peak_mb = peak_memory_mb(runtime.device)["device"]
    if runtime.device.type == "cuda":
        torch.cuda.empty_cache()

    size, trunk = Size.of(volume, stack, len(phrases), settings), costs.trunk
    is_cpu = runtime.device.type == "cpu"
    more = max(preparing, of_stack + host_bytes(costs, size, is_cpu=is_cpu))
    seconds = {"preprocess": preprocess_s} | stage_seconds(costs, size, costs.pairs.open_share)
    most = preprocess_s + sum(stage_seconds(costs, size, 1.0).values())
    if device_peak_mb is not None:
        device_peak_mb += tracked_bytes(costs, size) / 1e6
    return Estimate(
        slices=size.slices,
        concepts=size.concepts,
        device=str(runtime.device),
        dtype=str(runtime.dtype).removeprefix("torch."),
        batch=trunk.batch,
        stage_seconds=seconds,
        seconds=sum(seconds.values()),
        most_seconds=most,
        open_share=costs.pairs.open_share,
        host_peak_mb=None if start is None else max(highest or 0, start + more) / 1e6,
        host_more_mb=more / 1e6,
        host_free_mb=free / 1e6,
        device_peak_mb=device_peak_mb,
        features_gb=size.slices * trunk.slice_bytes / 1e9,
        in_memory_share=trunk.kept / size.slices,
        disk_free_gb=shutil.disk_usage(temporary_folder()).free / 1e9,
    )


def stage_seconds(costs: Costs, size: Size, open_share: float) -> dict[str, float]:
    """Seconds of the stages after preprocessing, when that share (0..1) of the gates opens."""
    trunk, pairs, n = costs.trunk, costs.pairs, size.slices

    def between(shut_s: float, open_s: float) -> float:
        return n * (shut_s + open_share * (open_s - shut_s))

    seconds = {
        "features": trunk.first_s + (n - 1) * trunk.slice_s,
        "detection": pairs.once_s + between(pairs.shut_s, pairs.open_s),
    }
    if size.is_tracked:
        # A track comes by every slice of its object once, whatever its seed.
        seconds["tracking"] = n * size.concepts * open_share * pairs.objects * costs.tracker.row_s
    seconds["fusion"] = between(pairs.fused_shut_s, pairs.fused_open_s)
    seconds["findings"] = n * pairs.answer_s
    return seconds


def host_bytes(costs: Costs, size: Size, *, is_cpu: bool) -> int:
    """Memory beyond what the process has once the stack is made: the stage that takes most, all gates open."""
    features = costs.trunk.kept * costs.trunk.slice_bytes
    maps = map_bytes(costs, size)
    tracked = tracked_bytes(costs, size) if is_cpu else 0
    return max(
        features + costs.trunk.growth,
        features + maps + costs.pairs.growth,
        features + maps + tracked + costs.tracker.growth,
        maps + costs.kept + label_bytes(size),
    )


def map_bytes(costs: Costs, size: Size) -> int:
    """Maps that are kept of all pairs. With tracking: of detector, of both, of the objects and of their tracks."""
    each = 1.0 if not size.is_tracked else 2.0 + 2.0 * max(1.0, costs.pairs.objects)
    return int(each * size.slices * size.concepts * costs.pairs.mask_side**2 * _LOGIT)


def tracked_bytes(costs: Costs, size: Size) -> int:
    """Memory bank on the device: of each object two walks, each with all that it can reach and where it is."""
    walks = 2.0 * size.concepts * max(1.0, costs.pairs.objects)
    return int(walks * (costs.tracker.reach + 1) * costs.tracker.row_bytes)


def label_bytes(size: Size) -> int:
    """Labels on the region and on the input's grid, with the larger of what they pass through on the way."""
    kept = size.layers * _LABEL * (size.region_voxels + size.input_voxels)
    if size.with_map:
        kept += _CONFIDENCE * (size.region_voxels + 4 * size.input_voxels)  # float16, its copy, float32
    return kept + max(_LABEL * size.input_voxels, _COUNTING * size.region_voxels)
