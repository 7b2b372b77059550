"""A running mean of the weights, which is validated and used in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningMean:
    """``mean = decay * mean + (1 - decay) * weights`` after every step; every rank keeps its own, and all are equal.

    Attributes:
        tensors: By the names of the model's state.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the present weights in."""
        for name, tensor in model.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(tensor, 1.0 - self._decay)
            else:
                mean.copy_(tensor)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a saved mean of the same network."""
        for name, mean in self.tensors.items():
            mean.copy_(tensors[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Lend the mean to the model; afterwards it has its own weights again."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            model.load_state_dict(own)
