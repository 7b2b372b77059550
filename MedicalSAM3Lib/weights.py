"""Read checkpoints of any layout and load them strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from MedicalSAM3Lib.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from MedicalSAM3Lib.model import MedicalSam3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; a damaged one is a ``WeightsError``."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"Expected a safetensors file, '{path.name}' cannot be read; copy it again.") from error


def load_strictly(model: MedicalSam3, tensors: Mapping[str, Tensor], name: str) -> None:
    """Put tensors into a model as fp32; every difference is an error that names it.

    Args:
        model: Changed in place.
        tensors: Keys of ``model.state_dict()``, floating point of any precision.
        name: Of the checkpoint, for messages.

    Raises:
        WeightsError: A key is missing or left over, a shape is wrong, or a value is not finite.
    """
    import torch

    expected = model.state_dict()
    _refuse(name, "lacks", [key for key in expected if key not in tensors])
    _refuse(name, "has unknown", [key for key in tensors if key not in expected])
    wrong = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if tensors[key].shape != value.shape
    ]
    _refuse(name, "has the wrong shape in", wrong)
    _refuse(name, "has values that are not finite in", [k for k, v in tensors.items() if not torch.isfinite(v).all()])
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True)


def _refuse(name: str, fault: str, keys: list[str]) -> None:
    if keys:
        shown = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
        raise WeightsError(f"Checkpoint '{name}' {fault} {len(keys)} of the model's tensors: {shown}.")
