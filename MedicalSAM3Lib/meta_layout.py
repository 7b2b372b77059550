"""Tensors from Meta's layout to ours and back, one by one, without loss and without a silent gap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from MedicalSAM3Lib.errors import WeightsError
from MedicalSAM3Lib.key_map import Source, is_unused, meta_source

if TYPE_CHECKING:
    from torch import Tensor

    from MedicalSAM3Lib.architecture import Architecture

POSITION_TABLE = "detector.backbone.vision_backbone.trunk.pos_embed"
_TRUNK_BLOCK = "detector.backbone.vision_backbone.trunk.blocks."


def named(keys: Iterable[str]) -> str:
    """The first three of some keys and how many more there are, for a message of one line."""
    listed = list(keys)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def from_meta(tensors: Mapping[str, Tensor], our_keys: Iterable[str], name: str) -> dict[str, Tensor]:
    """Convert Meta's tensors.

    Args:
        tensors: Keys with Meta's prefixes, ``detector.`` and ``tracker.``.
        our_keys: State dict keys of the model that is to be filled.
        name: Of the checkpoint, for messages.

    Raises:
        WeightsError: A tensor is missing, of the wrong rank, or left over; the message has Meta's name.
    """
    sources = {key: meta_source(key) for key in our_keys}
    wanted = {meta for source in sources.values() for meta in source.keys}
    missing = sorted(wanted - tensors.keys())
    if missing:
        raise WeightsError(f"Checkpoint '{name}' lacks {len(missing)} of SAM3's tensors: {named(missing)}.")
    left_over = sorted(key for key in tensors.keys() - wanted if not is_unused(key))
    if left_over:
        raise WeightsError(f"Checkpoint '{name}' has {len(left_over)} unknown tensors: {named(left_over)}.")
    return {key: _take(source, tensors, name) for key, source in sources.items()}


def to_meta(
    tensors: Mapping[str, Tensor], architecture: Architecture, base: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Convert our tensors to Meta's names and shapes, such that Meta's strict load accepts them.

    Tables that follow from the sizes are computed. Seven tensors have no counterpart here (six of the
    clicks, and the position of the trunk's class token, all unused by text prompts): they come from ``base``.

    Args:
        tensors: State dict of ``model.MedicalSam3``.
        architecture: Its sizes.
        base: Meta's checkpoint that the training started from, with Meta's prefixes.

    Raises:
        WeightsError: There is no ``base`` or it lacks those tensors, or two copies of one tensor differ.
    """
    base = base or {}
    lost = lost_keys()
    missing = [key for key in lost if key not in base]
    if missing:
        raise WeightsError(
            f"Expected {len(missing)} tensors that only Meta's file has ({named(missing)}); give the sam3.pt that the "
            "training started from as the base."
        )
    result = _assemble(tensors)
    result[POSITION_TABLE] = _with_class_row(result[POSITION_TABLE], base[POSITION_TABLE])
    result |= {key: base[key] for key in lost if key != POSITION_TABLE}
    return result | rotary_tables(architecture)


def lost_keys() -> tuple[str, ...]:
    """Meta's tensors that our layout does not hold, wholly or in part, and that cannot be computed."""
    clicks = ("points_direct_project", "points_pool_project", "points_pos_enc_project")
    return (
        POSITION_TABLE,
        *(f"detector.geometry_encoder.{part}.{kind}" for part in clicks for kind in ("weight", "bias")),
    )


def rotary_tables(architecture: Architecture) -> dict[str, Tensor]:
    """Rotary tables of the trunk, complex64 ``(tokens, head size / 2)``: x angles, then y angles.

    Windows count token positions as they are; a global layer scales them to a window's range.
    """
    import torch

    vit = architecture.detector.vision_config.backbone_config
    grid = vit.image_size // vit.patch_size
    head = vit.hidden_size // vit.num_attention_heads
    frequency = 1.0 / (10000.0 ** (torch.arange(0, head, 4).float() / head))
    tables = {}
    for layer in range(vit.num_hidden_layers):
        is_global = layer in vit.global_attn_indexes
        side = grid if is_global else vit.window_size
        position = torch.arange(side * side, dtype=torch.float32)
        scale = vit.window_size / side
        x, y = (position % side) * scale, torch.div(position, side, rounding_mode="floor") * scale
        angles = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], -1)
        tables[f"{_TRUNK_BLOCK}{layer}.attn.freqs_cis"] = torch.polar(torch.ones_like(angles), angles)
    return tables


def _take(source: Source, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    import torch

    tensor = tensors[source.keys[0]]
    if source.form == "same":
        return tensor
    if source.form == "rows":
        return torch.cat([tensors[key] for key in source.keys], 0)
    if source.form == "transposed":
        return tensor.t()
    if source.form == "tail":
        return tensor[:, 1:]
    if tensor.shape[0] % 3:
        shape = tuple(tensor.shape)
        raise WeightsError(
            f"Checkpoint '{name}': expected query, key and value in {source.keys[0]}, got shape {shape}."
        )
    return tensor.chunk(3, 0)[source.index]


def _assemble(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    result: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        source = meta_source(key)
        if source.form == "third":
            thirds.setdefault(source.keys[0], {})[source.index] = tensor
            continue
        if source.form == "rows":
            parts = list(zip(source.keys, tensor.split(1, 0), strict=True))
        else:
            parts = [(source.keys[0], tensor.t() if source.form == "transposed" else tensor)]
        for meta, part in parts:
            if meta in result and not torch.equal(result[meta], part):
                raise WeightsError(f"Expected equal copies of Meta's {meta}, ours differ; the model was altered.")
            result[meta] = part
    return result | {meta: torch.cat([parts[i] for i in range(3)], 0) for meta, parts in thirds.items()}


def _with_class_row(table: Tensor, base: Tensor) -> Tensor:
    import torch

    return torch.cat([base[:, :1].to(table.dtype), table], 1)
