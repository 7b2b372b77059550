"""Parameter groups, learning-rate schedule and the guarded optimiser step.

Layer-wise decay (Eq. 1 of the paper, with SAM3's numbering): the trunk's blocks lie in G groups; the
patch embedding has id 0, a block of group g = 0..G-1 has id g + 1, and its rate is
``lr * decay ** (G + 1 - id)``. With one group per block of the 32, the exponent is ``33 - id``.

Schedule at step s of T, with warm-up w, timescale k and cooldown c::

    min(1, s / w) * min(1, (T - s) / c) * (1 / sqrt((s + k - w) / k) if s > w else 1)
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from MedicalSAM3Lib.errors import RunError, SettingsError
from Training import distributed
from Training.config import OptimConfig

MODULE_PREFIXES: dict[str, tuple[str, ...]] = {
    "trunk": ("detector_model.vision_encoder.backbone.",),
    "neck": ("detector_model.vision_encoder.neck.",),
    "text": ("detector_model.text_encoder.", "detector_model.text_projection."),
    "geometry": ("detector_model.geometry_encoder.",),
    "encoder": ("detector_model.detr_encoder.",),
    "decoder": ("detector_model.detr_decoder.",),
    "masks": ("detector_model.mask_decoder.",),
    "scoring": ("detector_model.dot_product_scoring.",),
    "tracker": ("tracker_model.", "tracker_neck."),
}

_BLOCK = re.compile(r"vision_encoder\.backbone\.layers\.(\d+)\.")
_POSITION = "vision_encoder.backbone.embeddings.position_embeddings"


@dataclass(slots=True)
class Group:
    """Parameters that share a learning rate and a weight decay. ``lr`` is the peak, before the schedule."""

    name: str
    lr: float
    weight_decay: float
    parameters: list[nn.Parameter] = field(default_factory=list)


def module_of(name: str) -> str:
    """Module that a parameter belongs to.

    Raises:
        SettingsError: It belongs to none or to several, so its learning rate would be anyone's guess.
    """
    found = [module for module, prefixes in MODULE_PREFIXES.items() if name.startswith(prefixes)]
    if len(found) != 1:
        raise SettingsError(
            f"Expected one learning-rate module for {name}, got {found or 'none'}; freeze it or add it to "
            "MODULE_PREFIXES in Training/optim.py."
        )
    return found[0]


def layer_scale(name: str, num_blocks: int, config: OptimConfig) -> tuple[str, float]:
    """Suffix of the group's name and factor of the learning rate for one parameter of the trunk."""
    if name.endswith(_POSITION):
        return ".position", config.position_embedding_scale
    num_groups = min(config.layer_groups or num_blocks, num_blocks)
    block = _BLOCK.search(name)
    layer_id = 0 if block is None else 1 + int(block[1]) * num_groups // num_blocks
    return f".{layer_id}", config.layer_decay ** (num_groups + 1 - layer_id)


def build_groups(model: nn.Module, config: OptimConfig) -> list[Group]:
    """Partition the trainable parameters by module, trunk layer and weight decay.

    Raises:
        SettingsError: A trainable parameter belongs to no module.
    """
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    num_blocks = len({match[1] for name, _ in model.named_parameters() if (match := _BLOCK.search(name))})
    groups: dict[str, Group] = {}
    for name, parameter in trainable.items():
        module = module_of(name)
        suffix, scale = layer_scale(name, num_blocks, config) if module == "trunk" else ("", 1.0)
        decays = not (name.endswith("bias") or name in norms)
        key = f"{module}{suffix}" + ("" if decays else " (no decay)")
        lr = config.module_lr.get(module, config.lr) * scale  # type: ignore[call-overload]
        group = groups.setdefault(key, Group(key, lr, config.weight_decay if decays else 0.0))
        group.parameters.append(parameter)
    assert_partition(list(groups.values()), trainable.values())
    return list(groups.values())


