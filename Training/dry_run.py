"""Rehearse a run on made-up pictures: the plan, and beside it what a few steps really take. Nothing is written."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed
from Training.config import TrainConfig
from Training.distil import load_teacher
from Training.distributed import Ranks
from Training.ema import RunningMean
from Training.made_up import made_up, made_up_values
from Training.memory import LiveBytes
from Training.optim import Optimizer, build_groups, check_gradients
from Training.plan import Plan, gib, make_plan, say, steps_of_manifest
from Training.sharding import shard
from Training.step import TrainStep, backward, make_ready

STEPS = 3
"""AdamW has its state from the second step on; the first one warms up."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What steps took on this rank: bytes at the peak, seconds of the last one, its loss and its number of slices."""

    bytes_peak: int
    seconds: float
    loss: float
    slices: int


def dry_run(config: TrainConfig, ranks: Ranks, model: MedicalSam3, tokenizer: Tokenizer) -> tuple[Plan, Measured]:
    """Plan, take a few steps, and print both on rank 0."""
    make_ready(model, config, with_clips=config.data.clips.per_step > 0)
    model.to(ranks.device).train()
    teacher = load_teacher(config.distil, tokenizer, ranks.device)
    steps = steps_of_manifest(config, ranks.world_size)
    plan = make_plan(config, model, tokenizer, ranks.world_size, ranks.device, steps, teacher)
    module = TrainStep(model, config.losses, autocast=config.run.precision == "bf16", teacher=teacher)
    if config.run.shard:
        shard(module, config, ranks)
    groups = build_groups(model, config.optim)
    measured = measure(config, ranks, module, tokenizer, Optimizer(groups, config.optim, STEPS))
    if ranks.is_main:
        share = plan.bytes_peak / measured.bytes_peak - 1
        print(say(plan, groups, model, ranks.world_size, measured.seconds))
        print(f"measured: {gib(measured.bytes_peak)} at the peak, the prediction is {share:+.1%} off")
        rate = measured.slices * ranks.world_size / measured.seconds
        print(f"measured: {rate:.3g} slices/s, utilisation {plan.utilisation(measured.seconds):.1%}")
        print(f"loss of the made-up pictures: {measured.loss:.4g}")
    return plan, measured


def measure(
    config: TrainConfig, ranks: Ranks, module: TrainStep, tokenizer: Tokenizer, optimizer: Optimizer
) -> Measured:
    """Take a few steps; memory is that of CUDA's allocator, or counted tensor by tensor on the CPU."""
    model, wrapped = module.model, distributed.wrap(module)
    mean = RunningMean(model, config.run.ema_decay) if config.run.ema_decay else None
    on_cuda = ranks.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(ranks.device)
    live = LiveBytes()
    live.add([module.state_dict(), mean.tensors if mean else {}])
    live.add(module.teacher.model.state_dict() if module.teacher else {})
    batch = made_up(config, model.image_size, 0, ranks.rank)
    for step in range(STEPS):
        began = time.perf_counter()
        # Counting costs time: the last step is only timed.
        with made_up_values(read=True), nullcontext() if on_cuda or step == STEPS - 1 else live:
            terms = backward(wrapped, batch, tokenizer, ranks.device, config.run.accumulate)
            if step == 0:
                check_gradients(model)
            optimizer.step(step)
            if mean is not None:
                mean.update(model)
        loss = float(torch.stack(list(terms.values())).sum())
        seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(ranks.device) if on_cuda else live.peak
    return Measured(peak, seconds, loss, len(batch.images))
