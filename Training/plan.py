"""What a run will take, said before it starts: parameters, memory, steps and time.

Memory and work are those of one step on fake tensors, which have shapes and no content: forward and backward of the
network are walked through as they will be, the losses are estimated. ``--dry-run`` measures the same beside it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.sam3.modeling_sam3 import Sam3SinePositionEmbedding

from MedicalSAM3Lib.architecture import architecture_of
from MedicalSAM3Lib.model import MedicalSam3
from Training.config import TrainConfig
from Training.forward import Outputs, forward_train
from Training.memory import LiveBytes
from Training.optim import Group, describe, module_of
from Training.recompute import recompute_layers
from Training.step import put_adapters

COPIES_OF_A_MAP = 4
"""Maps that a loss on masks holds at once for each map that it compares, as measured; one such loss runs at a time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One rank's share of a step.

    Attributes:
        parameters, learning: Weights of the network, and those of them that learn.
        bytes_fixed: Weights, AdamW's two moments, and with several ranks the buckets of the gradients.
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


def make_plan(config: TrainConfig, model: MedicalSam3, world_size: int, device: torch.device, steps: int) -> Plan:
    """Walk through one step of a network that is ready to train (idle parts frozen)."""
    bf16 = config.run.precision == "bf16"
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    step_bytes, flops = walk(config, model, frozen, config.data.batch_slices // config.run.accumulate)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    fixed = weights + 8 * learning + (4 * learning if world_size > 1 else 0)
    if config.run.shard:  # its part of everything, and the weights as far as they are gathered
        fixed = weights + (weights + 8 * learning) // world_size
    rate = matmul_rate(device, torch.bfloat16 if bf16 else torch.float32)
    epoch = round(steps / config.run.epochs) if config.run.epochs else 0
    return Plan(parameters, learning, fixed, step_bytes, flops, rate, steps, epoch)


def walk(config: TrainConfig, model: MedicalSam3, frozen: Sequence[str], slices: int) -> tuple[int, int]:
    """Bytes that forward and backward add to the weights, and their work, of a network of the same sizes."""
    pairs = slices * config.data.phrases_per_slice
    losses, side = config.losses, model.image_size
    with _nothing_kept(), FakeTensorMode(allow_non_fake_inputs=True):
        fake = architecture_of(model).build_empty().train()
        put_adapters(fake, config)
        for name in frozen:
            fake.get_parameter(name).requires_grad_(False)
        if config.run.recompute:
            recompute_layers(fake)
        live = LiveBytes()
        live.add(fake.state_dict())
        weights = live.now
        images, tokens = torch.zeros(slices, 3, side, side), torch.zeros(pairs, 32, dtype=torch.int64)
        rows, asked = torch.zeros(pairs, dtype=torch.int64), torch.ones_like(tokens)
        with FlopCounterMode(display=False) as counter, live:
            with torch.autocast("cpu", torch.bfloat16, enabled=config.run.precision == "bf16"):
                pyramid = fake.pyramid(fake.encode_trunk(images))
                text = fake.encode_text(tokens, asked).take(rows)
                outputs = forward_train(fake, pyramid, text, losses.one_to_many, losses.with_masks, rows)
            forward = live.now
            _all_of(outputs).backward()
    of_losses = largest_mask_loss(config, slices) * side**2 * 4 if losses.mask_loss_size == "target" else 0
    return max(live.peak, forward + of_losses) - weights, counter.get_total_flops()


def largest_mask_loss(config: TrainConfig, slices: int) -> int:
    """Maps that are alive in the largest loss on masks: with one object for each concept that is present."""
    data, losses = config.data, config.losses
    present = slices * max(1, round(data.phrases_per_slice * (1 - data.negatives)))
    instances = bool(losses.mask_focal + losses.mask_dice) * (losses.many_matcher.topk if losses.one_to_many else 1)
    return COPIES_OF_A_MAP * present * max(instances, bool(losses.semantic_focal + losses.semantic_dice))


@contextmanager
def _nothing_kept() -> Iterator[None]:
    """Keep ``transformers`` from remembering position embeddings by their size: real ones would get fake ones later."""
    owner, name = Sam3SinePositionEmbedding, "build_sine_position_embedding"
    remembering = owner.__dict__[name]
    setattr(owner, name, staticmethod(inspect.unwrap(getattr(owner, name))))
    try:
        yield
    finally:
        setattr(owner, name, remembering)


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
        f"memory of a rank: {_gib(plan.bytes_peak)} predicted at the peak, of which "
        f"{_gib(plan.bytes_fixed)} for weights and AdamW, {_gib(plan.bytes_step)} for a step",
        f"work of a step: {plan.flops / 1e12:.3g} TFLOP a rank; {step_s:.3g} s {how}",
    ]
    if plan.steps:
        lines.append(f"steps: {plan.steps:,} on {world_size} ranks, {_hours(plan.steps * step_s)}")
    if plan.steps_an_epoch:
        lines.append(f"epoch: {plan.steps_an_epoch:,} steps, {_hours(plan.steps_an_epoch * step_s)}")
    return "\n".join(lines)


def _all_of(outputs: Outputs) -> Tensor:
    """A number that depends on everything that the losses read."""
    layers = [part for one in (*outputs.layers, *outputs.many) for part in (one.logits, one.boxes_cxcywh, one.presence)]
    every = [*layers, outputs.instances, outputs.many_instances, outputs.semantic]
    return torch.stack([part.float().sum() for part in every if part is not None]).sum()


def _frozen_parts(model: nn.Module) -> str:
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            part = module_of(name)
            sizes[part] = sizes.get(part, 0) + parameter.numel()
    return ", ".join(f"{part} {size:,}" for part, size in sizes.items()) or "none"


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds / 60:.1f} min"
