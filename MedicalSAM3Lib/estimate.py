"""What a run will take, before it: time by stage, memory at its peak, and the share of the features on disk.

    estimate(volume, ["liver", "spleen"], model).seconds

A few slices go through the stages on this machine (``probe``), and what they cost is scaled by slices and concepts.
It is the time of ``segment``: reading the file and loading the model are not in it. How many gates open is seen on
those slices; ``most_seconds`` and all memory are for the case that all of them do.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_store import temporary_folder
from MedicalSAM3Lib.guards import available_memory_bytes
from MedicalSAM3Lib.interpret import read_all
from MedicalSAM3Lib.meter import Meter
from MedicalSAM3Lib.pipeline import check_settings, settled
from MedicalSAM3Lib.probe import Costs, Rates, measure
from MedicalSAM3Lib.process_memory import peak_bytes, resident_bytes
from MedicalSAM3Lib.runtime import peak_memory_mb, pick_runtime, start_peak_memory
from MedicalSAM3Lib.stack import SliceStack, prepare_all
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.thick import key_slices

if TYPE_CHECKING:
    from MedicalSAM3Lib.model_folder import LoadedModel

_LOGIT, _LABEL, _CONFIDENCE = 2, 2, 2
"""Bytes of a value: float16 maps, uint16 labels, float16 confidence on the region (float32 on the input's grid)."""

_COUNTING = 13
"""Bytes a voxel to count the parts of a mask: the mask, their numbers (4), and those once more as indices (8)."""

_VOTE = 6
"""Bytes a voxel of a vote: sum of the confidences (4), votes, and who has it."""


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
        features_gb: Features of all slices; of the largest view where several axes are looked along.
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
    """What there is to do beside looking at slices: concepts, voxels of the (first) region and of the input, layers
    of labels, whether the confidence of each voxel is kept, and whether objects are tracked."""

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
            concepts=concepts,
            region_voxels=math.prod(stack.region_shape),
            input_voxels=math.prod(volume.shape_kji),
            layers=1 if settings.overlap == "exclusive" else 2,
            with_map=settings.confidence_map,
            is_tracked=settings.mode != "detect",
        )


def estimate(
    volume: Volume,
    concepts: Sequence[str],
    model: LoadedModel,
    settings: SegmentSettings | None = None,
    check: Callable[[], object] = lambda: None,
) -> Estimate:
    """Predict time and memory of ``segment`` with these arguments; ``check`` is called between the steps and may raise.

    It costs what a few slices cost, moves the model to the run's device as ``segment`` does, and keeps nothing.

    Raises:
        PromptError, SettingsError: As ``segment``.
        RunError: Not even a few slices fit.
    """
    settings = settled(settings or SegmentSettings(), model)
    phrases = [reading.asked for reading in read_all(concepts, model.phrases, verbatim=settings.verbatim)]
    check_settings(settings, model)
    model.tokenizer.encode(phrases)
    runtime = pick_runtime(settings)
    runtime.place(model.model)
    start_peak_memory(runtime.device)

    highest, start, free = peak_bytes(), resident_bytes(), available_memory_bytes()
    meter = Meter(start, check)
    stacks, preprocess_s, preparing = meter.run(lambda: prepare_all(volume, model.preprocess, settings))
    seen = [stack.take(key_slices(stack, settings)) for stack in stacks]
    views = [measure(stack, phrases, model, settings, runtime, meter) for stack in seen]
    device_peak_mb = peak_memory_mb(runtime.device)["device"]
    if runtime.device.type == "cuda":
        torch.cuda.empty_cache()

    size = Size.of(volume, stacks[0], len(phrases), settings)
    more = max(preparing, host_bytes(views, size, is_cpu=runtime.device.type == "cpu"))
    if device_peak_mb is not None:
        device_peak_mb += max(tracked_bytes(view, size) for view in views) / 1e6
    seconds = {"preprocess": preprocess_s} | stage_seconds(views, [view.pairs.usual for view in views], size)
    most = stage_seconds(views, [view.pairs.most for view in views], size)
    largest = max(views, key=lambda view: view.slices)  # features are kept of one view at a time
    return Estimate(
        slices=sum(view.slices for view in views),
        concepts=size.concepts,
        device=str(runtime.device),
        dtype=str(runtime.dtype).removeprefix("torch."),
        batch=largest.trunk.batch,
        stage_seconds=seconds,
        seconds=sum(seconds.values()),
        most_seconds=preprocess_s + sum(most.values()),
        open_share=sum(view.pairs.open_share * view.slices for view in views) / sum(view.slices for view in views),
        host_peak_mb=None if start is None else max(highest or 0, start + more) / 1e6,
        host_more_mb=more / 1e6,
        host_free_mb=free / 1e6,
        device_peak_mb=device_peak_mb,
        features_gb=largest.slices * largest.trunk.slice_bytes / 1e9,
        in_memory_share=largest.trunk.kept / largest.slices,
        disk_free_gb=shutil.disk_usage(temporary_folder()).free / 1e9,
    )


