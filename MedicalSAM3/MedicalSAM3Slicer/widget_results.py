"""The table of answers, and what can be done with them: go to doubtful slices, show in 3D, edit, undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from .outcome import Outcome, stateText

REVIEW_COLUMN = 5
MOST_SLICES_SHOWN = 8


class ResultsPart:
    """What came of each concept.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        say: Shows a sentence in the panel.
    """

    def __init__(self, ui: Any, logic: Any, say: Callable[[str], None]) -> None:
        self.ui, self.logic, self._say = ui, logic, say
        self.outcomes: list[Outcome] = []
        self._volumeId, self._nodeId = "", ""
        self._visited: dict[int, int] = {}
        ui.resultsTable.verticalHeader().setVisible(False)
        ui.resultsTable.horizontalHeader().setStretchLastSection(True)
        ui.resultsTable.horizontalHeader().setHighlightSections(False)
        ui.resultsTable.connect("cellClicked(int,int)", self._clicked)
        ui.resultsTable.connect("itemSelectionChanged()", self.update)
        ui.reviewButton.connect("clicked()", self.goToNextSlice)
        ui.show3DButton.connect("toggled(bool)", self.show3D)
        ui.editButton.connect("clicked()", self.edit)
        ui.undoButton.connect("clicked()", self.undo)
        self.update()

    def clear(self) -> None:
        """Show no answers; the scene stays."""
        self.show([], None, None)

    def show(self, outcomes: Sequence[Outcome], volume: Any, segmentation: Any) -> None:
        """Show a line for each outcome."""
        self.outcomes, self._visited = list(outcomes), {}
        self._volumeId = volume.GetID() if volume is not None else ""
        self._nodeId = segmentation.GetID() if segmentation is not None else ""
        table = self.ui.resultsTable
        table.setRowCount(len(self.outcomes))
        for row, outcome in enumerate(self.outcomes):
            for column, text in enumerate(cells(outcome)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(outcome.reason or text)
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        table.resizeRowsToContents()
        if self.outcomes:
            table.selectRow(next((row for row, one in enumerate(self.outcomes) if one.state == "found"), 0))
        self.update()

    def segmentation(self) -> Any:
        """The segmentation of the answers, or None when it is not there (any more)."""
        return slicer.mrmlScene.GetNodeByID(self._nodeId) if self._nodeId else None

    def chosen(self) -> Outcome | None:
        """The outcome of the selected line."""
        row = self.ui.resultsTable.currentRow()
        return self.outcomes[row] if 0 <= row < len(self.outcomes) else None

    def update(self) -> None:
        """Enable what can be done, and say of the rest why not."""
        outcome, node = self.chosen(), self.segmentation()
        hasSlices = outcome is not None and bool(outcome.reviewSlices)
        self._set(self.ui.reviewButton, hasSlices, _("Go to its next slice where the model was unsure."),
                  _("Choose a concept with slices to look at."))  # fmt: skip
        nothing = _("Nothing was found yet.")
        self._set(self.ui.show3DButton, node is not None,
                  _("Make surfaces of the segments; takes some seconds for a large volume."), nothing)  # fmt: skip
        self._set(self.ui.editButton, node is not None,
                  _("Open the Segment Editor with the chosen segment. Correction by points and boxes is planned."),
                  nothing)  # fmt: skip
        self._set(self.ui.undoButton, self.logic.canUndo(), _("Take back all that the last run did, in one step."),
                  _("There is no run to take back."))  # fmt: skip

    def goToNextSlice(self) -> None:
        """Show the next of the chosen concept's doubtful slices in all slice views; after the last comes the first."""
        outcome, row = self.chosen(), self.ui.resultsTable.currentRow()
        volume = slicer.mrmlScene.GetNodeByID(self._volumeId) if self._volumeId else None
        if outcome is None or not outcome.reviewSlices:
            return
        if volume is None:
            self._say(_("The volume of these answers is not there any more."))
            return
        number = outcome.reviewSlices[self._visited.get(row, 0) % len(outcome.reviewSlices)]
        self._visited[row] = self._visited.get(row, 0) + 1
        ras = pointOnSlice(volume, 2 if outcome.axis is None else outcome.axis, number, self._centre(outcome))
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *ras)
        self._say(
            _("{phrase}: slice {number}, one of {count} to look at.").format(
                phrase=outcome.phrase, number=number + 1, count=len(outcome.reviewSlices)
            )
        )

    def show3D(self, checked: bool) -> None:
        """Make surfaces, or take them out of sight. The one thing that may take seconds is announced."""
        node = self.segmentation()
        if node is None:
            return
        if checked:
            said = self.ui.statusLabel.text
            self._say(_("Making surfaces..."))
            slicer.app.processEvents()
            slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
            try:
                node.CreateClosedSurfaceRepresentation()
            finally:
                slicer.app.restoreOverrideCursor()
            self._say(said)
        display = node.GetDisplayNode()
        if display is not None:
            display.SetVisibility3D(checked)

    def edit(self) -> None:
        """Open the Segment Editor on the result."""
        node, outcome = self.segmentation(), self.chosen()
        if node is None:
            return
        volume = slicer.mrmlScene.GetNodeByID(self._volumeId)
        segmentId = outcome.segmentIds[0] if outcome is not None and outcome.segmentIds else ""
        openEditor(node, volume, segmentId)

    def undo(self) -> None:
        """Take the last run back."""
        if self.logic.undo():
            self.clear()
            self._say(_("The last run was taken back."))
        self.update()

    def _centre(self, outcome: Outcome) -> tuple[float, float, float] | None:
        node = self.segmentation()
        if node is None or not outcome.segmentIds or node.GetSegmentation().GetSegment(outcome.segmentIds[0]) is None:
            return None
        centre = node.GetSegmentCenterRAS(outcome.segmentIds[0])
        return tuple(centre) if centre is not None else None

    def _clicked(self, row: int, column: int) -> None:
        if column == REVIEW_COLUMN:
            self.goToNextSlice()

    def _set(self, button: Any, enabled: bool, tip: str, reason: str) -> None:
        button.enabled = enabled
        button.toolTip = tip if enabled else reason


