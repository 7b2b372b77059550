"""The Slicer module: pick a volume, type concepts, press Segment.

The work is done by the ``medsam3`` command in a process of its own, so Slicer neither freezes nor loads
torch. What the panel shows is what the command answered: found, not found, or failed with its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from MedicalSAM3Slicer.command import (
    REPORT_FILE,
    SEGMENTATION_FILE,
    SEPARATE_OPTION,
    VOLUME_FILE,
    buildCommand,
    findProgram,
    splitConcepts,
)
from MedicalSAM3Slicer.job import Job
from MedicalSAM3Slicer.outcome import Outcome, describe, failAll, failureReason, readReport
from MedicalSAM3Slicer.scene import addSegments

PROGRAM_SETTING = "MedicalSAM3/Program"

OnDone = Callable[[Sequence[Outcome]], None]


class MedicalSAM3(ScriptedLoadableModule):
    """What Slicer knows of the module before it is opened."""

    def __init__(self, parent: object) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("MedicalSAM3")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["The MedicalSAM3 maintainers"]
        self.parent.helpText = _(
            "Segments a volume by typed concepts, for instance: liver, left kidney. A concept that is not in the "
            "image is reported as not found. For research, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "The method is that of Medical SAM3; the network is SAM3, by way of Hugging Face transformers."
        )


class MedicalSAM3Widget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. Wiring only; what it does is in the logic."""

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: MedicalSAM3Logic | None = None

    def setup(self) -> None:
        """Build the panel from its .ui file; called by Slicer on first opening."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/MedicalSAM3.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = MedicalSAM3Logic()
        self.ui.programEdit.text = slicer.util.settingsValue(PROGRAM_SETTING, "")
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.updateButton)
        self.ui.conceptsEdit.connect("textChanged(QString)", self.updateButton)
        self.ui.conceptsEdit.connect("returnPressed()", self.onReturn)
        self.ui.programEdit.connect("editingFinished()", self.onProgramChanged)
        self.ui.segmentButton.connect("clicked(bool)", self.onSegment)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneClose)
        self.updateButton()

    def cleanup(self) -> None:
        """Leave nothing running or observed; called by Slicer on unloading and reloading."""
        if self.logic:
            self.logic.discard()
        self.removeObservers()

    def onSceneClose(self, caller: object, event: str) -> None:
        """A result for a volume that is gone has no place."""
        self.logic.discard()
        self.ui.resultsList.clear()
        self.updateButton()

    def onProgramChanged(self) -> None:
        """Remember where the command is, for all later sessions."""
        qt.QSettings().setValue(PROGRAM_SETTING, self.ui.programEdit.text.strip())

    def onReturn(self) -> None:
        """Enter in the text line starts a run, and never cancels one."""
        if self.ui.segmentButton.enabled and not self.logic.isRunning():
            self.onSegment()

    def onSegment(self, checked: bool = False) -> None:
        """Start, or cancel what is running."""
        if self.logic.isRunning():
            self.logic.cancel()
            return
        with slicer.util.tryWithErrorDisplay(_("The segmentation did not start.")):
            self.ui.resultsList.clear()
            concepts = splitConcepts(self.ui.conceptsEdit.text)
            program = findProgram(self.ui.programEdit.text)
            volume, target = self.ui.inputSelector.currentNode(), self.ui.outputSelector.currentNode()
            options = [SEPARATE_OPTION] if self.ui.separateCheckBox.checked else []
            self.logic.segment(volume, concepts, program, self.onDone, target, options)
        self.updateButton()

    def onDone(self, outcomes: Sequence[Outcome]) -> None:
        """A line for each asked concept; none when the run was cancelled."""
        self.ui.resultsList.addItems([describe(outcome) for outcome in outcomes])
        self.updateButton()

    def updateButton(self, *ignored: object) -> None:
        """Say what the button does, or in its tooltip why it does nothing."""
        running = self.logic.isRunning()
        reason = ""
        if self.ui.inputSelector.currentNode() is None:
            reason = _("Choose a volume first.")
        elif not splitConcepts(self.ui.conceptsEdit.text):
            reason = _("Type at least one concept, for instance: liver, left kidney.")
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment")
        self.ui.segmentButton.enabled = running or not reason
        self.ui.segmentButton.toolTip = reason or _("Segment the typed concepts in the chosen volume.")
        self.ui.progressBar.visible = running


class MedicalSAM3Logic(ScriptedLoadableModuleLogic):
    """Runs the command for a volume and brings its answers into the scene. Needs no panel.

    logic.segment(volumeNode, ["liver"], findProgram(), onDone)
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._job: Job | None = None

    def isRunning(self) -> bool:
        """Whether a run has been started and has not ended."""
        return self._job is not None

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        concepts: Sequence[str],
        program: str,
        onDone: OnDone,
        segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """Start a run and return at once.

        Args:
            volumeNode: Segmented as it lies in the world, with its transforms applied.
            concepts: At least one phrase.
            program: Path of the ``medsam3`` command.
            onDone: Called with an outcome for each concept; with none when the run was cancelled.
            segmentationNode: Gets the segments; a new one is made when something was found and this is None.
            options: More options of the command.

        Raises:
            RuntimeError: A run is still going on, or the volume cannot be written.
            ValueError: No concept was given.
        """
        if self._job is not None:
            raise RuntimeError(_("A segmentation is running already; wait for it or cancel it."))
        nodeIds = volumeNode.GetID(), segmentationNode.GetID() if segmentationNode else None
        job = Job(lambda exitCode, stderr: self._finish(exitCode, stderr, list(concepts), nodeIds, onDone))
        try:
            command = buildCommand(program, job.folder, concepts, options)
            if not slicer.util.exportNode(volumeNode, str(job.folder / VOLUME_FILE), {"useCompression": 0}, world=True):
                raise RuntimeError(_("The volume could not be written for the segmentation."))
        except Exception:
            job.discard()
            raise
        self._job = job
        job.start(command)

    def cancel(self) -> None:
        """Stop the run; nothing of it reaches the scene."""
        if self._job:
            self._job.cancel()

    def discard(self) -> None:
        """Stop the run without a word to the panel."""
        job, self._job = self._job, None
        if job:
            job.discard()

    def _finish(
        self,
        exitCode: int | None,
        stderr: str,
        concepts: list[str],
        nodeIds: tuple[str, str | None],
        onDone: OnDone,
    ) -> None:
        job, self._job = self._job, None
        if exitCode is None:
            outcomes: list[Outcome] = []
        elif exitCode != 0:
            outcomes = failAll(concepts, failureReason(stderr, exitCode))
        else:
            try:
                outcomes = self._collect(job, concepts, nodeIds)
            except Exception as error:
                logging.exception("MedicalSAM3: the result could not be brought into the scene")
                outcomes = failAll(concepts, str(error))
        onDone(outcomes)

    def _collect(self, job: Job, concepts: list[str], nodeIds: tuple[str, str | None]) -> list[Outcome]:
        outcomes = readReport(job.folder / REPORT_FILE, concepts)
        if not any(outcome.state == "found" for outcome in outcomes):
            return outcomes
        volume, target = (slicer.mrmlScene.GetNodeByID(nodeId) if nodeId else None for nodeId in nodeIds)
        if volume is None:
            raise RuntimeError(_("The volume was removed while it was being segmented."))
        result = slicer.util.loadSegmentation(str(job.folder / SEGMENTATION_FILE))
        try:
            return addSegments(target or self._newSegmentation(volume), result, outcomes)
        finally:
            slicer.mrmlScene.RemoveNode(result)

    def _newSegmentation(self, volume: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
        name = _("{volume} segmentation").format(volume=volume.GetName())
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        study = tree.GetItemParent(tree.GetItemByDataNode(volume))
        tree.SetItemParent(tree.GetItemByDataNode(node), study)
        return node


class MedicalSAM3Test(ScriptedLoadableModuleTest):
    """The part that needs the real application; everything else is tested outside, under Testing/slicer."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Called by Slicer by this name."""
        self.setUp()
        self.test_ProgramThatDoesNotStartIsAnAnswer()

    def test_ProgramThatDoesNotStartIsAnAnswer(self) -> None:
        """A missing command ends the run with a reason, removes its folder and leaves the scene as it was."""
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
        slicer.util.updateVolumeFromArray(volume, np.zeros((4, 5, 6), dtype=np.int16))
        answers: list[Outcome] = []
        logic = MedicalSAM3Logic()
        logic.segment(volume, ["liver", "spleen"], "no-such-program", answers.extend)
        for _attempt in range(100):
            if not logic.isRunning():
                break
            slicer.app.processEvents()
            slicer.util.delayDisplay("waiting", 50)
        self.assertEqual([answer.state for answer in answers], ["failed", "failed"])
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
