"""Checkpoints of every layout that SAM3 is published in, loaded strictly.

A file is judged by all of its keys, never by the first:

    ours, Hugging Face video    detector_model.* [tracker_model.* tracker_neck.*]
    Hugging Face image          vision_encoder.* detr_decoder.* ...
    Meta, and Medical SAM3 3D   detector.* tracker.*
    Meta's trainer, and Medical SAM3 2D     backbone.* transformer.* ... without prefix, no tracker
    internal                    sam3_model.* sam2_predictor.model.* inst_interactive_predictor.model.*
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from MedicalSAM3Lib.architecture import CONFIG_FILE, Architecture, architecture_of, from_config, full_size, read_json
from MedicalSAM3Lib.errors import OutputError, WeightsError
from MedicalSAM3Lib.meta_layout import from_meta, named, to_meta
from MedicalSAM3Lib.tensor_files import read_folder_tensors, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from MedicalSAM3Lib.model import MedicalSam3

Layout = Literal["hugging_face", "meta"]

_OUR_PARTS = ("detector_model.", "tracker_model.", "tracker_neck.")
_BARE_HUGGING_FACE = (
    "vision_encoder.",
    "text_encoder.",
    "text_projection.",
    "detr_encoder.",
    "detr_decoder.",
    "mask_decoder.",
    "dot_product_scoring.",
)
_BARE_META = ("backbone.", "transformer.", "segmentation_head.", "dot_prod_scoring.")
_INTERNAL = {
    "sam3_model.": "detector.",
    "sam2_predictor.model.": "tracker.",
    "inst_interactive_predictor.model.": "tracker.",
}
_WRAPPING = ("module.", "_orig_mod.")
_TRACKER_NECK = "detector.backbone.vision_backbone.sam2_convs."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors under our names, and where they come from.

    Attributes:
        tensors: Keys of the state dict of ``architecture.build()``.
        architecture: Sizes; with a tracker if the tensors have one.
        layout: Of the file that was read.
        has_base_tracker: The tracker was taken from the base, since the file has none.
    """

    tensors: dict[str, Tensor]
    architecture: Architecture
    layout: Layout
    has_base_tracker: bool = False


def read_checkpoint(
    path: Path | str, *, base: Path | str | None = None, architecture: Architecture | None = None
) -> Checkpoint:
    """Read a checkpoint of any supported layout.

    Args:
        path: A model folder of ours or of Hugging Face, or a file (``.pt``, ``.pth``, ``.safetensors``).
        base: A checkpoint with a tracker, for one that has none (Medical SAM3's ``checkpoint_2D.pt``).
            Without it the model detects but cannot track.
        architecture: Sizes of a bare file, if not those of the published SAM3.

    Raises:
        WeightsError: It is not a checkpoint of SAM3, or tensors are missing or left over.
    """
    path = Path(path)
    checkpoint = _read(path, architecture)
    if base is None or checkpoint.architecture.tracker is not None:
        return checkpoint
    other = _read(Path(base), architecture)
    if other.architecture.tracker is None:
        raise WeightsError(f"Expected a base with a tracker, '{Path(base).name}' has none.")
    tracker = {key: value for key, value in other.tensors.items() if key.startswith(_OUR_PARTS[1:])}
    both = Architecture(checkpoint.architecture.detector, other.architecture.tracker)
    return Checkpoint(checkpoint.tensors | tracker, both, checkpoint.layout, has_base_tracker=True)


def load_checkpoint(
    path: Path | str, *, base: Path | str | None = None, architecture: Architecture | None = None
) -> MedicalSam3:
    """Read a checkpoint of any supported layout into a model in fp32 on the CPU; see ``read_checkpoint``."""
    checkpoint = read_checkpoint(path, base=base, architecture=architecture)
    model = checkpoint.architecture.build_empty()
    load_strictly(model, checkpoint.tensors, Path(path).name)
    return model


