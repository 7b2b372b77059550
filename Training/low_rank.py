"""Low-rank adapters: a frozen weight W is used as W + B A * alpha / r, and only A and B learn.

They stand in for the weight itself (``torch.nn.utils.parametrize``), so that all code that reads it, the inference path
of validation as well, sees the sum. ``merged`` adds them up for good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from MedicalSAM3Lib.errors import SettingsError

_ORIGINAL, _ADAPTER = ".parametrizations.weight.original", ".parametrizations.weight.0."


class LowRank(nn.Module):
    """The sum of a weight ``(out, in)`` and two thin matrices ``(out, r)`` and ``(r, in)``; zero at first."""

    scale: Tensor

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as it is used."""
        return weight + self.up @ self.down * self.scale


def add_low_rank(model: nn.Module, prefixes: Sequence[str], rank: int, alpha: float) -> int:
    """Put adapters on the linear layers below the prefixes that learn, and freeze all else there; returns how many.

    Raises:
        SettingsError: There is no such layer.
    """
    inside = tuple(prefixes)
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [layer for name, layer in linear if name.startswith(inside) and layer.weight.requires_grad]
    if not found:
        raise SettingsError("optim.low_rank: expected modules with linear layers, got none; name others.")
    for name, parameter in model.named_parameters():
        if name.startswith(inside):
            parameter.requires_grad_(False)
    for layer in found:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha))
    return len(found)


def merged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network with its adapters added to their weights, under the names that it has without them."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_ORIGINAL):
            layer = name.removesuffix(_ORIGINAL)
            up, down, scale = (tensors[f"{layer}{_ADAPTER}{part}"] for part in ("up", "down", "scale"))
            result[f"{layer}.weight"] = tensor + up @ down * scale
        elif _ADAPTER not in name:
            result[name] = tensor
    return result
