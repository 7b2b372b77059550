"""Read 3D Slicer's ``.seg.nrrd``: segments with names, layers that overlap, a grid cut to what is segmented."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.outputs import set_affine
from MedicalSAM3Lib.structures import Volume


def read_segments(path: Path, image: Volume) -> dict[str, np.ndarray]:
    """Segments by name, each bool ``(K, J, I)`` on the grid of the image.

    Raises:
        InputError: The file cannot be read, or names no segment.
    """
    try:
        file = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"Expected a segmentation of 3D Slicer, cannot read {path.name}; save it again.") from error
    keys = file.GetMetaDataKeys()
    numbers = sorted(int(match[1]) for key in keys if (match := re.fullmatch(r"Segment(\d+)_Name", key)))
    if not numbers:
        raise InputError(f"Expected named segments in {path.name}, got none; save it as .seg.nrrd from 3D Slicer.")
    count = file.GetNumberOfComponentsPerPixel()
    layers = [file] if count == 1 else [sitk.VectorIndexSelectionCast(file, n) for n in range(count)]
    arrays = [sitk.GetArrayFromImage(_on_grid(layer, image)) for layer in layers]
    segments: dict[str, np.ndarray] = {}
    for number in numbers:
        name = file.GetMetaData(f"Segment{number}_Name")
        layer = int(_value(file, f"Segment{number}_Layer", "0"))
        label = int(_value(file, f"Segment{number}_LabelValue", "1"))
        inside = arrays[layer] == label
        segments[name] = segments[name] | inside if name in segments else inside
    return segments


def _value(file: sitk.Image, key: str, default: str) -> str:
    return file.GetMetaData(key) if file.HasMetaDataKey(key) else default


def _on_grid(layer: sitk.Image, image: Volume) -> sitk.Image:
    grid = sitk.Image([image.shape_kji[2], image.shape_kji[1], image.shape_kji[0]], sitk.sitkUInt8)
    set_affine(grid, image.ijk_to_lps)
    return sitk.Resample(layer, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
