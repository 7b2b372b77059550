"""A folder for the results of a batch: a segmentation, what was found, and the table. Needs no scene.

CASE.seg.nrrd      the segments of a case
CASE.json          what was asked, and the answers: both files appear together
summary.csv        a row for each case and concept, after each case

A case is there when both files are. What is there is never replaced but where the user wants all done anew.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from MedicalSAM3Lib.atomic import check_writable, replacing
from MedicalSAM3Lib.batch_tables import MANIFEST, SUMMARY, harmless
from MedicalSAM3Lib.errors import OutputError

from .outcome import Outcome
from .task import UserError

SEGMENTATION, RECORD = ".seg.nrrd", ".json"
LEAST_FREE = 64 << 20
"""Bytes on the disk; with less, a case is not even begun."""

WHERE_DONE = ("skip", "anew")
"""What becomes of cases whose result is there already."""


@dataclass(frozen=True)
class Kept:
    """A result that is there already.

    Attributes:
        outcomes: Of its concepts, where they are known.
        note: Why the case is skipped.
    """

    outcomes: tuple[Outcome, ...]
    note: str


class ResultsFolder:
    """Where the results of a batch go.

    Args:
        folder: It must exist.
        question: What is asked of all cases, as plain values; ``concepts`` are the phrases.
        again: One of ``WHERE_DONE``.

    Raises:
        UserError: It is not there, cannot be written to, or is another program's.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any], again: str = WHERE_DONE[0]) -> None:
        if again not in WHERE_DONE:
            raise UserError(
                _("Choose what becomes of results that are there: {choices}.").format(choices=", ".join(WHERE_DONE))
            )
        self.folder, self._again = folder, again
        self._question = json.loads(json.dumps(question))  # as it is read again
        if (folder / MANIFEST).exists():
            raise UserError(
                _("The folder holds results of 'medsam3 batch', whose table would be replaced; choose another.")
            )
        self.check()

    def check(self) -> None:
        """Check that a case could be written now.

        Raises:
            UserError: It could not.
        """
        try:
            check_writable(self.folder / SUMMARY, (SUMMARY,))
            free = shutil.disk_usage(self.folder).free
        except (OutputError, OSError) as error:
            raise UserError(
                _("The results folder is not there or cannot be written to; choose another one.")
            ) from error
        if free < LEAST_FREE:
            raise UserError(
                _("The disk of the results folder is full ({free} MB free); make room on it.").format(free=free >> 20)
            )

    def find(self, case: str) -> Kept | None:
        """The result of a case that is to be kept, None where the case is to be done."""
        file = self.folder / (case + SEGMENTATION)
        if self._again == "anew" or not file.exists():
            return None
        record = self._recordOf(case)
        if record is None:
            return Kept((), _("a result is there already"))
        outcomes = record["outcomes"]
        if record["question"] != self._question:
            return Kept((), _(
                "a result for another question is there ({concepts}); choose another folder, or to do all anew"
            ).format(concepts=", ".join(record["question"]["concepts"])))  # fmt: skip
        if any(outcome.state == "failed" for outcome in outcomes):
            return None
        return Kept(outcomes, _("a result is there already"))

    def write(self, case: str, outcomes: Sequence[Outcome], put: Callable[[Path], None]) -> None:
        """Write a case: ``put`` writes the segmentation to a path. All of it appears, or nothing.

        Raises:
            OutputError: It cannot be written; what was there before is as it was.
        """
        record = {"question": self._question, "outcomes": [asdict(outcome) for outcome in outcomes]}
        with replacing(self.folder / (case + SEGMENTATION), self.folder / (case + RECORD)) as (masks, answers):
            put(masks)
            answers.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")

    def writeTable(self, rows: Sequence[Sequence[str]]) -> None:
        """Write the table; the first row are its headings.

        Raises:
            OutputError: It cannot be written; the one before is as it was.
        """
        with replacing(self.folder / SUMMARY) as (file,), file.open("w", encoding="utf-8", newline="") as text:
            csv.writer(text).writerows([[harmless(cell) for cell in row] for row in rows])

    def _recordOf(self, case: str) -> dict[str, Any] | None:
        """None where there is none that this module wrote."""
        try:
            record = json.loads((self.folder / (case + RECORD)).read_text(encoding="utf-8"))
            concepts = [str(phrase) for phrase in record["question"]["concepts"]]
            outcomes = tuple(_outcome(values) for values in record["outcomes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return {"question": {**record["question"], "concepts": concepts}, "outcomes": outcomes}


def _outcome(values: Mapping[str, Any]) -> Outcome:
    """Lists were tuples; IDs of segments meant something only in the scene of that day."""
    known = {field.name: values[field.name] for field in fields(Outcome) if field.name in values}
    tuples = {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return Outcome(**{**known, **tuples, "segmentIds": ()})
