"""What an engine does with an order: load, segment or estimate, write the results, and say in one line what failed.

The models that were used last stay loaded, and so do the features of the last volumes. Loads torch.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import math
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from MedicalSAM3Lib import errors
from MedicalSAM3Lib.catalogue import catalogue
from MedicalSAM3Lib.config import SegmentSettings, make_settings
from MedicalSAM3Lib.engine_port import Answer, ModelFacts, Order
from MedicalSAM3Lib.estimate import estimate
from MedicalSAM3Lib.feature_cache import memory_budget
from MedicalSAM3Lib.features import warm_up
from MedicalSAM3Lib.model_folder import SUMS_FILE, LoadedModel, sha256_of
from MedicalSAM3Lib.pipeline import segment, segment_with_report, settled
from MedicalSAM3Lib.process_memory import trim
from MedicalSAM3Lib.registry import AUTO, load_model, resolve
from MedicalSAM3Lib.report import RunRecord
from MedicalSAM3Lib.result_files import REPORT, write_results
from MedicalSAM3Lib.runtime import Runtime, pick_runtime
from MedicalSAM3Lib.structures import Progress, Segmentation, Volume
from MedicalSAM3Lib.time_left import StageRates, TimeLeft
from MedicalSAM3Lib.volume_cache import VolumeCache
from MedicalSAM3Lib.volume_files import load as load_volume

PHANTOM_KJI = (2, 64, 64)

REPORT_S = 0.1
"""Least time between two reports of progress in a stage."""

OnAnswer = Callable[[Answer], None]
IsCancelled = Callable[[], bool]


class Workshop:
    """The models, the features and the memory of one device.

    Args:
        device: "auto", "cpu", "mps", "cuda" or "cuda:N": all orders run there, whatever their settings say.
        model: Which one "auto" means.
        budget_gb: Memory for features in 10^9 bytes; None = from the machine.
        models_kept: How many stay loaded, those used last.

    Attributes:
        is_lost: The device answers no more to this process; only a new one can use it.
    """

    def __init__(
        self, device: str = "auto", model: str = AUTO, budget_gb: float | None = None, models_kept: int = 2
    ) -> None:
        self.device, self._model, self._models_kept = device, model, models_kept
        self.cache = VolumeCache(budget_gb)
        self.is_lost = False
        self._budget_gb = budget_gb
        self._models: OrderedDict[tuple[str, str], LoadedModel] = OrderedDict()
        self._rates: dict[tuple[str, str], StageRates] = {}

    def warm_up(self) -> ModelFacts:
        """Load the model and let it look at a phantom, so that the first order does not wait for either.

        Raises:
            MedicalSAM3Error: The model cannot be loaded or does not run.
        """
        self.device = str((runtime := self._runtime()).device)
        model = self.model(AUTO)
        axes = np.meshgrid(*(np.linspace(-1.0, 1.0, side) for side in PHANTOM_KJI), indexing="ij")
        ball = np.where(sum(axis**2 for axis in axes) < 0.5, 60.0, -1000.0).astype(np.float32)
        segment(Volume(ball, np.eye(4), "CT"), ["ball"], model, make_settings(device=self.device))
        warm_up(model.model, runtime)
        self.tidy()
        return facts_of(model, resolve(self._model).name)

    def model(self, name: str) -> LoadedModel:
        """The model of that name, loaded if it is not; those that were not used for the longest are let go.

        Raises:
            MedicalSAM3Error: As ``registry.load_model``.
        """
        folder = resolve(self._model if name == AUTO else name)
        sums = folder / SUMS_FILE
        key = (str(folder), sha256_of(sums) if sums.is_file() else "")
        if key not in self._models:
            gc.unfreeze()
            while len(self._models) >= self._models_kept:
                self._models.popitem(last=False)
            self.tidy()
            self._models[key] = load_model(folder, device=self.device)
            # A search for garbage, which every run ends with, would go through all modules and weights each time.
            gc.freeze()
        self._models.move_to_end(key)
        return self._models[key]

    def do(self, order: Order, answer: OnAnswer, is_cancelled: IsCancelled) -> None:
        """Do an order and answer its end; answers are as ``engine_port`` says. None where the device is lost."""
        try:
            volume = self._open(order)
            model = self.model(order.model)
            settings = self._settings(order.settings)
            work = self._estimate if order.kind == "estimate" else self._segment
            data = work(order, volume, model, settings, answer, is_cancelled)
        except errors.Cancelled:
            answer(Answer(order.job_id, "cancelled"))
        except Exception as error:
            failed = explain(error)
            self.is_lost = is_lost(error)
            if not self.is_lost:  # else this process ends, and its end is the answer
                answer(Answer(order.job_id, "failed", failed))
        else:
            answer(Answer(order.job_id, "done", data))
        finally:
            if not self.is_lost:
                self.tidy()

    def drop_features(self, volumes: list[str] | None) -> int:
        """Forget what is kept of some volume folders, None = all; return how many bytes that freed."""
        freed = self.cache.drop_volumes(volumes)
        self.tidy()
        return freed

    def tidy(self) -> None:
        """Give memory back that nothing uses: to other programs on the device, and to the system."""
        self._runtime().release()
        trim()

    def _segment(
        self,
        order: Order,
        volume: Volume,
        model: LoadedModel,
        settings: SegmentSettings,
        answer: OnAnswer,
        is_cancelled: IsCancelled,
    ) -> dict[str, Any]:
        rates = self._rates.setdefault((model.weights_hash, settings.speed), StageRates())
        watch = TimeLeft(settled(settings, model), len(order.concepts), len(volume.array), rates)
        beat = _Beat()
        self.cache.look_at(str(order.volume), on_hit=lambda: watch.is_free("features"))

        def on_progress(progress: Progress) -> None:
            if is_cancelled():
                raise errors.Cancelled("The job was cancelled.")
            fraction, left = watch.see(progress)
            if not beat.is_due(progress):
                return
            data = {**asdict(progress), "fraction": round(fraction, 4), "seconds_left": _rounded(left)}
            answer(Answer(order.job_id, "progress", data))

        segmentation, record = segment_with_report(
            volume, order.concepts, model, settings, on_progress, cache=self.cache
        )
        watch.finish()
        for index, finding in enumerate(self._deliver(order, segmentation, record)):
            answer(Answer(order.job_id, "finding", {"index": index, "finding": finding}))
        return {"notices": list(record.notices)}

    def _estimate(
        self,
        order: Order,
        volume: Volume,
        model: LoadedModel,
        settings: SegmentSettings,
        _answer: OnAnswer,
        is_cancelled: IsCancelled,
    ) -> dict[str, Any]:
        def check() -> None:
            if is_cancelled():
                raise errors.Cancelled("The job was cancelled.")

        predicted = estimate(volume, order.concepts, model, settings, check)
        check()
        values = asdict(predicted) | {"on_disk_gb": predicted.on_disk_gb, "problem": predicted.problem}
        return {"estimate": {name: None if value != value else value for name, value in values.items()}}

    def _open(self, order: Order) -> Volume:
        return load_volume(order.volume, order.volume_id)

    def _deliver(self, order: Order, segmentation: Segmentation, record: RunRecord) -> list[dict[str, Any]]:
        """Put the results where the server looks for them; return the findings as the report has them."""
        write_results(order.out, segmentation, record)
        findings: list[dict[str, Any]] = json.loads((order.out / REPORT).read_text(encoding="utf-8"))["findings"]
        return findings

    def _runtime(self) -> Runtime:
        return pick_runtime(make_settings(device=self.device))

    def _settings(self, asked: dict[str, Any]) -> SegmentSettings:
        """What a client asked, on this device and within this server's memory."""
        settings = make_settings(**{**asked, "device": self.device})
        if settings.memory_budget_gb is None:
            return settings
        most_gb = memory_budget(self._budget_gb) / 1e9
        return settings.model_copy(update={"memory_budget_gb": min(settings.memory_budget_gb, most_gb)})


