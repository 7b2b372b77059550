"""The options of a run: the widgets of the form as ``RunOptions``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from .choices import Choices
from .options import AGAIN, MODES, OVERLAPS, SPEEDS, RunOptions


class OptionsPart:
    """What the user chose beside volume and concepts.

    Args:
        ui: The widgets of the form.
        sequenceOf: Gives the sequence that a volume shows a frame of, or None.
        onChange: Called after each change.
    """

    def __init__(self, ui: Any, sequenceOf: Callable[[Any], Any], onChange: Callable[[], None]) -> None:
        self.ui, self._sequenceOf = ui, sequenceOf
        self._segmentIds: list[str] = [""]
        self._range = "", 0
        for box in (ui.againBox, ui.overlapBox, ui.insideBox, ui.modeBox, ui.speedBox):
            box.connect("currentIndexChanged(int)", onChange)
        for box in (ui.separateCheckBox, ui.framesCheckBox, ui.freeMemoryCheckBox):
            box.connect("toggled(bool)", onChange)
        for box in (ui.firstSliceBox, ui.lastSliceBox):
            box.connect("valueChanged(int)", onChange)
        ui.roiSelector.connect("currentNodeChanged(vtkMRMLNode*)", onChange)
        ui.slicesCheckBox.connect("toggled(bool)", self._enableSlices)
        ui.slicesCheckBox.connect("toggled(bool)", onChange)
        ui.outputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.showSegments)
        ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.showVolume)
        self.showVolume()
        self.showSegments()

    def options(self, again: str, model: str) -> RunOptions:
        """All of them; ``again`` is "replace" or "add"."""
        ui = self.ui
        slices = (ui.firstSliceBox.value - 1, ui.lastSliceBox.value) if ui.slicesCheckBox.checked else None
        return RunOptions(
            settings={"mode": MODES[ui.modeBox.currentIndex], "speed": SPEEDS[ui.speedBox.currentIndex]},
            model=model,
            overlap=OVERLAPS[ui.overlapBox.currentIndex],
            insideSegmentId=self._segmentIds[max(ui.insideBox.currentIndex, 0)],
            roiNode=ui.roiSelector.currentNode(),
            slices=slices,
            again=again,
            instances=ui.separateCheckBox.checked,
            freeMemory=ui.freeMemoryCheckBox.checked,
            show3D=ui.show3DButton.checked,
        )

    def againChoice(self) -> str:
        """ "replace" or "add"; "" where the user wants to be asked."""
        return ("", *AGAIN)[self.ui.againBox.currentIndex]

    def reason(self) -> str:
        """Why a run cannot start with these options; "" where it can."""
        ui = self.ui
        inside = OVERLAPS[ui.overlapBox.currentIndex] == "inside"
        if inside and not self._segmentIds[max(ui.insideBox.currentIndex, 0)] and ui.roiSelector.currentNode() is None:
            return _("Choose the segment or the region inside which results are kept, under Options.")
        if ui.slicesCheckBox.checked and ui.firstSliceBox.value > ui.lastSliceBox.value:
            return _("The first slice comes after the last one; correct it under Options.")
        return ""

    def eachFrame(self) -> bool:
        """Whether all frames of the sequence that the volume shows are to be segmented."""
        return bool(self.ui.framesCheckBox.checked)

    def show(self, choices: Choices) -> None:
        """Show what a scene brings; of a range of slices what the volume has."""
        ui = self.ui
        self.showVolume()
        self.showSegments()
        ui.roiSelector.setCurrentNode(choices.roi)
        ui.againBox.currentIndex = ("", *AGAIN).index(choices.again)
        ui.overlapBox.currentIndex = OVERLAPS.index(choices.overlap)
        known = choices.insideSegmentId in self._segmentIds
        ui.insideBox.currentIndex = self._segmentIds.index(choices.insideSegmentId) if known else 0
        ui.modeBox.currentIndex = MODES.index(choices.mode)
        ui.speedBox.currentIndex = SPEEDS.index(choices.speed)
        ui.slicesCheckBox.checked = choices.slices is not None
        if choices.slices is not None:
            ui.firstSliceBox.value, ui.lastSliceBox.value = choices.slices[0] + 1, choices.slices[1]
        ui.separateCheckBox.checked = choices.instances
        ui.framesCheckBox.checked = choices.eachFrame and bool(ui.framesCheckBox.enabled)
        ui.freeMemoryCheckBox.checked = choices.freeMemory

    def showVolume(self, *ignored: object) -> None:
        """Fit the range of slices and the box for sequences to the chosen volume; the same volume keeps its range."""
        volume = self.ui.inputSelector.currentNode()
        image = volume.GetImageData() if volume is not None else None
        count = image.GetDimensions()[2] if image is not None else 1
        fitted = (volume.GetID() if volume is not None else "", count)
        if self._range != fitted:
            self._range = fitted
            for box, value in ((self.ui.firstSliceBox, 1), (self.ui.lastSliceBox, count)):
                box.maximum = count
                box.value = value
        hasFrames = volume is not None and self._sequenceOf(volume) is not None
        self.ui.framesCheckBox.enabled = hasFrames
        self.ui.framesCheckBox.checked = self.ui.framesCheckBox.checked and hasFrames
        self.ui.framesCheckBox.toolTip = (
            _("Segment every frame; gives a sequence of segmentations.")
            if hasFrames
            else _("The chosen volume shows no sequence.")
        )

    def showSegments(self, *ignored: object) -> None:
        """List the segments of the chosen segmentation; the choice stays where it can."""
        chosen = self._segmentIds[max(self.ui.insideBox.currentIndex, 0)]
        node = self.ui.outputSelector.currentNode()
        segmentation = node.GetSegmentation() if node is not None else None
        self._segmentIds = ["", *(segmentation.GetSegmentIDs() if segmentation else ())]
        while self.ui.insideBox.count > 1:
            self.ui.insideBox.removeItem(1)
        for segmentId in self._segmentIds[1:]:
            self.ui.insideBox.addItem(segmentation.GetSegment(segmentId).GetName())
        self.ui.insideBox.currentIndex = self._segmentIds.index(chosen) if chosen in self._segmentIds else 0

    def _enableSlices(self, checked: bool) -> None:
        self.ui.firstSliceBox.enabled = checked
        self.ui.lastSliceBox.enabled = checked
