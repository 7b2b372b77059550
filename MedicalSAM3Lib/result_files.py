"""The results of a job as a folder: the engine writes it, the HTTP side serves it and never sees a voxel.

report.json         the report, as everywhere
segments.json       a list with an entry for each segment, in the order of ``segments.segments_of``
masks/0.gz ...      the packed mask of each segment (``masks_wire``)
layers.npz          the label maps, for whoever asks for a file
confidence.nii.gz   where the settings asked for it
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib import masks_wire, outputs
from MedicalSAM3Lib.report import RunRecord, write_report
from MedicalSAM3Lib.segments import Segment, segments_of
from MedicalSAM3Lib.structures import Codes, Finding, Measures, ObjectPart, Segmentation

REPORT, SEGMENTS, LAYERS, CONFIDENCE = "report.json", "segments.json", "layers.npz", "confidence.nii.gz"


def write_results(folder: Path, segmentation: Segmentation, record: RunRecord) -> None:
    """Write what a run found into an empty folder.

    Raises:
        OutputError, OSError: The disk is full or refuses.
    """
    (folder / "masks").mkdir()
    entries = []
    for index, segment in enumerate(segments_of(segmentation.findings)):
        packed = masks_wire.pack(segmentation.layers[segment.finding.layer] == segment.part.label)
        mask_path(folder, index).write_bytes(packed.data)
        entries.append(_entry(index, segment, segmentation.findings.index(segment.finding), packed))
    (folder / SEGMENTS).write_text(json.dumps(entries), encoding="utf-8")
    layers = {f"layer_{number}": layer for number, layer in enumerate(segmentation.layers)}
    np.savez_compressed(folder / LAYERS, ijk_to_lps=segmentation.ijk_to_lps, **layers)  # type: ignore[arg-type]
    if segmentation.confidence is not None:
        outputs.write_confidence(folder / CONFIDENCE, segmentation)
    write_report(folder / REPORT, record)


def read_segmentation(folder: Path) -> Segmentation:
    """The segmentation that ``write_results`` wrote, without its confidence map."""
    report = read_report(folder)
    with np.load(folder / LAYERS, allow_pickle=False) as stored:
        layers = tuple(stored[f"layer_{number}"] for number in range(len(stored.files) - 1))
        affine = stored["ijk_to_lps"]
    return Segmentation(layers, affine, tuple(finding_of(entry) for entry in report["findings"]))


def read_report(folder: Path) -> dict[str, Any]:
    """The report, as plain values."""
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return report


def read_segments(folder: Path) -> list[dict[str, Any]]:
    """The entries of ``segments.json``."""
    entries: list[dict[str, Any]] = json.loads((folder / SEGMENTS).read_text(encoding="utf-8"))
    return entries


def mask_path(folder: Path, index: int) -> Path:
    """The packed mask of a segment."""
    return folder / "masks" / f"{index}.gz"


def finding_of(entry: dict[str, Any]) -> Finding:
    """A finding of a report as the typed value that it was."""
    values = _frozen({field.name: entry[field.name] for field in fields(Finding)})
    values["codes"] = Codes(**entry["codes"])
    values["objects"] = tuple(ObjectPart(**_frozen(part)) for part in entry["objects"])
    return Finding(**values)


def _frozen(entry: dict[str, Any]) -> dict[str, Any]:
    """The values as a finding, an object or its measures have them: tuples for lists, and typed measures."""
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    if values.get("measures"):
        values["measures"] = Measures(**_frozen(values["measures"]))
    return values


def _entry(index: int, segment: Segment, finding: int, packed: masks_wire.PackedMask) -> dict[str, Any]:
    return {
        "index": index,
        "finding": finding,
        "name": segment.name,
        "instance": segment.number,
        "colour": list(segment.colour),
        "codes": asdict(segment.finding.codes),
        "voxels": packed.voxels,
        "box_kji": None if packed.box_kji is None else list(packed.box_kji),
    }
