"""The one format that training and evaluation read: a Parquet row per (slice of an image, concept).

    split      train | val | test: slices or patients of the development data; unseen: patients of whom
               nothing else is used, so that they can say how well the model travels
    state      present | absent (somebody looked) | unknown (nobody did: no loss, no score)

Paths are relative to the manifest's folder, so a data set can be moved as a whole.
"""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.faults import what_is_wrong

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("image", pa.string()),
        ("mask", pa.string()),
        ("volume_id", pa.string()),
        ("axis", pa.int8()),
        ("slice_index", pa.int32()),
        ("concept", pa.string()),
        ("phrase", pa.string()),
        ("label_state", pa.string()),
        ("patient", pa.string()),
        ("split", pa.string()),
        ("modality", pa.string()),
        ("spacing", pa.list_(pa.float64())),
        ("sha256", pa.string()),
        ("licence", pa.string()),
    ]
)


class ManifestRow(BaseModel):
    """What is known about one concept on one slice.

    Attributes:
        dataset: Where the image comes from.
        image: Image file, relative to the manifest.
        mask: Mask file of this concept on the image's grid, relative to the manifest; "" without one. What is
            above 0 is inside; different numbers are different objects, where the data set tells them apart.
        volume_id: Unique in the manifest.
        axis: Slices across 0 = left-right, 1 = front-back, 2 = head-foot; 2 for a single picture.
        slice_index: 0-based, in the image's own numbering; 0 for a single picture.
        concept: Id in ``Resources/concepts.csv``.
        phrase: The concept as a person would type it.
        label_state: Whether the concept is on this slice.
        patient: Pseudonym; the same person has the same one.
        split: Who may see the slice.
        modality: DICOM code, "RGB" or "GREY".
        spacing: Distance of voxel centres along i, j, k in mm.
        sha256: Of the image file, hexadecimal.
        licence: SPDX identifier or name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(min_length=1)
    image: str = Field(min_length=1)
    mask: str = ""
    volume_id: str = Field(min_length=1)
    axis: Literal[0, 1, 2]
    slice_index: int = Field(ge=0)
    concept: str = Field(min_length=1)
    phrase: str = Field(min_length=1)
    label_state: Literal["present", "absent", "unknown"]
    patient: str = Field(min_length=1)
    split: Literal["train", "val", "test", "unseen"]
    modality: str
    spacing: tuple[Positive, Positive, Positive]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str = Field(min_length=1)

    @model_validator(mode="after")
    def _present_has_mask(self) -> ManifestRow:
        if self.label_state == "present" and not self.mask:
            raise ValueError("expected a mask for a concept that is present, got none")
        return self


_ROWS = TypeAdapter(list[ManifestRow])

_TELLING = ("volume_id", "axis", "slice_index", "concept", "split", "image", "patient")
"""Columns that say whether rows contradict each other."""


@dataclass(frozen=True)
class Manifest:
    """Rows and the folder that their paths are relative to."""

    folder: Path
    rows: tuple[ManifestRow, ...]

    @cached_property
    def _by_volume(self) -> dict[str, list[ManifestRow]]:
        volumes: dict[str, list[ManifestRow]] = defaultdict(list)
        for row in self.rows:
            volumes[row.volume_id].append(row)
        return dict(volumes)

    def path(self, name: str) -> Path:
        """A row's ``image`` or ``mask`` as a path that can be opened."""
        return self.folder / name

    def volume_ids(self) -> tuple[str, ...]:
        """All volumes, in the order of the rows."""
        return tuple(self._by_volume)

    def of_volume(self, volume_id: str) -> tuple[ManifestRow, ...]:
        """The rows of one volume."""
        return tuple(self._by_volume[volume_id])

    def concepts(self) -> tuple[str, ...]:
        """All concept ids, sorted."""
        return tuple(sorted({row.concept for row in self.rows}))


