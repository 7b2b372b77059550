"""What crosses between a device and main memory in a step: to the host as seldom as can be, to the device unawaited.

A device computes far behind the host that asks; each number that is read, and each tensor whose shape depends on one,
makes the host wait until the device has come so far. So the losses know on the host what they need to know.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_host(*tensors: Tensor) -> list[np.ndarray]:
    """The values of tensors of one type, all in one transfer, for which the device is waited for."""
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors]).cpu().numpy()
    parts = np.split(flat, np.cumsum([tensor.numel() for tensor in tensors])[:-1])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def to_device(values: np.ndarray | Tensor, device: torch.device | str) -> Tensor:
    """Values of the host on a device; what it has yet to compute is not waited for."""
    tensor = torch.as_tensor(values)
    # Only from pinned memory is a copy sure to be no meeting of the two.
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def in_memory(tensor: Tensor) -> np.ndarray:
    """A tensor of main memory as an array, to be read; also where tensors are fake, and this one is not."""
    return np.from_dlpack(tensor)
