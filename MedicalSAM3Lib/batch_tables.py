"""The tables of a batch: a manifest as JSON lines and Parquet, and a summary as CSV. Made anew from the cases."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.atomic import replacing

MANIFEST, PARQUET, SUMMARY = "manifest.jsonl", "manifest.parquet", "summary.csv"

Records = Callable[[], Iterator[dict[str, Any]]]
"""Begins a new walk over the records: they are never in memory together."""

_ROWS_AT_ONCE = 200
_MEASURES = ("axial_long_mm", "axial_short_mm", "largest_mm", "intensity_mean", "intensity_sd")


def write_tables(folder: Path, records: Records) -> None:
    """Write all three; each appears whole or not at all. Parquet needs pyarrow and is left out without it.

    Raises:
        OutputError: The folder cannot be written to.
    """
    with replacing(folder / MANIFEST) as (new,), new.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records())
    with replacing(folder / SUMMARY) as (new,), new.open("w", encoding="utf-8", newline="") as file:
        _write_summary(csv.writer(file), records)
    if has_parquet():
        with replacing(folder / PARQUET) as (new,):
            _write_parquet(new, records())


def has_parquet() -> bool:
    """Whether the manifest can be written as Parquet."""
    from importlib.util import find_spec

    return find_spec("pyarrow") is not None


def _write_summary(table: Any, records: Records) -> None:
    """A row a case: its state, why it failed, and the size of each concept, 0 where it was not found."""
    headings = sorted({heading for record in records() for heading in _sizes(record)})
    table.writerow(["case", "state", "reason", *headings])
    for record in records():
        sizes = _sizes(record)
        cells = [sizes.get(heading, "") for heading in headings]
        table.writerow([record["case"], record["state"], harmless(record["reason"]), *cells])


def _sizes(record: dict[str, Any]) -> dict[str, str]:
    """Heading to size: a volume in ml, or for a picture, which has no thickness, pixels; "" where it failed."""
    unit = "pixels" if record.get("is_2d") else "ml"  # records of older versions do not say
    return {f"{one['phrase']} ({unit})": _size(one, unit) for one in record["findings"]}


def _size(finding: dict[str, Any], unit: str) -> str:
    if finding["state"] == "failed":
        return ""
    return str(finding["voxels"]) if unit == "pixels" else f"{finding['volume_ml']:.3f}"


def harmless(text: str) -> str:
    """No formula for a spreadsheet."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _write_parquet(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """A row a (case, concept); a case without findings has one row, with an empty concept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(pa)
    rows = (row for record in records for row in _rows(record))
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))


def _schema(pa: Any) -> Any:
    text = ("case", "state", "code", "reason", "input_sha256", "weights_sha256", "settings_sha256", "fingerprint",
            "version", "model", "device", "modality", "started", "finished",
            "concept", "concept_id", "answer")  # fmt: skip
    numbers = ("presence", "confidence", "volume_ml", "read_s", "segment_s", "write_s", *_MEASURES)
    whole = ("voxels", "objects")
    return pa.schema(
        [(name, pa.string()) for name in text]
        + [(name, pa.float64()) for name in numbers]
        + [(name, pa.int64()) for name in whole]
        + [("review_slices", pa.list_(pa.int64())), ("notices", pa.list_(pa.string()))]
    )


def _rows(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    times = {f"{stage}_s": record["seconds"].get(stage) for stage in ("read", "segment", "write")}
    for finding in record["findings"] or [{}]:
        yield {
            **{name: value for name, value in record.items() if isinstance(value, str)},
            **times,
            "concept": finding.get("phrase", ""),
            "concept_id": finding.get("concept_id", ""),
            "answer": finding.get("state", ""),
            **{name: finding.get(name) for name in ("presence", "confidence", "volume_ml", "voxels", "review_slices")},
            "objects": finding.get("instances"),
            **{name: (finding.get("measures") or {}).get(name) for name in _MEASURES},
            "notices": record["notices"],
        }
