"""One case between disk and engine: an image becomes a volume folder, results become the folder of the case."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from MedicalSAM3Lib import files, volume_files
from MedicalSAM3Lib.batch_cases import Case
from MedicalSAM3Lib.preview import write_preview
from MedicalSAM3Lib.report import save_report
from MedicalSAM3Lib.result_files import read_report, read_segmentation
from MedicalSAM3Lib.thumbnails import write_thumbnails

SEGMENTATION, REPORT, PREVIEW, THUMBNAILS = "segmentation.seg.nrrd", "report.json", "preview.png", "thumbnails"


def read_case(case: Case, folder: Path) -> list[str]:
    """Read the image into an empty volume folder; return what had to be put right.

    Raises:
        InputError: As ``files.read_volume``.
    """
    notices: list[str] = []
    if case.is_series:
        volume = files.read_series_files(case.files, on_notice=notices.append)
    else:
        volume = files.read_volume(case.files[0], on_notice=notices.append)
    volume_files.store(folder, volume)
    return notices


def write_case(work: Path, case_id: str, notices: list[str]) -> tuple[Path, dict[str, Any]]:
    """Write what was found into a folder below ``work``; return it and the report.

    Raises:
        OutputError, OSError: The disk is full or refuses.
    """
    new = work / "case"
    shutil.rmtree(new, ignore_errors=True)
    (new / THUMBNAILS).mkdir(parents=True)
    report, segmentation = read_report(work / "results"), read_segmentation(work / "results")
    report["run"]["notices"] = [*notices, *report["run"]["notices"]]
    volume = volume_files.load(work / "volume", case_id)
    files.write_segmentation(new / SEGMENTATION, segmentation, volume)
    save_report(new / REPORT, report)
    write_preview(new / PREVIEW, volume, segmentation)
    write_thumbnails(new / THUMBNAILS, volume, segmentation)
    return new, report


def mark(file: Path, values: dict[str, Any]) -> None:
    """Write a small JSON file; it appears whole or not at all."""
    from MedicalSAM3Lib.atomic import replacing

    with replacing(file) as (new,):
        new.write_text(json.dumps(values), encoding="utf-8")
