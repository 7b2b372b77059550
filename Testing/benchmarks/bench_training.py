"""What training costs: ours beside the straightforward way (``plain_training``), in time and memory.

Both sides have the same weights, the same synthetic pictures and the same objective, and come to the same gradient.
Memory is the most above network and batch, gradients included, of a process of its own for each number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.registry import load_model
from MedicalSAM3Lib.text import Tokenizer
from Testing.benchmarks.measuring import PeakMemory, in_fresh_process, seconds
from Testing.benchmarks.plain_training import plain_masks, plain_step
from Testing.benchmarks.tables import Table, number, ratio
from Testing.benchmarks.worlds import CONCEPTS, Options, Size, random_model
from Training.collate import Batch, LabelState, Sample, collate
from Training.loss_config import LossConfig
from Training.mask_losses import at_points, focal_and_dice, focal_and_dice_of_masks
from Training.step import Phrases, TrainStep, encode_phrases, freeze_idle

COUNTS = (1, 4, 8)
IMAGES = 2
REPEATS = 3
FULL_CONCEPTS = 4
QUERIES, SIDE, LOGITS_SIDE, POINTS = 200, 1008, 288, 12_544

LOSSES = LossConfig(mask_focal=200.0, mask_dice=10.0, absent_semantic=5.0)
"""Every term; ours compares masks at their own size or at that of the logits (``_losses``)."""

Way = Literal["plain", "ours"]
MaskWay = Literal["enlarged", "ours, target", "ours, logits", "ours, points"]
MASK_WAYS: tuple[MaskWay, ...] = ("enlarged", "ours, target", "ours, logits", "ours, points")

STEP = (
    *("Concepts an image", "Pair by pair (s)", "Ours (s)", "Pair by pair / ours"),
    *("Pair by pair (MB)", "Ours (MB)", "Ours / pair by pair"),
)
GRAPHS = "Pair by pair one pair's graph is kept at a time, in ours the decoders' of all pairs and the trunk's once."
MASKS = ("Masks compared", "Forward and backward (s)", "Memory (MB)", "Part of enlarged")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a forward and backward, and most memory above what was there before, in 10^6 bytes."""

    seconds: float
    above_mb: float | None


@dataclass(frozen=True, slots=True)
class World:
    """What a step is measured on.

    Attributes:
        size: "tiny" is the bundled model; "full" and "small" have random weights.
        images, concepts: How many slices, and how many concepts are asked of each.
        with_optimizer: A whole step, with clipping and AdamW, or forward and backward alone.
        dtype: Of the weights.
    """

    size: Size | Literal["tiny"]
    images: int
    concepts: int
    with_optimizer: bool
    dtype: torch.dtype = torch.float32


def run(options: Options) -> Iterator[Table]:
    """Whole steps of the bundled model."""
    rows = []
    for concepts in COUNTS:
        world = World("tiny", IMAGES, concepts, with_optimizer=True)
        plain, ours = (in_fresh_process(measure_step, world, way, REPEATS) for way in ("plain", "ours"))
        rows.append(_row(concepts, plain, ours))
    note = f"Slices: {IMAGES}; every term of the objective, clipping and AdamW; fp32 on the CPU."
    yield Table("Whole training steps of the bundled model", STEP, tuple(rows), (note, GRAPHS))


def run_full(options: Options) -> Iterator[Table]:
    """The full size without an optimizer, and the mask losses alone."""
    size: Size = options.size
    world = World(size, 1, FULL_CONCEPTS, with_optimizer=False, dtype=torch.bfloat16)
    one = World(size, 1, 1, with_optimizer=False, dtype=torch.bfloat16)
    rows = []
    for chosen in (one, world):
        plain, ours = (in_fresh_process(measure_step, chosen, way, 1) for way in ("plain", "ours"))
        rows.append(_row(chosen.concepts, plain, ours))
    note = "One slice, random weights in bf16 on the CPU, forward and backward, no optimizer."
    yield Table(f"Training at SAM3's {size} size", STEP, tuple(rows), (note, GRAPHS))
    side, logits_side, count = (SIDE, LOGITS_SIDE, QUERIES) if size == "full" else (64, 16, 20)
    measured = {way: in_fresh_process(measure_masks, way, count, side, logits_side) for way in MASK_WAYS}
    yield masks_table(measured, count, side)