def assert_partition(groups: Sequence[Group], trainable: object) -> None:
    """Every trainable parameter stands in exactly one group, and nothing else does."""
    grouped = [id(parameter) for group in groups for parameter in group.parameters]
    expected = {id(parameter) for parameter in trainable}  # type: ignore[attr-defined]
    assert len(grouped) == len(set(grouped)), "a parameter stands in two groups"
    assert set(grouped) == expected, "the groups are not the trainable parameters"


def describe(groups: Sequence[Group]) -> str:
    """The groups as a table, one line each and the sum."""
    rows = [("group", "tensors", "parameters", "lr", "decay")]
    for group in groups:
        size = sum(parameter.numel() for parameter in group.parameters)
        rows.append((group.name, f"{len(group.parameters)}", f"{size:,}", f"{group.lr:.2e}", f"{group.weight_decay:g}"))
    tensors = sum(len(group.parameters) for group in groups)
    total = sum(parameter.numel() for group in groups for parameter in group.parameters)
    rows.append(("all", f"{tensors}", f"{total:,}", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def schedule(step: int, total: int, config: OptimConfig) -> float:
    """Factor of the learning rates at ``step`` (from 0) of ``total``."""
    rise = min(1.0, step / config.warmup) if config.warmup else 1.0
    fall = min(1.0, (total - step) / config.cooldown) if config.cooldown else 1.0
    if step <= config.warmup:
        return rise * fall
    return rise * fall / math.sqrt((step + config.timescale - config.warmup) / config.timescale)


class Optimizer:
    """AdamW whose step clips the gradient and survives a few that are not finite.

    Attributes:
        adamw: The torch optimiser; its state is what a checkpoint holds.
        skipped: Steps skipped so far.
    """

    def __init__(self, groups: Sequence[Group], config: OptimConfig, total: int) -> None:
        self.adamw = torch.optim.AdamW(
            [
                {"params": group.parameters, "name": group.name, "lr": group.lr, "weight_decay": group.weight_decay}
                for group in groups
            ],
            betas=config.betas,
        )
        self._peaks = [group.lr for group in groups]
        self._config = config
        self._total = total
        self.skipped = 0

    def set_rates(self, step: int) -> float:
        """Set the learning rates of ``step``; returns the factor."""
        factor = schedule(step, self._total, self._config)
        for group, peak in zip(self.adamw.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        return factor

    def rates(self) -> dict[str, float]:
        """The present learning rate of each module; of the trunk, that of its fastest layer."""
        rates: dict[str, float] = {}
        for group in self.adamw.param_groups:
            module = group["name"].partition(" ")[0].partition(".")[0]
            rates[module] = max(rates.get(module, 0.0), group["lr"])
        return rates

    def clip(self) -> Tensor:
        """Clip the gradient; its norm before that, which nobody has waited for."""
        parameters = [parameter for group in self.adamw.param_groups for parameter in group["params"]]
        return distributed.whole(nn.utils.clip_grad_norm_(parameters, self._config.clip))

    def step(self, step: int, loss: float = 0.0, norm: float | None = None) -> float:
        """Update and clear the gradients; returns their norm before clipping.

        A gradient or a loss that is not finite on any rank leaves the weights as they are on all of them.

        Args:
            step: Number of the step, from 0.
            loss: Mean over all ranks.
            norm: As ``clip`` gave it; None has it clipped here.

        Raises:
            RunError: More steps were skipped than the settings allow.
        """
        self.set_rates(step)
        norm = float(self.clip()) if norm is None else norm
        if distributed.any_rank(not math.isfinite(loss) or not math.isfinite(norm)):
            self.skipped += 1
            if self.skipped > self._config.max_skipped:
                raise RunError(
                    f"Expected at most {self._config.max_skipped} losses or gradients that are not finite, got "
                    f"{self.skipped} by step {step}; lower optim.lr or run in fp32."
                )
        else:
            self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm


def check_gradients(model: nn.Module) -> None:
    """After a backward: every trainable parameter took part.

    Raises:
        RunError: Some did not; they would never learn, and other ranks would wait for them.
    """
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if idle:
        raise RunError(
            f"Expected a gradient for every trainable parameter, got none for {len(idle)}, first {idle[0]}; "
            "freeze what the objective does not use."
        )
