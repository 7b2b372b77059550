"""One row for each thing that was asked of a model, and the file that they are kept in while an evaluation goes on"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.overlap import dice, iou
from Training.instance_metrics import match_objects, objects_of, parts_of
from Training.protocols import Answer
from Training.surface_metrics import compare_outlines, compare_surfaces

VERSION = 3
"""Of the meaning of a row; rows of another version are computed again."""

Outcome = Literal["overlap", "missed", "false_positive", "both_empty", "failed"]


@dataclass(frozen=True, slots=True)
class CaseRow:
    """What came of one question.

    Attributes:
        role: "ours" or "baseline".
        protocol: Name of the protocol.
        dataset, patient, modality, concept: As in the manifest.
        case: Name of the case.
        kind: "canonical", another kind of phrase (``robustness``), or "nonsense".
        reading: "vocabulary" where the library reads the words, "verbatim" where they reach the model as they are.
        phrase: What was asked.
        is_present: Whether the concept is in the case.
        outcome: What happened; "both_empty" is right, and no number of a mean.
        presence: Calibrated probability; NaN where the answer was not a number.
        dice, iou, nsd: 0..1; 0 where something was missed, failed, or found although absent; NaN where both are empty.
        hd95_mm: NaN unless there are two masks.
        f1, panoptic_quality: Of objects; NaN where the reference has not several.
        objects_from: "numbers", "parts" or "".
    """

    role: str
    protocol: str
    dataset: str
    patient: str
    modality: str
    case: str
    concept: str
    kind: str
    reading: str
    phrase: str
    is_present: bool
    outcome: str
    presence: float
    dice: float
    iou: float
    nsd: float
    hd95_mm: float
    f1: float
    panoptic_quality: float
    objects_from: str


_TYPES = {str: pa.string(), bool: pa.bool_(), float: pa.float64()}
SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in get_type_hints(CaseRow).items()])


def outcome_of(is_present: bool, is_found: bool, state: str) -> Outcome:
    """What happened: found or not, of what is there or not."""
    if state == "failed":
        return "failed"
    if is_present:
        return "overlap" if is_found else "missed"
    return "false_positive" if is_found else "both_empty"


def measure(
    answer: Answer,
    labels: np.ndarray,
    is_present: bool,
    spacing_kji: Sequence[float],
    tolerance_mm: float,
    cut_axis: int | None = None,
) -> dict[str, Any]:
    """The numbers of a row.

    Args:
        answer: On the case's slices.
        labels: Numbers of the reference's objects there, 0 outside.
        is_present: As the manifest says.
        spacing_kji: In mm, along the axes of ``labels``.
        tolerance_mm: Of NSD.
        cut_axis: Of ``labels``, along which the case was cut out of a volume; None for a whole one.

    Raises:
        InputError: The manifest says that it is present, and the mask is empty; or the other way round.
    """
    reference = labels > 0
    if bool(reference.any()) != is_present:
        raise InputError("Expected a mask where a concept is present and none where it is absent; prepare again.")
    finding = answer.finding
    outcome = outcome_of(is_present, bool(answer.mask.any()), finding.state)
    presence = math.nan if finding.presence is None else finding.presence
    numbers: dict[str, Any] = {"outcome": outcome, "presence": presence, "is_present": is_present, "objects_from": ""}
    if outcome == "both_empty":
        return numbers | dict.fromkeys(("dice", "iou", "nsd", "hd95_mm", "f1", "panoptic_quality"), math.nan)
    if cut_axis is None:
        surfaces = compare_surfaces(answer.mask, reference, spacing_kji, tolerance_mm)
    else:
        surfaces = compare_outlines(answer.mask, reference, spacing_kji, tolerance_mm, cut_axis)
    numbers |= {"nsd": 0.0 if outcome == "failed" else surfaces.nsd, "hd95_mm": surfaces.hd95_mm}
    failed_absent = outcome == "failed" and not is_present
    numbers["dice"] = 0.0 if failed_absent else dice(answer.mask, reference)
    numbers["iou"] = 0.0 if failed_absent else iou(answer.mask, reference)
    return numbers | _objects(answer, labels)


def _objects(answer: Answer, labels: np.ndarray) -> dict[str, Any]:
    several = objects_of(labels)
    if several is None:
        return {"f1": math.nan, "panoptic_quality": math.nan}
    ours = answer.objects if answer.objects is not None else parts_of(answer.mask)
    counts = match_objects(ours, several[0])
    return {"f1": counts.f1, "panoptic_quality": counts.panoptic_quality, "objects_from": several[1]}


class Ledger:
    """Rows of the cases that are done, one small file each: an evaluation that was killed goes on from here.

    Args:
        folder: Made where it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: Mapping[str, object]) -> list[CaseRow] | None:
        """The rows that were written under a key; None where there are none.

        Raises:
            InputError: The file is damaged.
        """
        path = self._path(key)
        return read_rows(path) if path.exists() else None

    def add(self, key: Mapping[str, object], rows: Sequence[CaseRow]) -> None:
        """Write the rows of a case; they appear whole or not at all."""
        write_rows(self._path(key), rows)

    def _path(self, key: Mapping[str, object]) -> Path:
        text = json.dumps({"version": VERSION, **key}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.parquet"


def write_rows(path: Path, rows: Sequence[CaseRow]) -> None:
    """Write rows as Parquet.

    Raises:
        OutputError: The folder cannot be written to.
    """
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)
    with replacing(path) as (partial,):
        pq.write_table(table, partial)


def read_rows(path: Path) -> list[CaseRow]:
    """Read rows.

    Raises:
        InputError: The file is damaged or of another version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"Expected rows of an evaluation, cannot read {path.name}; delete it and run again."
        ) from error
    if table.column_names != [field.name for field in fields(CaseRow)]:
        raise InputError(f"Expected the columns of an evaluation in {path.name}, got others; delete it and run again.")
    return [CaseRow(**values) for values in table.to_pylist()]
