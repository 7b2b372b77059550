"""The table of a batch: a row for each volume and concept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import slicer
import vtk
from slicer.i18n import tr as _

from .outcome import Outcome, stateText

if TYPE_CHECKING:
    from .batch import BatchEntry


def makeTable(entries: Sequence[BatchEntry]) -> Any:
    """Add a vtkMRMLTableNode to the scene that says what came of each volume and concept."""
    headings, *rows = tableOf(entries)
    name = slicer.mrmlScene.GenerateUniqueName(_("Segmentation summary"))
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    modified = table.StartModify()
    for heading, cells in zip(headings, zip(*rows, strict=True), strict=True):
        column = vtk.vtkStringArray()
        column.SetName(heading)
        for cell in cells:
            column.InsertNextValue(cell)
        table.AddColumn(column)
    table.SetUseColumnTitleAsColumnHeader(True)
    table.SetLocked(True)
    table.EndModify(modified)
    return table


def tableOf(entries: Sequence[BatchEntry]) -> list[tuple[str, ...]]:
    """Headings, and a row for each volume and concept."""
    return [_headings(), *(row for entry in entries for row in _rowsOf(entry))]


def _headings() -> tuple[str, ...]:
    return (
        _("Volume"),
        _("Concept"),
        _("State"),
        _("Presence"),
        _("Confidence"),
        _("Volume (ml)"),
        _("Objects"),
        _("Reason"),
        _("File"),
    )


def _rowsOf(entry: BatchEntry) -> list[tuple[str, ...]]:
    reason = entry.error or entry.note
    if not entry.outcomes:
        return [(entry.name, "", stateName(entry.state), "", "", "", "", reason, entry.file)]
    return [_row(entry, outcome, reason) for outcome in entry.outcomes]


def _row(entry: BatchEntry, outcome: Outcome, reason: str) -> tuple[str, ...]:
    isFound, name = outcome.state == "found", entry.name
    return (
        name if outcome.frame is None else _("{name}, frame {number}").format(name=name, number=outcome.frame),
        outcome.phrase,
        stateText(outcome),
        "" if outcome.presence is None else f"{outcome.presence:.2f}",
        "" if outcome.confidence is None else f"{outcome.confidence:.2f}",
        f"{outcome.volumeMl:.2f}" if isFound else "",
        str(outcome.objects) if outcome.objects else "",
        "; ".join(text for text in ("" if isFound else outcome.reason, reason) if text),
        entry.file,
    )


def stateName(state: str) -> str:
    """A state of a volume in words."""
    return {
        "waiting": _("waiting"),
        "running": _("running"),
        "done": _("done"),
        "skipped": _("skipped"),
        "failed": _("failed"),
        "cancelled": _("cancelled"),
    }[state]
