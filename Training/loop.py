"""The loop of a training run: steps, validation, checkpoints, and the end when a signal asks for it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from MedicalSAM3Lib.errors import RunError, SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed, transfer
from Training.bad_batch import save_bad_batch
from Training.checkpoints import Checkpoints, Meta, check_same_run, read_meta, restore, weights_file
from Training.collate import Batch
from Training.config import TrainConfig
from Training.distributed import Ranks
from Training.ema import RunningMean
from Training.optim import Optimizer, check_gradients
from Training.plan import Plan
from Training.progress import Tell, progress_line
from Training.provenance import git_commit, package_versions
from Training.runlog import RunLog
from Training.sharding import gathered
from Training.step import TrainStep, backward
from Training.validation import Source, validate

logger = logging.getLogger("Training.train")


@dataclass(frozen=True, slots=True)
class Data:
    """What the loop needs of the data.

    Attributes:
        train, val: This rank's batches.
        manifest_sha256: Which data it is.
        warm_start: Prepares a new network before the first step, or None; called with the network on
            its device and a function that logs (step, loss).
    """

    train: Source
    val: Source
    manifest_sha256: str
    warm_start: Callable[[MedicalSam3, Callable[[int, float], None]], None] | None = None


class Loop:
    """The loop and what it carries from step to step.

    Attributes:
        step: Optimiser steps done.
        best: Best validation score so far.
    """

    def __init__(
        self,
        config: TrainConfig,
        ranks: Ranks,
        module: TrainStep,
        tokenizer: Tokenizer,
        data: Data,
        optimizer: Optimizer,
        total: int,
        plan: Plan | None = None,
    ) -> None:
        self._config, self._ranks, self._data, self._total = config, ranks, data, total
        self._module, self._tokenizer, self._optimizer = module, tokenizer, optimizer
        self._model = model = module.model
        self._plan, self._out = plan, Path(config.run.out)
        self._checkpoints = Checkpoints(self._out / "checkpoints", config.run.keep)
        self._bf16 = config.run.precision == "bf16"
        self._mean = RunningMean(model, config.run.ema_decay) if config.run.ema_decay else None
        self.step = self._first = 0
        self.best: float | None = None

    def run(self, stop_asked: Callable[[], bool], *, resume: bool) -> bool:
        """Resume or start, then step until the end or until asked to stop; returns whether the end was reached."""
        resumed = self._resume(resume)
        self._first = self.step
        is_main, project = self._ranks.is_main, self._config.run.wandb
        with RunLog(self._out, self.step, is_main=is_main, wandb=project) as log:
            if not resumed:
                self._start(log)
            with progress_line(self._total, self.step, is_main=is_main) as tell:
                finished = self._steps(log, tell, stop_asked)
            self._checkpoints.finish()
        if not finished and self._ranks.is_main:
            logger.info("Stopped after step %d; go on with --resume auto.", self.step)
        return finished

    def _steps(self, log: RunLog, tell: Tell, stop_asked: Callable[[], bool]) -> bool:
        if self._config.run.compile:
            self._module.compile()
        wrapped = distributed.wrap(self._module)
        began = time.perf_counter()
        for batch in self._data.train.prefetched(self.step, self._total):
            waited = time.perf_counter() - began
            distributed.meet(f"step {self.step}")
            numbers = self._one_step(wrapped, batch)
            numbers |= self._pace(len(batch.images), time.perf_counter() - began, waited)
            log.write(self.step, numbers)
            tell(self.step, numbers)
            self.step += 1
            stopping = distributed.any_rank(stop_asked())
            self._validate_and_save(log, stopping)
            if stopping:
                return self.step == self._total
            began = time.perf_counter()
        return True

    def _one_step(self, wrapped: nn.Module, batch: Batch) -> dict[str, Any]:
        terms = backward(wrapped, batch, self._tokenizer, self._ranks.device, self._config.run.accumulate)
        if self.step == self._first:
            check_gradients(self._model)
        means = distributed.mean_over_ranks(torch.stack(list(terms.values())))
        # What the host must know of a step crosses at once: whether it may count, and what is logged.
        (numbers,) = transfer.to_host(torch.cat([means, self._optimizer.clip()[None].to(means)]))
        *means, grad_norm = numbers.tolist()
        loss = math.fsum(means)
        try:
            self._optimizer.step(self.step, loss, grad_norm)
        except RunError as error:
            kept = save_bad_batch(self._out, self.step, self._ranks.rank, batch, terms)
            raise RunError(f"{error} What rank {self._ranks.rank} was shown is in {kept.name}.") from error
        if self._mean is not None:
            self._mean.update(self._model)
        return {
            "loss": loss,
            "terms": dict(zip(terms, means, strict=True)),
            "lr": self._optimizer.rates(),
            "grad_norm": grad_norm,
            "skipped": self._optimizer.skipped,
            "pairs": len(batch.phrases),
        }

    def _pace(self, slices: int, seconds: float, waited: float) -> dict[str, float]:
        """Time of a step, how much of it went into waiting for data, slices of all ranks in a second, and model FLOP
        utilisation where there is a plan."""
        rate = slices * self._ranks.world_size / seconds
        pace = {"seconds": seconds, "wait_seconds": waited, "slices_per_second": rate}
        return pace | ({"flop_utilisation": self._plan.utilisation(seconds)} if self._plan else {})

    def _validate_and_save(self, log: RunLog, stopping: bool) -> None:
        run, is_last, is_best = self._config.run, self.step == self._total, False
        if run.validate_every and (self.step % run.validate_every == 0 or is_last):
            with gathered(self._module), self._mean.applied(self._model) if self._mean is not None else nullcontext():
                scores = validate(self._model, self._tokenizer, self._data.val, run.validate_batches, self._bf16)
            is_best = scores["dice"] > (-math.inf if self.best is None else self.best)
            self.best = scores["dice"] if is_best else self.best
            log.write(self.step - 1, {"validation": scores})
            if self._ranks.is_main:
                logger.info("step %d: validation Dice %.4f, best %s", self.step, scores["dice"], self.best)
        if stopping or is_last or is_best or self.step % run.save_every == 0:
            self._save(is_best=is_best)

    def _start(self, log: RunLog) -> None:
        """Warm start, first checkpoint, and a random state of its own for every rank."""
        if self._data.warm_start is not None:
            self._data.warm_start(self._model, lambda step, loss: log.write(step, {"warm_start": {"loss": loss}}))
            self._optimizer.adamw.zero_grad(set_to_none=True)
        distributed.seed_rank(self._config.run.seed, self._ranks.rank)
        if self._mean is not None:
            self._mean.load(self._model.state_dict())
        self._save(is_best=False)

    def _resume(self, wanted: bool) -> bool:
        """Whether the run goes on from a checkpoint."""
        folder = self._checkpoints.find("latest")
        if folder is None:
            return False
        if not wanted:
            raise SettingsError(
                f"Expected an unused run.out, got one at {folder.name}; add --resume auto or change it."
            )
        check_same_run(read_meta(folder), self._meta(), self._config.run.allow_changed)
        distributed.seed_rank(self._config.run.seed, self._ranks.rank)
        meta = restore(folder, self._model, self._optimizer, self._ranks)
        if self._mean is not None:
            self._mean.load(load_file(weights_file(folder)))
        self.step, self.best = meta.step, meta.best_score
        return True

    def _save(self, *, is_best: bool) -> None:
        mean = None if self._mean is None else self._mean.tensors
        is_main = self._ranks.is_main
        self._checkpoints.save(self._model, self._optimizer, self._meta(), is_best=is_best, is_main=is_main, mean=mean)

    def _meta(self) -> Meta:
        return Meta(
            step=self.step,
            best_score=self.best,
            skipped=self._optimizer.skipped,
            world_size=self._ranks.world_size,
            manifest_sha256=self._data.manifest_sha256,
            config=self._config.model_dump(mode="json"),
            versions=package_versions(),
            git_commit=git_commit(),
        )
