"""Write a segmentation as NIfTI label maps or PNG masks, with a JSON sidecar.

A viewer of label maps takes 3D, not 4D. So masks that overlap go to a file per layer: ``liver.nii.gz``
holds the first layer, ``liver_layer2.nii.gz`` the second, and ``liver.labels.json`` says for each
finding, or each of its objects, in which file and under which label it lies. (Not ``liver.json``: that is what people
call the report.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.segments import segments_of
from MedicalSAM3Lib.structures import Segmentation

SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".png")

CONFIDENCE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

MOST_PALETTE_LABELS = 255


def write_label_files(path: Path, segmentation: Segmentation) -> None:
    """Write label maps (``.nii``, ``.nii.gz``) or PNG masks, a file per layer, and the sidecar.

    Raises:
        OutputError: They cannot be written; nothing is left behind then.
    """
    files = layer_paths(path, len(segmentation.layers))
    with replacing(*files, sidecar_path(path)) as partial:
        for target, layer in zip(partial[:-1], segmentation.layers, strict=True):
            if path.name.lower().endswith(".png"):
                _write_png(target, layer[0], segmentation)
            else:
                _write_nifti(target, layer, segmentation.ijk_to_lps)
        text = json.dumps(_labels(files, segmentation), indent=2, ensure_ascii=False)
        partial[-1].write_text(text + "\n", encoding="utf-8")


def write_confidence(path: Path, segmentation: Segmentation) -> None:
    """Write the confidence of every voxel, 0..1, as a volume of float32 on the input's grid.

    Raises:
        OutputError: It cannot be written; nothing is left behind then.
        ValueError: The segmentation has none: its settings did not ask for it.
    """
    import SimpleITK

    if segmentation.confidence is None:
        raise ValueError("expected a confidence map, got none; set confidence_map in the settings")
    image = SimpleITK.GetImageFromArray(segmentation.confidence)
    set_affine(image, segmentation.ijk_to_lps)
    with replacing(path) as (partial,):
        SimpleITK.WriteImage(image, str(partial), useCompression=True)


def layer_paths(path: Path, num_layers: int) -> list[Path]:
    """The file of each layer: the path itself, then ``<stem>_layer2<suffix>`` and so on."""
    stem, suffix = _split(path)
    return [path, *(path.with_name(f"{stem}_layer{number}{suffix}") for number in range(2, num_layers + 1))]


def sidecar_path(path: Path) -> Path:
    """The JSON file beside a label map or a PNG mask: ``<stem>.labels.json``."""
    return path.with_name(f"{_split(path)[0]}.labels.json")


def smallest_type(layers: Sequence[np.ndarray]) -> type[np.uint8] | type[np.uint16]:
    """uint8 where all labels fit, which some viewers insist on, else uint16."""
    return np.uint8 if max(int(layer.max(initial=0)) for layer in layers) <= 255 else np.uint16


def set_affine(image: Any, ijk_to_lps: np.ndarray) -> None:
    """Give a SimpleITK image the spacing, directions and origin of an affine."""
    spacing = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())


def _split(path: Path) -> tuple[str, str]:
    """Stem and suffix, where ``.nii.gz`` is one suffix."""
    suffix = next((known for known in SUFFIXES if path.name.lower().endswith(known)), path.suffix)
    return path.name[: len(path.name) - len(suffix)], path.name[len(path.name) - len(suffix) :]


def _write_nifti(path: Path, layer: np.ndarray, ijk_to_lps: np.ndarray) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(layer.astype(smallest_type([layer])))
    set_affine(image, ijk_to_lps)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def _write_png(path: Path, mask: np.ndarray, segmentation: Segmentation) -> None:
    """Labels as pixel values: 8 bit with the segments' colours as palette, or 16 bit where they do not fit."""
    from PIL import Image

    labels = np.ascontiguousarray(mask, dtype=smallest_type([mask]))
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        palette = np.zeros((MOST_PALETTE_LABELS + 1, 3), np.uint8)
        for segment in segments_of(segmentation.findings):
            if segment.part.label <= MOST_PALETTE_LABELS:
                palette[segment.part.label] = segment.colour
        image.putpalette(palette.tobytes())
    image.save(path, format="PNG")


def _labels(files: Sequence[Path], segmentation: Segmentation) -> dict[str, Any]:
    """Content of the sidecar: each segment with its file and label, and what was asked but is not there."""
    return {
        "schema_version": "1",
        "labels": [
            {
                "file": files[segment.finding.layer].name,
                "label": segment.part.label,
                "name": segment.name,
                "phrase": segment.finding.phrase,
                "object": segment.number,
                "concept_id": segment.finding.concept_id,
                "colour": list(segment.colour),
                "codes": asdict(segment.finding.codes),
                "voxels": segment.part.voxels,
                "volume_ml": segment.part.volume_ml,
                "presence": segment.finding.presence,
                "confidence": segment.part.confidence,
            }
            for segment in segments_of(segmentation.findings)
        ],
        "without_mask": [
            {"phrase": finding.phrase, "state": finding.state, "reason": finding.reason, "presence": finding.presence}
            for finding in segmentation.findings
            if finding.state != "found"
        ],
    }
