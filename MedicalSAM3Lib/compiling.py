"""The trunk in compiled form, where there is a GPU, the format is a half one, and there are slices enough.

Only the layers are compiled, each by itself: SAM3's 32 are of two kinds (in windows, and over the whole slice), so
that two small graphs serve all of them, in a fraction of the time that one graph of everything takes. A graph is made
for one batch size; a shorter batch is filled up, and what comes of the filling is thrown away.

What rounds otherwise is not exact, so float32 is never compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from MedicalSAM3Lib.errors import MemoryFull
from MedicalSAM3Lib.runtime import Runtime

if TYPE_CHECKING:
    from MedicalSAM3Lib.model import MedicalSam3

LEAST_SLICES = 512
"""Measured at full size on an H100: two graphs take 11 s to make, and save 12 of a slice's 28 ms, so that they come
back in after 900 slices; on a GPU that is slower by half or more, after fewer than this. A process keeps its graphs, so
a server makes them before anybody asks (``warm_up``), and then they pay at once."""

BACKEND: str | Callable[..., Any] = "inductor"


def pays(net: MedicalSam3, runtime: Runtime, n_slices: int) -> bool:
    """Whether to compile for so many slices."""
    return can(runtime) and (net.has_graphs or n_slices >= LEAST_SLICES)


def can(runtime: Runtime) -> bool:
    """Whether compiling is of use there."""
    return runtime.device.type == "cuda" and runtime.dtype != torch.float32


def warm_up(net: MedicalSam3, runtime: Runtime, size: int) -> None:
    """Make the graphs for batches of a size, where they are of use, before anybody waits for them."""
    if can(runtime):
        trunk = Trunk(net, runtime)
        with trunk.compiled(True):
            trunk.encode(torch.zeros(size, 3, net.image_size, net.image_size, device=runtime.device), size)


def few_sizes(size: int) -> int:
    """A batch size that is not above another, and one of few: each costs a graph. A power of two."""
    return 1 << (size.bit_length() - 1)


class Trunk:
    """``encode_trunk`` of a network, with compiled layers inside ``compiled`` and until that fails."""

    def __init__(self, net: MedicalSam3, runtime: Runtime) -> None:
        self._net, self._runtime = net, runtime
        self._layers: list[nn.Module] = []

    def encode(self, pictures: Tensor, size: int) -> Tensor:
        """Tokens ``(n, L, D)`` of pictures ``(n, 3, S, S)`` in the run's format.

        Args:
            size: Of most batches, n or more.

        Raises:
            MemoryFull: They do not fit.
        """
        if self._layers:
            try:
                tokens = self._encode(_filled(pictures, size))[: len(pictures)]
                self._net.has_graphs = True
                return tokens
            except MemoryFull:
                raise
            except Exception as error:  # no compiler, no such GPU, a case that it does not know: all kinds
                self._give_up(type(error).__name__)
        return self._encode(pictures)

    @contextmanager
    def compiled(self, wanted: bool) -> Iterator[None]:
        """Compile the layers, when wanted, for what happens inside; graphs are made when the first batch comes."""
        try:
            if wanted:
                self._compile()
            yield
        finally:
            self._restore()

    def _compile(self) -> None:
        layers = list(self._net.detector_model.vision_encoder.backbone.layers)
        try:
            with _advice_unheard():
                forwards = [torch.compile(layer.forward, dynamic=False, backend=BACKEND) for layer in layers]
        except Exception as error:  # a Python that it does not know yet
            self._give_up(type(error).__name__)
            return
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward
        self._layers = layers

    def _encode(self, pictures: Tensor) -> Tensor:
        with self._runtime.computing(), _advice_unheard() if self._layers else nullcontext():
            return self._net.encode_trunk(pictures).to(self._runtime.dtype)

    def _give_up(self, reason: str) -> None:
        self._restore()
        self._runtime.notices["compile"] = f"The network could not be compiled ({reason}): it ran as it is, slower."

    def _restore(self) -> None:
        for layer in self._layers:
            del layer.forward
        self._layers = []


@contextmanager
def _advice_unheard() -> Iterator[None]:
    """A compiler's advice on other settings is not for the user of a command."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _filled(pictures: Tensor, size: int) -> Tensor:
    """As many pictures as ``size``, the last one repeated."""
    missing = size - len(pictures)
    return torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)]) if missing else pictures
