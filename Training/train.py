"""Fine-tune SAM3, or train a small one from nothing.

    python -m Training.train --config Training/recipes/tiny.yaml [--resume auto | --dry-run] [optim.lr=1e-4 ...]
    torchrun --nproc-per-node 4 Training/train.py --config Training/recipes/medical_sam3.yaml

Read from ``main`` down: configuration, process group, model, data, plan, optimiser, loop, checkpoint, validation.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch

from MedicalSAM3Lib.errors import MedicalSAM3Error, SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.model_folder import sha256_of
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed
from Training.config import TrainConfig, load_config
from Training.distil import load_teacher
from Training.distributed import Ranks
from Training.dry_run import dry_run
from Training.loop import Data, Loop
from Training.network import build_network
from Training.optim import Optimizer, build_groups, describe
from Training.plan import make_plan, say
from Training.progress import StderrHandler
from Training.sharding import shard
from Training.signals import STOPPED, stop_signals
from Training.step import TrainStep, make_ready

logger = logging.getLogger("Training.train")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry; returns the exit code, ``STOPPED`` where a signal ended the run before its last step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see Training/recipes")
    parser.add_argument("--resume", choices=["never", "auto"], default="never", help="auto: go on where run.out ends")
    parser.add_argument(
        "--dry-run", action="store_true", help="plan, and a few steps on made-up pictures; writes nothing"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[StderrHandler()])
    try:
        config = load_config(options.config, options.overrides)
        torch.set_num_threads(config.run.num_threads)
        timeout = timedelta(minutes=config.run.timeout_minutes)
        with distributed.process_group(config.run.device, timeout=timeout) as ranks:
            model, tokenizer = build_network(config.model, config.run.seed)
            if options.dry_run:
                dry_run(config, ranks, model, tokenizer)
                return 0
            data = build_data(config, model.image_size, ranks)
            finished = train(config, ranks, model, tokenizer, data, resume=options.resume == "auto")
    except MedicalSAM3Error as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0 if finished else STOPPED


def build_data(config: TrainConfig, side: int, ranks: Ranks) -> Data:
    """Read the manifest and its volumes; raises ``InputError`` when either is not sound."""
    from Training.data import BatchSource, TrainingData
    from Training.manifest import read_manifest
    from Training.manifest_files import check_files
    from Training.warmstart import warm_start_once

    path = Path(config.data.manifest)
    if ranks.is_main:  # reads every image, once a run; where it fails the others are told that this rank has ended
        check_files(read_manifest(path), known=Path(config.run.out) / "hashes.json")
    distributed.barrier()
    data = TrainingData.load(config.data)
    if data.config.preprocess.image_size != side:
        raise SettingsError(f"data.preprocess.image_size: expected {side} as the network has, got another; make it so.")

    def source(split: str) -> BatchSource:
        return data.source(split, seed=config.run.seed, rank=ranks.rank, world_size=ranks.world_size)

    def warm(model: MedicalSam3, log: Callable[[int, float], None]) -> None:
        warm_start_once(Path(config.run.out), model, data, config, ranks, log)

    return Data(source("train"), source("val"), sha256_of(path), warm if config.warm_start.steps else None)


def train(
    config: TrainConfig, ranks: Ranks, model: MedicalSam3, tokenizer: Tokenizer, data: Data, *, resume: bool
) -> bool:
    """Train to the last step, or to the next one after a signal; what was done is in ``run.out``.

    Returns:
        Whether the last step was reached.
    """
    total = config.run.steps or math.ceil((config.run.epochs or 0) * len(data.train))
    make_ready(model, config, with_clips=config.data.clips.per_step > 0)
    model.to(ranks.device).train()
    teacher = load_teacher(config.distil, tokenizer, ranks.device)
    plan = (
        make_plan(config, model, tokenizer, ranks.world_size, ranks.device, total, teacher) if config.run.plan else None
    )
    module = TrainStep(model, config.losses, autocast=config.run.precision == "bf16", teacher=teacher)
    if config.run.shard:
        shard(module, config, ranks)
    optimizer = Optimizer(groups := build_groups(model, config.optim), config.optim, total)
    if ranks.is_main:
        logger.info("%s", say(plan, groups, model, ranks.world_size) if plan else describe(groups))
    loop = Loop(config, ranks, module, tokenizer, data, optimizer, total, plan)
    with stop_signals() as stop_asked:
        return loop.run(stop_asked, resume=resume)


if __name__ == "__main__":
    sys.exit(main())
