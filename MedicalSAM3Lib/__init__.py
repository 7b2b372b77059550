"""MedicalSAM3Lib: segment medical volumes and images by typed concepts, with SAM3.

    from MedicalSAM3Lib import load_model, read_volume, segment

    result = segment(read_volume("ct.nii.gz"), ["liver", "left kidney"], load_model("tiny"))

Importing the package loads neither torch nor transformers; the first use of a name does what it needs.
"""

from __future__ import annotations

import os
from importlib import import_module

# PyTorch asks the system for its large CPU tensors in pages of 2 MB then, where Linux has them: filling pages of 4 kB
# is a fifth of the trunk's time at full size. It reads this once, when it is imported; a user's own value stays.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# oneDNN keeps a compiled kernel for each shape of each operation, 1024 of them unless told: the shapes of tracking
# change with every number of objects and memories, and took 150 MB. A slice's own operations are a few dozen.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

__version__ = "0.1.0"

_HOMES = {
    "segment": "pipeline",
    "load_model": "registry",
    "read_volume": "files",
    "write_segmentation": "files",
    "FeatureCache": "feature_cache",
    "SegmentSettings": "config",
    "Volume": "structures",
    "Segmentation": "structures",
    "Finding": "structures",
    "Cancelled": "errors",
    "MedicalSAM3Error": "errors",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> object:
    """Find a public name in its module on first use (PEP 562), so that import stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'MedicalSAM3Lib' has no attribute '{name}'")
    return getattr(import_module(f"MedicalSAM3Lib.{_HOMES[name]}"), name)
