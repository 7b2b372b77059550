"""What a run will take, said before it starts: parameters, memory, steps and time.

Memory and work are those of one step on fake tensors, which have shapes and no content: forward, losses and backward
are walked through as they will be, on a made-up batch. ``--dry-run`` measures the same beside it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.sam3.modeling_sam3 import Sam3SinePositionEmbedding
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoPositionEmbeddingSine

from MedicalSAM3Lib.architecture import architecture_of
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.text import Tokenizer
from Training.collate import Batch
from Training.config import TrainConfig
from Training.distil import Teacher
from Training.made_up import made_up, made_up_values
from Training.memory import LiveBytes
from Training.optim import Group, describe, module_of
from Training.sharding import gathered_at_once
from Training.step import Phrases, TrainStep, encode_phrases, make_ready


@dataclass(frozen=True, slots=True)
class Plan:
    """One rank's share of a step.

    Attributes:
        parameters, learning: Weights of the network, and those of them that learn.
        bytes_fixed: Weights (a teacher's and the running mean too), AdamW's two moments, and with several ranks the
            gradients, which stay in buckets.
        bytes_step: What forward and backward add at their peak.
        flops: Multiplications and additions of forward and backward.
        rate: Of them in a second that the device reaches in a large matrix product.
        steps, steps_an_epoch: 0 where unknown.
    """

    parameters: int
    learning: int
    bytes_fixed: int
    bytes_step: int
    flops: int
    rate: float
    steps: int
    steps_an_epoch: int

    @property
    def bytes_peak(self) -> int:
        """Largest use of memory: in the backward, or in the update, when activations have gone."""
        return self.bytes_fixed + max(self.bytes_step, 8 * self.learning)

    def utilisation(self, seconds: float) -> float:
        """Fraction of the device's rate that a step of this length makes use of."""
        return self.flops / seconds / self.rate


def make_plan(
    config: TrainConfig,
    model: MedicalSam3,
    tokenizer: Tokenizer,
    world_size: int,
    device: torch.device,
    steps: int,
    teacher: Teacher | None = None,
) -> Plan:
    """Walk through one step of a network that is ready to train (idle parts frozen)."""
    batch = made_up(config, model.image_size, 0, 0)
    # The second part of a step has the gradients of the first beside it, as has any later one.
    parts = batch.split(config.run.accumulate)[:2] if config.run.accumulate > 1 else [batch]
    asked = [encode_phrases(part.phrases, tokenizer) for part in parts]
    step_bytes, flops = walk(config, model, list(zip(parts, asked, strict=True)), world_size, teacher)
    flops = flops * config.run.accumulate // len(parts)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = _bytes_of(model.state_dict())
    if config.run.shard:  # its part of everything, gradients too, and what is gathered at once
        fixed = (weights + 12 * learning) // world_size + gathered_at_once(model)
    else:
        fixed = weights + 8 * learning + (4 * learning if world_size > 1 else 0)
    fixed += weights if config.run.ema_decay else 0
    fixed += _bytes_of(teacher.model.state_dict()) if teacher else 0
    rate = matmul_rate(device, torch.bfloat16 if config.run.precision == "bf16" else torch.float32)
    epoch = round(steps / config.run.epochs) if config.run.epochs else 0
    return Plan(parameters, learning, fixed, step_bytes, flops, rate, steps, epoch)


def walk(
    config: TrainConfig,
    model: MedicalSam3,
    parts: Sequence[tuple[Batch, Phrases]],
    world_size: int,
    teacher: Teacher | None,
) -> tuple[int, int]:
    """Bytes that forward and backward add to what is there before, and their work, of networks of the same sizes."""
    with _nothing_kept(), made_up_values(read=False), FakeTensorMode(allow_non_fake_inputs=True):
        fake = architecture_of(model).build_empty().train()
        make_ready(fake, config, with_clips=config.data.clips.per_step > 0)
        who = Teacher(architecture_of(teacher.model).build_empty(), teacher.config) if teacher else None
        step = TrainStep(fake, config.losses, autocast=config.run.precision == "bf16", teacher=who)
        live = LiveBytes()
        live.add([fake.state_dict(), who.model.state_dict() if who else {}])
        if world_size > 1:
            _gradients_elsewhere(fake, sharded=config.run.shard)
        before = live.now
        with FlopCounterMode(display=False) as counter, live:
            for batch, phrases in parts:
                torch.stack(list(step(batch, phrases).values())).sum().backward()
    return live.peak - before, counter.get_total_flops()


def _gradients_elsewhere(model: nn.Module, *, sharded: bool) -> None:
    """Have gradients not counted as a step's own: they stay in DDP's buckets, or are given away as they come (FSDP)."""
    for parameter in model.parameters():
        if parameter.requires_grad and sharded:
            parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))
        elif parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Keep ``transformers`` from remembering position embeddings by their size: real ones would get fake ones later."""
    name = "build_sine_position_embedding"
    owners = (Sam3SinePositionEmbedding, Sam3TrackerVideoPositionEmbeddingSine)
    remembering = [owner.__dict__[name] for owner in owners]
    for owner in owners:
        setattr(owner, name, staticmethod(inspect.unwrap(getattr(owner, name))))
    try:
        yield
    finally:
        for owner, kept in zip(owners, remembering, strict=True):
            setattr(owner, name, kept)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions in a second of a large matrix product: the device's practical peak."""
    side = 8192 if device.type == "cuda" else 768
    one = torch.randn(side, side, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        product = one @ one
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def steps_of_manifest(config: TrainConfig, world_size: int) -> int:
    """Steps of the run by what the manifest lists; 0 without a manifest."""
    from Training.manifest import read_manifest

    if config.run.steps:
        return config.run.steps
    path = Path(config.data.manifest)
    if not path.is_file():
        return 0
    rows = read_manifest(path).rows
    slices = len({(row.volume_id, row.slice_index) for row in rows if row.split == "train"})
    return round(-(-slices // (config.data.batch_slices * world_size)) * (config.run.epochs or 0))


def say(plan: Plan, groups: Sequence[Group], model: nn.Module, world_size: int, seconds: float | None = None) -> str:
    """The plan as text.

    Args:
        seconds: Of a step as measured; without it the time is that of 40 % utilisation, and said to be.
    """
    step_s = plan.flops / plan.rate / 0.4 if seconds is None else seconds
    how = "at 40 % of what the device's matrix product reaches" if seconds is None else "as measured"
    lines = [
        describe(groups),
        f"frozen: {plan.parameters - plan.learning:,} of {plan.parameters:,} parameters ({_frozen_parts(model)})",
        f"memory of a rank: {gib(plan.bytes_peak)} predicted at the peak, of which "
        f"{gib(plan.bytes_fixed)} for weights and AdamW, {gib(plan.bytes_step)} for a step",
        f"work of a step: {plan.flops / 1e12:.3g} TFLOP a rank; {step_s:.3g} s {how}",
    ]
    if plan.steps:
        lines.append(f"steps: {plan.steps:,} on {world_size} ranks, {_hours(plan.steps * step_s)}")
    if plan.steps_an_epoch:
        lines.append(f"epoch: {plan.steps_an_epoch:,} steps, {_hours(plan.steps_an_epoch * step_s)}")
    return "\n".join(lines)


def _bytes_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _frozen_parts(model: nn.Module) -> str:
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            part = module_of(name)
            sizes[part] = sizes.get(part, 0) + parameter.numel()
    return ", ".join(f"{part} {size:,}" for part, size in sizes.items()) or "none"


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"
