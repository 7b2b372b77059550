"""Weights, gradients and AdamW's moments divided among the ranks (FSDP2), where a whole copy on each is too much.

Each layer of trunk and text encoder is gathered when its turn comes and given back after it; the rest is gathered once
a step. What is saved is whole, so that a checkpoint does not tell whether its run was sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from Training.config import TrainConfig
from Training.distributed import Ranks, whole
from Training.step import TrainStep


def shard(step: TrainStep, config: TrainConfig, ranks: Ranks) -> None:
    """Divide the parameters of a step among the ranks, in place; before an optimiser knows of them.

    Raises:
        SettingsError: There is one rank alone, or another setting asks for whole weights during the run.
    """
    if not distributed.is_initialized():
        raise SettingsError("run.shard: expected several ranks, got one; start with torchrun or set it to false.")
    whole_only = {
        "run.ema_decay": config.run.ema_decay > 0,
        "run.compile": config.run.compile,
        "optim.low_rank": config.optim.low_rank > 0,
        "warm_start.steps": config.warm_start.steps > 0,
        "data.clips.per_step": config.data.clips.per_step > 0,
    }
    asked = [name for name, is_on in whole_only.items() if is_on]
    if asked:
        raise SettingsError(f"run.shard: expected no {', '.join(asked)} beside it, got them; turn one of both off.")
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    for layer in _layers(step.model):
        fully_shard(layer, mesh=mesh)
    fully_shard(step, mesh=mesh)


def gathered_at_once(model: MedicalSam3) -> int:
    """Bytes of the weights that are whole on each rank at a time: a layer and the one ahead of it, and all the rest."""
    layers = [_bytes_of(layer) for layer in _layers(model)]
    return _bytes_of(model) - sum(layers) + 2 * max(layers, default=0)


def _layers(model: MedicalSam3) -> list[nn.Module]:
    detector = model.detector_model
    text = detector.text_encoder
    return [*detector.vision_encoder.backbone.layers, *getattr(text, "text_model", text).encoder.layers]


def _bytes_of(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


@contextmanager
def gathered(step: nn.Module) -> Iterator[None]:
    """Within the block the weights of a sharded step are whole, for those who call its parts; all ranks enter."""
    parts = [module for module in step.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def is_divided(model: nn.Module) -> bool:
    """Whether a model's parameters are divided among the ranks."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_copy(tensor: Tensor, *, keep: bool) -> Tensor:
    """A whole copy in main memory, an empty one where it is not kept; all ranks ask for a divided one."""
    tensor = whole(tensor.detach())
    return tensor.to("cpu", copy=True) if keep else tensor.new_empty(0)


def divided_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a whole tensor that all ranks have, where the parameter is divided; else itself."""
    if not isinstance(parameter, DTensor):
        return tensor
    # Without a source nothing is sent: each rank takes its part of its own copy.
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )


def divided_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Whole weights as the model holds its own."""
    own = model.state_dict()
    return {name: divided_like(value, own[name]) if name in own else value for name, value in weights.items()}


def divided_state(state: Mapping[str, Any], adamw: torch.optim.Optimizer) -> dict[str, Any]:
    """AdamW's whole state as the parameters are divided; counters stay as they are."""
    parameters = [parameter for group in adamw.param_groups for parameter in group["params"]]
    moments = {
        number: {
            name: divided_like(value, parameters[number]) if value.shape == parameters[number].shape else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": moments}