def stage_seconds(views: Sequence[Costs], rates: Sequence[Rates], size: Size) -> dict[str, float]:
    """Seconds of the stages after preprocessing, all views together, when these are the rates of each."""
    pairs = list(zip(views, rates, strict=True))
    seconds = {
        "features": sum(view.trunk.first_s + (view.slices - 1) * view.trunk.slice_s for view in views),
        "detection": sum(view.pairs.once_s + view.slices * rate.detection_s for view, rate in pairs),
    }
    if size.is_tracked:
        # A track comes by every slice of its object once, whatever its seed.
        seconds["tracking"] = sum(view.slices * rate.objects * view.tracker.row_s for view, rate in pairs)
    if len(views) > 1:
        # What a vote takes is to read the maps of each view, as fusion reads those of one.
        seconds["vote"] = sum(view.slices * rate.fusion_s for view, rate in pairs)
    seconds["fusion"] = views[0].slices * rates[0].fusion_s
    seconds["findings"] = views[0].slices * rates[0].findings_s
    return seconds


def host_bytes(views: Sequence[Costs], size: Size, *, is_cpu: bool) -> int:
    """Memory beyond what the process has before the run: the stage that takes most, all gates open."""
    maps, stages = 0, []
    for view in views:
        features = maps + view.trunk.kept * view.trunk.slice_bytes
        maps += map_bytes(view, size)
        pairs = maps + view.trunk.kept * view.trunk.slice_bytes
        tracked = tracked_bytes(view, size) if is_cpu else 0
        stages += [
            features + view.trunk.growth,
            pairs + view.pairs.growth,
            pairs + tracked + view.tracker.growth,
        ]
    voted = _VOTE * size.input_voxels + size.concepts * _CONFIDENCE * size.region_voxels if len(views) > 1 else 0
    return max(*stages, maps + views[-1].kept + voted + label_bytes(size))


def map_bytes(view: Costs, size: Size) -> int:
    """Maps that are kept of all pairs. With tracking: of detector, of both, of the objects and of their tracks."""
    each = 2.0 * size.concepts + 2.0 * _objects(view, size) if size.is_tracked else size.concepts
    return int(each * view.slices * view.pairs.mask_side**2 * _LOGIT)


def tracked_bytes(view: Costs, size: Size) -> int:
    """Memory bank on the device: of each object two walks, each with all that it can reach and where it is."""
    return int(2.0 * _objects(view, size) * (view.tracker.reach + 1) * view.tracker.row_bytes)


def _objects(view: Costs, size: Size) -> float:
    """Objects on a slice, when each concept has at least one."""
    return max(view.pairs.most.objects, float(size.concepts))


def label_bytes(size: Size) -> int:
    """Labels and confidences on the region and on the input's grid, and what counting their parts takes."""
    kept = size.layers * _LABEL * (size.region_voxels + size.input_voxels)
    if size.with_map:
        kept += _CONFIDENCE * (size.region_voxels + 3 * size.input_voxels)  # float16, then also float32
    return kept + _COUNTING * size.region_voxels