def read_manifest(path: Path) -> Manifest:
    """Read rows and check that they contradict neither themselves nor each other (``check_rows``).

    Raises:
        InputError: The file is no manifest, or its rows are not sound.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"Expected a manifest in Parquet, cannot read {path.name}; run Training.prepare.") from error
    if set(table.column_names) != set(SCHEMA.names):
        different = ", ".join(sorted(set(table.column_names) ^ set(SCHEMA.names)))
        raise InputError(f"Expected the columns of a manifest in {path.name}, got other ones: {different}.")
    with _no_collecting():
        columns = [table[name].to_pylist() for name in SCHEMA.names]
        values = [dict(zip(SCHEMA.names, row, strict=True)) for row in zip(*columns, strict=True)]
        try:
            rows = _ROWS.validate_python(values)
        except ValidationError as error:
            first = error.errors(include_context=False, include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"][1:]) or "row"
            raise InputError(
                f"Row {first['loc'][0]} of {path.name}: {name}: {what_is_wrong(first)}; write it again."
            ) from error
    _check_table(table)
    return Manifest(path.parent, tuple(rows))


@contextmanager
def _no_collecting() -> Iterator[None]:
    """Millions of new objects, none of them garbage: looking for cycles among them takes longer than making them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Check the rows and write them under a temporary name, then in place.

    Raises:
        InputError: The rows are not sound (``check_rows``).
        OutputError: The folder is not writable.
    """
    check_rows(rows)
    table = pa.Table.from_pylist([row.model_dump() for row in rows], schema=SCHEMA)
    partial = path.with_name(f".{path.name}.partial")
    try:
        pq.write_table(table, partial)
        os.replace(partial, path)
    except OSError as error:
        raise OutputError(f"Expected a writable folder for {path.name}, got: {error.strerror or error}.") from error


def check_rows(rows: Sequence[ManifestRow]) -> None:
    """Refuse duplicates and every way in which a slice or a patient could leak between splits.

    Raises:
        InputError: Says how many are wrong; never which patient.
    """
    _check_table(pa.table({name: [getattr(row, name) for row in rows] for name in _TELLING}))


def _check_table(table: pa.Table) -> None:
    if not len(table):
        raise InputError("Expected a manifest with rows, got none; run Training.prepare.")
    questions = table.group_by(["volume_id", "axis", "slice_index", "concept"]).aggregate([])
    _refuse(len(table) - len(questions), "one row per slice and concept", "repeated rows", "remove them")
    slices = table.group_by(["volume_id", "axis", "slice_index"]).aggregate([("split", "count_distinct")])
    leaks = int(np.count_nonzero(_several(slices, "split")))
    _refuse(leaks, "each slice in one split", "slices in several", "give all rows of a slice the same split")
    images = table.group_by("image").aggregate([("axis", "count_distinct"), ("split", "count_distinct")])
    leaks = int(np.count_nonzero(_several(images, "axis") & _several(images, "split")))
    _refuse(leaks, "images cut along one axis only when split by slices", "cut along several", "use one axis or split")
    patients: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in _of_several_splits(table).group_by(["patient", "volume_id", "split"]).aggregate([]).to_pylist():
        patients[row["patient"]][row["volume_id"]].add(row["split"])
    leaks = sum(_leaks(volumes) for volumes in patients.values())
    _refuse(leaks, "each patient in one split", "patients in several", "split by patient, or by slices of one volume")


def _several(groups: pa.Table, name: str) -> np.ndarray:
    """Which groups have different values of a column."""
    return np.asarray(groups[f"{name}_count_distinct"].to_numpy() > 1)


def _of_several_splits(table: pa.Table) -> pa.Table:
    """The rows of patients who are in more than one split."""
    patients = table.group_by("patient").aggregate([("split", "count_distinct")])
    divided = patients["patient"].filter(_several(patients, "split"))
    return table.filter(pc.is_in(table["patient"], divided.combine_chunks()))


def _leaks(volumes: dict[str, set[str]]) -> bool:
    """Whether a patient is in several splits otherwise than by slices of one volume."""
    together = set().union(*volumes.values())
    if len(together) == 1:
        return False
    return "unseen" in together or together not in volumes.values()


def _refuse(count: int, expected: str, got: str, remedy: str) -> None:
    if count:
        raise InputError(f"Expected {expected}, got {count} {got}; {remedy}.")
