"""The work of an engine in a Ray worker: volumes come and results go in memory, never by a disk. Loads torch."""

from __future__ import annotations

from typing import Any

from MedicalSAM3Lib.engine_port import Order
from MedicalSAM3Lib.engine_process import EngineOptions
from MedicalSAM3Lib.engine_work import Workshop
from MedicalSAM3Lib.ray_worker import Parcels
from MedicalSAM3Lib.report import RunRecord, make_report
from MedicalSAM3Lib.structures import Segmentation, Volume


class RayWorkshop(Workshop):
    """As its base, with volumes taken from one dict and results put into another, by job id."""

    def __init__(self, device: str, options: EngineOptions, volumes: Parcels, results: Parcels) -> None:
        super().__init__(device, options.model, options.memory_budget_gb, options.models_kept)
        self._volumes, self._results = volumes, results

    def _open(self, order: Order) -> Volume:
        volume: Volume = self._volumes[order.job_id]
        return volume

    def _deliver(self, order: Order, segmentation: Segmentation, record: RunRecord) -> list[dict[str, Any]]:
        self._results[order.job_id] = (segmentation, record)
        return list(make_report(record)["findings"])