class _Beat:
    """Which of many reports are worth sending: the first and the last of a stage, and some in between."""

    def __init__(self) -> None:
        self._stage, self._sent_s = "", -math.inf

    def is_due(self, progress: Progress) -> bool:
        now = time.monotonic()
        if progress.stage == self._stage and progress.done < progress.total and now < self._sent_s + REPORT_S:
            return False
        self._stage, self._sent_s = progress.stage, now
        return True


def facts_of(model: LoadedModel, name: str) -> ModelFacts:
    """What clients are told of a model, by the name that they ask for it by."""
    info = catalogue().get(name)
    return ModelFacts(
        name=name,
        weights_hash=model.weights_hash,
        demonstration=model.is_demonstration,
        has_tracker=model.model.has_tracker,
        licence=info.licence.name if info else "",
        notice=model.notice,
        mode=model.presence.mode,
    )


def explain(error: BaseException) -> dict[str, Any]:
    """Code and sentence of what ended an order; what was not foreseen goes to the log, without what it was about."""
    if isinstance(error, errors.MedicalSAM3Error):
        return {"code": error.code, "message": str(error)}
    if isinstance(error, MemoryError):
        sentence = "There is not enough memory for this job; ask for fewer slices or for a region of interest."
        return {"code": errors.MemoryFull.code, "message": sentence}
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"code": "disk_full", "message": "The server's disk is full; remove volumes or jobs, or try later."}
    where = "".join(traceback.format_tb(error.__traceback__))
    logging.getLogger(__name__).error("An order failed with %s at\n%s", type(error).__name__, where)
    name = type(error).__name__
    return {
        "code": "internal",
        "message": f"The engine met an error that it does not know ({name}); the server's log says where.",
    }


def is_lost(error: BaseException | None) -> bool:
    """Whether an accelerator is lost to this process until it ends, by what an error and its causes say."""
    while error is not None:
        if any(sign in str(error) for sign in ("CUDA error", "device-side assert")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