def masks_table(measured: dict[MaskWay, Cost], count: int, side: int) -> Table:
    """A row for each way of comparing masks."""
    enlarged = measured["enlarged"]
    rows = tuple(
        (way, number(cost.seconds), number(cost.above_mb, 0), ratio(cost.above_mb, enlarged.above_mb))
        for way, cost in measured.items()
    )
    return Table(f"Mask losses of {count} queries at {side} px", MASKS, rows, ("fp32, focal and dice.",))


def measure_step(world: World, way: Way, repeats: int) -> Cost:
    """Time and memory of a step; call it in a fresh process."""
    model, tokenizer = _network(world)
    step = make_step(model, tokenizer, world, way)
    memory = PeakMemory(torch.device("cpu"))
    first = seconds(step)
    above = memory.above_mb()
    return Cost(min(first, seconds(step, repeats - 1)) if repeats > 1 else first, above)


def make_step(model: MedicalSam3, tokenizer: Tokenizer, world: World, way: Way) -> Callable[[], float]:
    """A step in one of the ways, which returns its loss."""
    losses = _losses(way)
    freeze_idle(model.train(), losses)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-6) if world.with_optimizer else None
    batch = make_batch(world.images, world.concepts, model.image_size, world.dtype)
    phrases = encode_phrases(batch.phrases, tokenizer)
    ours = TrainStep(model, losses, autocast=False)

    def step() -> float:
        for parameter in parameters:
            parameter.grad = None
        loss = plain_step(model, batch, phrases, losses) if way == "plain" else _ours(ours, batch, phrases)
        if optimizer is not None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        return loss

    return step


def make_batch(images: int, concepts: int, side: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Noise with bright rectangles: of four concepts three are there, two objects each, and one is absent."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(images):
        masks, states = [], []
        picture = torch.randn(3, side, side, generator=generator) / 4
        for concept in range(concepts):
            objects = torch.zeros(2 if concept % 4 != 3 else 0, side, side, dtype=torch.bool)
            for one in objects:
                top, left = torch.randint(0, side // 2, (2,), generator=generator).tolist()
                one[top : top + side // 4, left : left + side // 3] = True
                picture[:, one] += 1.0
            masks.append(objects)
            states.append(LabelState.PRESENT if len(objects) else LabelState.ABSENT)
        samples.append(Sample(picture.to(dtype), CONCEPTS[:concepts], tuple(states), tuple(masks)))
    return collate(samples)


def measure_masks(way: MaskWay, count: int, side: int, logits_side: int) -> Cost:
    """Time and memory of the mask losses alone; call it in a fresh process."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, logits_side, logits_side, generator=generator, requires_grad=True)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    masks[:, side // 4 : side // 2, side // 4 : side // 2] = True
    memory = PeakMemory(torch.device("cpu"))
    taken = seconds(lambda: sum(mask_losses(way, logits, masks)).backward())  # type: ignore[attr-defined]
    return Cost(taken, memory.above_mb())


def mask_losses(way: MaskWay, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Focal and dice, compared in one of the ways."""
    alpha, gamma = LOSSES.mask_alpha, LOSSES.mask_gamma
    if way == "enlarged":
        return plain_masks(logits, masks, alpha, gamma)
    if way == "ours, points":
        compared = at_points(logits, masks, POINTS, LOSSES.point_oversample, LOSSES.point_importance)
        return focal_and_dice(*compared, alpha, gamma)
    return focal_and_dice_of_masks(logits, masks, "target" if way == "ours, target" else "logits", alpha, gamma)


def _losses(way: Way) -> LossConfig:
    """The straightforward way compares masks at the size of the picture, ours at that of the logits."""
    return LOSSES if way == "plain" else LOSSES.model_copy(update={"mask_loss_size": "logits"})


def _ours(step: TrainStep, batch: Batch, phrases: Phrases) -> float:
    loss = torch.stack(list(step(batch, phrases).values())).sum()
    loss.backward()
    return float(loss.detach())


def _network(world: World) -> tuple[MedicalSam3, Tokenizer]:
    torch.manual_seed(0)
    loaded = load_model("tiny", "cpu", "exact") if world.size == "tiny" else random_model(world.size)
    # The tracker learns from clips, which are another matter.
    loaded.model.tracker_model = loaded.model.tracker_neck = None
    return loaded.model.to(world.dtype), loaded.tokenizer


def _row(concepts: int, plain: Cost, ours: Cost) -> tuple[str, ...]:
    return (
        str(concepts),
        *(number(plain.seconds), number(ours.seconds), ratio(plain.seconds, ours.seconds)),
        *(number(plain.above_mb, 0), number(ours.above_mb, 0), ratio(ours.above_mb, plain.above_mb)),
    )
