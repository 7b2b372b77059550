"""Fine-tune SAM3, or train a small one from nothing.

    python -m Training.train --config Training/recipes/tiny.yaml [--resume auto] [optim.lr=1e-4 ...]
    torchrun --nproc-per-node 4 Training/train.py --config Training/recipes/medical_sam3.yaml

Read from ``main`` down: configuration, process group, data, model, optimiser, loop, checkpoint, validation.
"""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from MedicalSAM3Lib.errors import MedicalSAM3Error, SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import sha256_of
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed
from Training.checkpoints import Checkpoints, Meta, check_same_run, package_versions, read_meta, restore
from Training.config import TrainConfig, load_config
from Training.distributed import Ranks
from Training.evaluate import Source, validate
from Training.network import build_network
from Training.optim import Optimizer, build_groups, check_gradients, describe
from Training.runlog import RunLog
from Training.step import TrainStep, encode_phrases, freeze_idle

logger = logging.getLogger("Training.train")

STEPS_PER_LINE = 20


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see Training/recipes")
    parser.add_argument("--resume", choices=["never", "auto"], default="never", help="auto: go on where run.out ends")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = load_config(options.config, options.overrides)
        torch.set_num_threads(config.run.num_threads)
        with distributed.process_group(config.run.device) as ranks:
            model, tokenizer = build_network(config.model, config.run.seed)
            data = build_data(config, model.image_size, ranks)
            train(config, ranks, model, tokenizer, data, resume=options.resume == "auto")
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def build_data(config: TrainConfig, side: int, ranks: Ranks) -> Data:
    """Read the manifest and its volumes; raises ``InputError`` when either is not sound."""
    from Training.data import TrainingData
    from Training.manifest import check_files, read_manifest
    from Training.warmstart import warm_start_once

    path = Path(config.data.manifest)
    check_files(read_manifest(path))
    data = TrainingData.load(config.data)
    if data.config.preprocess.image_size != side:
        raise SettingsError(f"data.preprocess.image_size: expected {side} as the network has, got another; make it so.")

    def source(split: str) -> Source:
        return data.source(split, seed=config.run.seed, rank=ranks.rank, world_size=ranks.world_size)

    def warm(model: MedicalSam3, log: Callable[[int, float], None]) -> None:
        warm_start_once(Path(config.run.out), model, data, config, ranks, log)

    return Data(source("train"), source("val"), sha256_of(path), warm if config.warm_start.steps else None)


def train(
    config: TrainConfig, ranks: Ranks, model: MedicalSam3, tokenizer: Tokenizer, data: Data, *, resume: bool
) -> None:
    """Train to the last step, or to the next one after SIGTERM; what was done is in ``run.out``."""
    total = config.run.steps or math.ceil((config.run.epochs or 0) * len(data.train))
    freeze_idle(model, config.losses, with_clips=config.data.clips.per_step > 0)
    model.to(ranks.device).train()
    optimizer = Optimizer(groups := build_groups(model, config.optim), config.optim, total)
    if ranks.is_main:
        logger.info("%s", describe(groups))
    loop = Loop(config, ranks, model, tokenizer, data, optimizer, total)
    with stop_signal() as stop_asked:
        loop.run(stop_asked, resume=resume)


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
        model: MedicalSam3,
        tokenizer: Tokenizer,
        data: Data,
        optimizer: Optimizer,
        total: int,
    ) -> None:
        self._config, self._ranks, self._data, self._total = config, ranks, data, total
        self._model, self._tokenizer, self._optimizer = model, tokenizer, optimizer
        self._out = Path(config.run.out)
        self._checkpoints = Checkpoints(self._out / "checkpoints", config.run.keep)
        self._bf16 = config.run.precision == "bf16"
        self.step = self._first = 0
        self.best: float | None = None

    def run(self, stop_asked: Callable[[], bool], *, resume: bool) -> None:
        """Resume or start, then step until the end or until asked to stop."""
        resumed = self._resume(resume)
        self._first = self.step
        with RunLog(self._out, self.step, is_main=self._ranks.is_main) as log:
            if not resumed:
                self._start(log)
            module = TrainStep(self._model, self._config.losses, autocast=self._bf16)
            if self._config.run.compile:
                module.compile()
            wrapped = distributed.wrap(module)
            batches = self._data.train.prefetched(self.step, self._total)
            began = time.perf_counter()
            for batch in batches:
                waited = time.perf_counter() - began
                numbers = self._one_step(wrapped, batch)
                numbers |= {"seconds": time.perf_counter() - began, "wait_seconds": waited}
                log.write(self.step, numbers)
                self._tell(numbers)
                self.step += 1
                stopping = distributed.any_rank(stop_asked(), self._ranks.device)
                self._validate_and_save(log, stopping)
                if stopping:
                    logger.info("Stopped after step %d; go on with --resume auto.", self.step)
                    return
                began = time.perf_counter()

    def _one_step(self, wrapped: nn.Module, batch: Any) -> dict[str, Any]:
        phrases = encode_phrases(batch.phrases, self._tokenizer)
        terms: dict[str, Tensor] = wrapped(batch.to(self._ranks.device), phrases.to(self._ranks.device))
        torch.stack(list(terms.values())).sum().backward()
        if self.step == self._first:
            check_gradients(self._model)
        grad_norm = self._optimizer.step(self.step)
        means = distributed.mean_over_ranks(torch.stack([term.detach() for term in terms.values()])).tolist()
        return {
            "loss": math.fsum(means),
            "terms": dict(zip(terms, means, strict=True)),
            "lr": self._optimizer.rates(),
            "grad_norm": grad_norm,
            "skipped": self._optimizer.skipped,
            "pairs": len(batch.phrases),
        }

    def _validate_and_save(self, log: RunLog, stopping: bool) -> None:
        run, is_last, is_best = self._config.run, self.step == self._total, False
        if run.validate_every and (self.step % run.validate_every == 0 or is_last):
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
        self.step, self.best = meta.step, meta.best_score
        return True

    def _save(self, *, is_best: bool) -> None:
        self._checkpoints.save(self._model, self._optimizer, self._meta(), is_best=is_best, is_main=self._ranks.is_main)

    def _meta(self) -> Meta:
        return Meta(
            step=self.step,
            best_score=self.best,
            skipped=self._optimizer.skipped,
            world_size=self._ranks.world_size,
            manifest_sha256=self._data.manifest_sha256,
            config=self._config.model_dump(mode="json"),
            versions=package_versions(),
        )

    def _tell(self, numbers: dict[str, Any]) -> None:
        if self._ranks.is_main and self.step % STEPS_PER_LINE == 0:
            line = "step %d/%d  loss %.3f  gradient %.3f  %.2f s (%.2f s waiting)"
            values = (numbers["loss"], numbers["grad_norm"], numbers["seconds"], numbers["wait_seconds"])
            logger.info(line, self.step, self._total, *values)


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM into a question that the loop asks once a step, as schedulers send it before they kill."""
    asked: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