def cells(outcome: Outcome) -> list[str]:
    """The texts of a line: concept, answer, presence, confidence, ml, slices to look at (counted from 1)."""
    found = outcome.state == "found"
    state = stateText(outcome)
    if outcome.objects > 1:
        state = _("{state}, {count} objects").format(state=state, count=outcome.objects)
    slices = [str(number + 1) for number in outcome.reviewSlices[:MOST_SLICES_SHOWN]]
    more = [_("and {count} more").format(count=len(outcome.reviewSlices) - MOST_SLICES_SHOWN)]
    frame = "" if outcome.frame is None else _(" (frame {number})").format(number=outcome.frame + 1)
    return [
        outcome.phrase + frame,
        state,
        "" if outcome.presence is None else f"{outcome.presence:.2f}",
        "" if outcome.confidence is None else f"{outcome.confidence:.2f}",
        f"{outcome.volumeMl:.1f}" if found else "",
        ", ".join(slices + (more if len(outcome.reviewSlices) > MOST_SLICES_SHOWN else []))
        if found
        else outcome.reason,
    ]


def pointOnSlice(
    volume: Any, axis: int, number: int, near: tuple[float, float, float] | None
) -> tuple[float, float, float]:
    """A point of the world (RAS, mm) on a slice of a volume.

    Args:
        axis: Of the volume: 0 = i, 1 = j, 2 = k.
        number: Slice along it, from 0.
        near: Point of the world above or below which it shall lie; None = the middle of the slice.
    """
    toWorld = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, toWorld)
    ijkToRas = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(ijkToRas)
    if near is None:
        ijk = [(count - 1) / 2 for count in volume.GetImageData().GetDimensions()]
    else:
        rasToIjk = vtk.vtkMatrix4x4()
        volume.GetRASToIJKMatrix(rasToIjk)
        ras = toWorld.GetInverse().TransformPoint(near)
        ijk = list(rasToIjk.MultiplyPoint((*ras, 1.0))[:3])
    ijk[axis] = float(number)
    return tuple(toWorld.TransformPoint(ijkToRas.MultiplyPoint((*ijk, 1.0))[:3]))


def openEditor(segmentation: Any, volume: Any, segmentId: str) -> None:
    """Open the Segment Editor with a segmentation, its volume and a segment selected.

    Correction by text, points and boxes will come here; the Segment Editor does by hand what it can.
    """
    slicer.util.selectModule("SegmentEditor")
    editor = slicer.modules.SegmentEditorWidget.editor
    editor.setSegmentationNode(segmentation)
    if volume is not None:
        editor.setSourceVolumeNode(volume)
    if segmentId:
        editor.setCurrentSegmentID(segmentId)
