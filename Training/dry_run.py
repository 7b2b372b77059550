"""Rehearse a run on made-up pictures: the plan, and beside it what a few steps really take. Nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training import distributed
from Training.collate import Batch, LabelState, Sample, collate
from Training.config import TrainConfig
from Training.distributed import Ranks
from Training.memory import LiveBytes
from Training.optim import Optimizer, build_groups, check_gradients
from Training.plan import Plan, make_plan, say, steps_of_manifest
from Training.sharding import shard
from Training.step import TrainStep, encode_phrases, make_ready

STEPS = 3
"""AdamW has its state from the second step on; the first one warms up."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What steps took on this rank: bytes at the peak, seconds of the last one, and its loss."""

    bytes_peak: int
    seconds: float
    loss: float


def dry_run(config: TrainConfig, ranks: Ranks, model: MedicalSam3, tokenizer: Tokenizer) -> tuple[Plan, Measured]:
    """Plan, take a few steps, and print both on rank 0.

    Raises:
        SettingsError: The run learns from clips, which nobody makes up, or from a teacher, who is not part of a plan.
    """
    if config.data.clips.per_step:
        raise SettingsError("--dry-run: expected a run without clips, got data.clips.per_step; set it to 0.")
    if config.distil.teacher:
        raise SettingsError("--dry-run: expected a run without a teacher, got distil.teacher; set it to ''.")
    make_ready(model, config, with_clips=False)
    model.to(ranks.device).train()
    steps = steps_of_manifest(config, ranks.world_size)
    plan = make_plan(config, model, ranks.world_size, ranks.device, steps)
    module = TrainStep(model, config.losses, autocast=config.run.precision == "bf16")
    if config.run.shard:
        shard(module, config, ranks)
    groups = build_groups(model, config.optim)
    measured = measure(config, ranks, module, tokenizer, Optimizer(groups, config.optim, STEPS))
    if ranks.is_main:
        share = plan.bytes_peak / measured.bytes_peak - 1
        print(say(plan, groups, model, ranks.world_size, measured.seconds))
        print(f"measured: {measured.bytes_peak / 2**30:.2f} GiB at the peak, the prediction is {share:+.1%} off")
        rate = config.data.batch_slices // config.run.accumulate * ranks.world_size / measured.seconds
        print(f"measured: {rate:.3g} slices/s, utilisation {plan.utilisation(measured.seconds):.1%}")
        print(f"loss of the made-up pictures: {measured.loss:.4g}")
    return plan, measured


def measure(
    config: TrainConfig, ranks: Ranks, module: TrainStep, tokenizer: Tokenizer, optimizer: Optimizer
) -> Measured:
    """Take a few steps; memory is that of CUDA's allocator, or counted tensor by tensor on the CPU."""
    wrapped = distributed.wrap(module)
    on_cuda = ranks.device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(ranks.device)
    live = LiveBytes()
    live.add(module.state_dict())
    seconds, loss = 0.0, 0.0
    for step in range(STEPS):
        batch = made_up(config, module.model.image_size, step, ranks.rank).to(ranks.device)
        phrases = encode_phrases(batch.phrases, tokenizer).to(ranks.device)
        began = time.perf_counter()
        # Counting costs time: the last step is only timed.
        if on_cuda or step == STEPS - 1:
            loss = _step(wrapped, batch, phrases, optimizer, step)
        else:
            with live:
                loss = _step(wrapped, batch, phrases, optimizer, step)
        seconds = time.perf_counter() - began
    return Measured(torch.cuda.max_memory_allocated(ranks.device) if on_cuda else live.peak, seconds, loss)


def made_up(config: TrainConfig, side: int, step: int, rank: int) -> Batch:
    """Noise with a bright block for each concept that is present, as many pairs as a part of a step will have."""
    rng = torch.Generator().manual_seed(1000 * step + rank)
    present = max(1, round(config.data.phrases_per_slice * (1 - config.data.negatives)))
    samples = []
    for _ in range(config.data.batch_slices // config.run.accumulate):
        image, masks = torch.randn(3, side, side, generator=rng) * 0.2, []
        for number in range(config.data.phrases_per_slice):
            mask = torch.zeros(int(number < present), side, side, dtype=torch.bool)
            top, left = torch.randint(0, side - side // 4, (2,), generator=rng).tolist()
            mask[:, top : top + side // 4, left : left + side // 4] = True
            image = image + mask.any(0)
            masks.append(mask)
        states = tuple(LabelState.PRESENT if len(mask) else LabelState.ABSENT for mask in masks)
        samples.append(Sample(image, tuple(f"made up {n}" for n in range(len(masks))), states, tuple(masks)))
    return collate(samples)


def _step(wrapped: torch.nn.Module, batch: Batch, phrases: object, optimizer: Optimizer, step: int) -> float:
    terms = wrapped(batch, phrases)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    if step == 0:
        check_gradients(wrapped)
    optimizer.step(step)
    return float(total.detach())