def layout_of(keys: Iterable[str], name: str) -> Layout:
    """Tell the layout of a checkpoint from all of its keys.

    Raises:
        WeightsError: The keys are of two layouts, or of none.
    """
    keys = list(keys)
    hugging_face = [key for key in keys if key.startswith((*_OUR_PARTS, *_BARE_HUGGING_FACE))]
    meta = [key for key in keys if key.startswith(("detector.", "tracker.", *_BARE_META, *_INTERNAL))]
    if hugging_face and meta:
        raise WeightsError(f"'{name}' mixes two layouts: {hugging_face[0]} and {meta[0]}; convert it anew.")
    if not hugging_face and not meta:
        raise WeightsError(f"Expected a checkpoint of SAM3, '{name}' has other keys: {named(keys)}.")
    return "hugging_face" if hugging_face else "meta"


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


def save_meta(model: MedicalSam3, path: Path | str, *, base: Path | str) -> None:
    """Write a checkpoint that Meta's code loads strictly, ``{"model": {...}}`` in fp32.

    A model without tracker is written as Meta's image model, with the prefix ``detector.``.

    Args:
        model: Of the sizes of SAM3.
        path: File to write; it appears whole or not at all.
        base: Meta's ``sam3.pt`` that the training started from; see ``meta_layout.to_meta``.

    Raises:
        WeightsError: The base lacks what only Meta's file can have.
        OutputError: The file cannot be written.
    """
    import torch

    path = Path(path)
    base_tensors = _with_prefixes(_without_wrapping(read_tensors(Path(base))), "meta")
    tensors = to_meta(model.state_dict(), architecture_of(model), base_tensors)
    content = {"model": {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}}
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
            torch.save(content, Path(temporary) / path.name)
            os.replace(Path(temporary) / path.name, path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"Expected to write '{path.name}', the folder refused; check space and rights.") from error


def _read(path: Path, architecture: Architecture | None) -> Checkpoint:
    if path.is_dir():
        architecture = from_config(read_json(path / CONFIG_FILE))
        tensors = _without_wrapping(read_folder_tensors(path))
    else:
        architecture = architecture or full_size()
        tensors = _without_wrapping(read_tensors(path))
    layout = layout_of(tensors, path.name)
    prefixed = _with_prefixes(tensors, layout)
    tracker, neck = ("tracker.", _TRACKER_NECK) if layout == "meta" else _OUR_PARTS[1:]
    if not any(key.startswith(tracker) for key in prefixed):
        # A tracker's neck without its tracker has no reader.
        prefixed = {key: value for key, value in prefixed.items() if not key.startswith(neck)}
        architecture = Architecture(architecture.detector, None)
    elif architecture.tracker is None:
        raise WeightsError(f"'{path.name}' has a tracker, but its sizes are those of a detector alone.")
    if layout == "meta":
        prefixed = from_meta(prefixed, _keys_of(architecture), path.name)
    return Checkpoint(prefixed, architecture, layout)


def _refuse(name: str, fault: str, keys: list[str]) -> None:
    if keys:
        raise WeightsError(f"Checkpoint '{name}' {fault} {len(keys)} of the model's tensors: {named(keys)}.")


def _without_wrapping(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip what data-parallel training and compilation put before every key."""
    result = dict(tensors)
    while prefix := next((p for p in _WRAPPING if result and all(key.startswith(p) for key in result)), None):
        result = {key.removeprefix(prefix): value for key, value in result.items()}
    return result


def _with_prefixes(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    known, bare = (("detector.", "tracker."), "detector.") if layout == "meta" else (_OUR_PARTS, "detector_model.")
    result = {}
    for key, value in tensors.items():
        inner = next((prefix for prefix in _INTERNAL if layout == "meta" and key.startswith(prefix)), None)
        if inner:
            key = _INTERNAL[inner] + key.removeprefix(inner)
        elif not key.startswith(known):
            key = bare + key
        if key in result:
            raise WeightsError(f"The checkpoint has {key} twice, under two prefixes; convert it anew.")
        result[key] = value
    return result


def _keys_of(architecture: Architecture) -> list[str]:
    import torch

    with torch.device("meta"):
        return list(architecture.build_empty().state_dict())
