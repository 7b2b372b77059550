"""Named tensors from files: safetensors, whole or in shards, and torch checkpoints. No code in a file runs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

INDEX_FILE = "model.safetensors.index.json"
WHOLE_FILE = "model.safetensors"
_WRAPPERS = ("model", "state_dict", "model_state_dict")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the named tensors of a file; a torch checkpoint is unwrapped, its optimiser state dropped.

    Args:
        path: A ``.safetensors`` file, or anything that ``torch.save`` wrote.

    Raises:
        WeightsError: The file is missing, damaged, or a pickle of something else.
    """
    if not path.is_file():
        raise WeightsError(f"Expected a checkpoint file, '{path.name}' is not there; check the path.")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _unwrap(_read_torch(path), path.name)


def read_folder_tensors(folder: Path) -> dict[str, Tensor]:
    """Read ``model.safetensors`` of a folder, or the shards that its index lists.

    Raises:
        WeightsError: There is neither, or a shard is missing, damaged or outside the folder.
    """
    from MedicalSAM3Lib.architecture import read_json

    if (folder / WHOLE_FILE).is_file():
        return read_tensors(folder / WHOLE_FILE)
    if not (folder / INDEX_FILE).is_file():
        raise WeightsError(f"Expected {WHOLE_FILE} or {INDEX_FILE} in '{folder.name}', found neither.")
    index = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(index, Mapping) or any(Path(str(shard)).name != shard for shard in index.values()):
        raise WeightsError(f"Expected a weight map with file names in {INDEX_FILE} of '{folder.name}'.")
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(index.values())):
        tensors |= read_tensors(folder / shard)
    lost = sorted(set(index) - tensors.keys())
    if lost:
        raise WeightsError(f"The shards of '{folder.name}' lack {len(lost)} listed tensors, first {lost[0]}.")
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"Expected a safetensors file, '{path.name}' cannot be read; copy it again.") from error


def _read_torch(path: Path) -> Any:
    """Unpickle with torch's restricted reader, which knows tensors and plain containers only."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it refuses right after
            # A mapped file leaves the optimiser state, two thirds of a training checkpoint, on the disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"'{path.name}' is a pickle of something else than tensors, or no pickle at all; nothing in it was run."
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # noise that looks like a pickle raises anything
        raise WeightsError(f"Expected a torch checkpoint, '{path.name}' is damaged; copy it again.") from error


def _unwrap(content: Any, name: str) -> dict[str, Tensor]:
    from torch import Tensor

    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"Expected named tensors in '{name}', got {type(content).__name__}; is it a checkpoint?")
    wrong = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        kind = type(content[wrong[0]]).__name__
        raise WeightsError(f"Expected only tensors in '{name}', '{str(wrong[0])[:60]}' is {kind}.")
    return dict(content)
