"""Engines without a network or a process: they answer when a test says so, or at once with a known mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib import result_files, volume_files
from MedicalSAM3Lib.concepts import colour_of
from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.engine_port import Answer, EngineState, ModelFacts, OnAnswer, OnChange, Order
from MedicalSAM3Lib.measures import measure
from MedicalSAM3Lib.report import InputRecord, ModelRecord, RunRecord
from MedicalSAM3Lib.structures import Codes, Finding, Segmentation

FACTS = ModelFacts("fake", "0" * 64, True, False, licence="none", notice="A fake.")
ABSENT = "nothing"
"""Concepts with this word in them are not found."""


class FakeEngines:
    """Holds orders until ``finish``, ``fail`` or ``say`` is called; with ``at_once`` it finishes each as it comes.

    Attributes:
        orders: All that were given, in order.
        running: Device to the order that it holds.
        cancelled: Ids that were to be cancelled.
        dropped: Arguments of ``drop_features``.
    """

    def __init__(self, devices: Sequence[str] = ("cpu",), *, at_once: bool = False) -> None:
        self.devices = tuple(devices)
        self.at_once = at_once
        self.orders: list[Order] = []
        self.running: dict[str, Order] = {}
        self.cancelled: list[str] = []
        self.dropped: list[Sequence[Path] | None] = []
        self.state_of: dict[str, str] = {}
        self.is_stopped = False
        self.facts: ModelFacts | None = FACTS

    def start(self, on_answer: OnAnswer, on_change: OnChange) -> None:
        self._on_answer, self._on_change = on_answer, on_change

    def states(self) -> tuple[EngineState, ...]:
        return tuple(EngineState(device, self._state(device)) for device in self.devices)  # type: ignore[arg-type]

    def _state(self, device: str) -> str:
        return self.state_of.get(device) or ("busy" if device in self.running else "idle")

    def model(self) -> ModelFacts | None:
        return self.facts

    def give(self, order: Order) -> bool:
        free = [device for device in self.devices if self._state(device) == "idle"]
        if not free:
            return False
        self.orders.append(order)
        self.running[free[0]] = order
        if self.at_once:
            self.finish(order.job_id)
        return True

    def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        if any(order.job_id == job_id for order in self.running.values()):
            self._end(job_id, Answer(job_id, "cancelled"))

    def drop_features(self, volumes: Sequence[Path] | None) -> int:
        self.dropped.append(volumes)
        return 1000

    def stop(self) -> None:
        self.is_stopped = True

    def say(self, job_id: str, kind: Any, **data: Any) -> None:
        """An answer that does not end the order."""
        self._on_answer(Answer(job_id, kind, data))

    def fail(self, job_id: str, code: str = "engine_died", message: str = "The engine ended. Try again.") -> None:
        self._end(job_id, Answer(job_id, "failed", {"code": code, "message": message}))

    def finish(self, job_id: str) -> None:
        """Finish an order: every concept is found as the voxels above the mean, but for those with ``ABSENT``."""
        order = next(order for order in self.running.values() if order.job_id == job_id)
        if order.kind == "estimate":
            self._end(job_id, Answer(job_id, "done", {"estimate": {"seconds": 2.0, "host_more_mb": 100.0}}))
            return
        write_fake_results(order)
        self._end(job_id, Answer(job_id, "done", {"notices": ["A fake looked at it."]}))

    def _end(self, job_id: str, answer: Answer) -> None:
        self.running = {device: order for device, order in self.running.items() if order.job_id != job_id}
        self._on_answer(answer)
        self._on_change()


def fake_mask(array: np.ndarray) -> np.ndarray:
    """What a fake finds, whatever it is asked for."""
    return array.reshape(*array.shape[:3], -1).mean(axis=-1) > float(array.mean())


def write_fake_results(order: Order) -> None:
    """The results of an order, as an engine would write them."""
    volume = volume_files.load(order.volume, order.volume_id)
    mask, overlap = fake_mask(np.asarray(volume.array)), order.settings["overlap"] == "keep"
    layers, findings = [], []
    for phrase in order.concepts:
        if ABSENT in phrase or not mask.any():
            findings.append(Finding(phrase, "not_found", reason="It is not there.", presence=0.1))
            continue
        layer, label = (len(layers), 1) if overlap or not layers else (0, len(findings) + 1)
        if layer == len(layers):
            layers.append(np.zeros(mask.shape, np.uint16))
        layers[layer][mask] = label
        voxels = int(mask.sum())
        findings.append(
            Finding(phrase, "found", presence=0.9, confidence=0.8, voxels=voxels, volume_ml=voxels * volume.voxel_ml,
                    slice_range=(0, mask.shape[0] - 1), instances=1, colour=colour_of(phrase), codes=Codes(),
                    layer=layer, label=label, measures=measure(mask, volume))
        )  # fmt: skip
    layers = layers or [np.zeros(mask.shape, np.uint16)]
    confidence = mask.astype(np.float32) if order.settings["confidence_map"] else None
    segmentation = Segmentation(tuple(layers), volume.ijk_to_lps, tuple(findings), confidence)
    record = RunRecord(
        input=InputRecord.of(volume),
        model=ModelRecord("fake", "0" * 64, True, ""),
        settings=SegmentSettings.model_validate(order.settings),
        axis=2,
        slices=mask.shape[0],
        device="cpu",
        dtype="float32",
        timings_s={"features": 0.1},
        peak_memory_mb={"host": 1.0, "device": None},
        findings=tuple(findings),
    )
    result_files.write_results(order.out, segmentation, record)
