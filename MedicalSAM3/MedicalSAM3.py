"""The Slicer module: pick a volume, type concepts, press Segment, and trust what you see.

The work is done by an engine in a process of its own, on this computer or on a server, so Slicer neither freezes nor
loads torch. Without the panel:

    from MedicalSAM3 import MedicalSAM3Logic

    result = MedicalSAM3Logic().segment(volumeNode, ["liver", "spleen"])
"""

from __future__ import annotations

from typing import Any

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from MedicalSAM3Slicer import sample
from MedicalSAM3Slicer.diagnostics import diagnostics
from MedicalSAM3Slicer.logic import MedicalSAM3Logic
from MedicalSAM3Slicer.widget_batch import BatchPart
from MedicalSAM3Slicer.widget_choices import ChoicesPart
from MedicalSAM3Slicer.widget_concepts import ConceptsPart
from MedicalSAM3Slicer.widget_engine import EnginePart
from MedicalSAM3Slicer.widget_import import ImportPart
from MedicalSAM3Slicer.widget_install import InstallPart
from MedicalSAM3Slicer.widget_models import ModelsPart
from MedicalSAM3Slicer.widget_options import OptionsPart
from MedicalSAM3Slicer.widget_prediction import PredictionPart
from MedicalSAM3Slicer.widget_results import ResultsPart
from MedicalSAM3Slicer.widget_run import RunPart
from MedicalSAM3Slicer.widget_ticker import Ticker

RUN_KEYS = ("Ctrl+Return", "Ctrl+Enter")


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
        slicer.app.connect("startupCompleted()", sample.register)


class MedicalSAM3Widget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel. Wiring only: each section is a part of its own, and what they do is in the logic."""

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: MedicalSAM3Logic | None = None

    def setup(self) -> None:
        """Build the panel from its .ui file; called by Slicer on first opening."""
        ScriptedLoadableModuleWidget.setup(self)
        self.form = slicer.util.loadUI(self.resourcePath("UI/MedicalSAM3.ui"))
        self.layout.addWidget(self.form)
        self.ui = slicer.util.childWidgetVariables(self.form)
        self.form.setMRMLScene(slicer.mrmlScene)
        self.logic = MedicalSAM3Logic()
        self._isUpdating = True
        self._makeParts()
        self._isUpdating = False
        self.ui.diagnosticsButton.connect("clicked()", self.copyDiagnostics)
        self.ui.inputSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onVolume)
        self._shortcuts = [self._shortcut(keys) for keys in RUN_KEYS]
        self._observeScene(slicer.mrmlScene)
        self.onVolume()
        self.choices.show()
        self.ticker.follow(self.logic.learnWords(), lambda task: None, lambda task: None)

    def cleanup(self) -> None:
        """Leave nothing running or observed; called by Slicer on unloading and reloading."""
        self.removeObservers()
        if self.logic is None:
            return
        self.ticker.stop()
        self.concepts.cleanup()
        self.prediction.close()
        self.logic.close()
        self.logic = None

    def enter(self) -> None:
        """The user comes back to the panel: the scene may have changed."""
        self.options.showVolume()
        self.options.showSegments()
        self.choices.show()
        self.update()

    def onVolume(self, *ignored: object) -> None:
        """Another volume was chosen. It may get its voxels later: it is watched."""
        event, volume = slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self.ui.inputSelector.currentNode()
        self.removeObservers(self.onVoxels)
        if volume is not None:
            self.addObserver(volume, event, self.onVoxels)
        self.update()

    def onVoxels(self, *ignored: object) -> None:
        """The chosen volume has got other voxels."""
        self.options.showVolume()
        self.update()

    def onSceneCloses(self, *ignored: object) -> None:
        """A result for a volume that goes has no place."""
        self.prediction.stop()
        self.run.discard()
        self.batch.discard()
        self.results.clear()

    def update(self, *ignored: object) -> None:
        """Enable what can be done now, and say in tooltips why the rest cannot."""
        if self._isUpdating or self.logic is None:
            return
        self._isUpdating = True  # what is updated may say that it changed
        try:
            self.batch.update(self.run.isRunning(), self.concepts.concepts())
            self.run.update()
            self.prediction.update(self.run.reason(), self.run.isRunning() or self.batch.isRunning())
            if self.batch.isRunning():
                self.ui.segmentButton.enabled = False
                self.ui.segmentButton.toolTip = _("Wait for the batch, or cancel it.")
            self.results.update()
            self.imports.update()
            self.choices.keep()
        finally:
            self._isUpdating = False

    def copyDiagnostics(self) -> None:
        """Put the report on the clipboard."""
        said = [self.ui.statusLabel.text, self.engine.lastError, *self.engine.lastCheck.splitlines()]
        qt.QApplication.clipboard().setText(diagnostics(self.engine.settings(), self.models.model(), said))
        self.engine.say(_("The report is on the clipboard. It holds no patient data, address or token."))

    def _observeScene(self, scene: Any) -> None:
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneCloses)
        for event in (scene.StartCloseEvent, scene.StartImportEvent, scene.StartRestoreEvent):
            self.addObserver(scene, event, self.choices.hold)
        for event in (scene.EndCloseEvent, scene.EndImportEvent, scene.EndRestoreEvent):
            self.addObserver(scene, event, self.choices.release)
        self.addObserver(scene, scene.EndCloseEvent, self.update)
        self.addObserver(scene, scene.NodeRemovedEvent, self.update)

    def _makeParts(self) -> None:
        ui, logic = self.ui, self.logic
        self.ticker = Ticker()
        self.concepts = ConceptsPart(ui, logic.complete, self.update, self.onRunKeys)
        self.options = OptionsPart(ui, logic.sequenceOf, self.update)
        self.results = ResultsPart(ui, logic, lambda text: self.run.say(text))
        self.engine = EnginePart(ui, logic, self.ticker, lambda: self.models.refresh(), self.update)
        self.models = ModelsPart(ui, logic, self.ticker, self.engine.say, self.update)
        self.install = InstallPart(ui, self.engine.say)
        self.imports = ImportPart(ui, logic, self.ticker, self.models, self.engine.say)
        self.run = RunPart(
            ui, logic, self.ticker, self.concepts, self.options, self.results, self.models.model,
            lambda: self.prediction.stop(), self._runChanged, self._runDone,
        )  # fmt: skip
        self.prediction = PredictionPart(ui, logic, self.ticker, self.run.asked, self.run.say)
        self.choices = ChoicesPart(ui, self, self.concepts, self.options, self.models)
        self.batch = BatchPart(ui, logic, self.ticker, self._batchQuestion, self.run.say, self.update)

    def _shortcut(self, keys: str) -> Any:
        shortcut = qt.QShortcut(qt.QKeySequence(keys), self.form)
        shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
        shortcut.connect("activated()", self.onRunKeys)
        return shortcut

    def onRunKeys(self) -> None:
        """Ctrl+Enter starts a run, and never cancels one."""
        if not self.run.isRunning() and not self.batch.isRunning():
            self.run.onSegment()

    def _runChanged(self) -> None:
        if not self.run.isRunning():
            self.options.showSegments()
        self.update()

    def _runDone(self) -> None:
        self.prediction.wake()
        self.models.refreshOnce()

    def _batchQuestion(self) -> tuple[list[str], Any]:
        return self.concepts.concepts(), self.options.options(
            self.options.againChoice() or "replace", self.models.model()
        )


class MedicalSAM3Test(ScriptedLoadableModuleTest):
    """The part that needs the real application; everything else is tested outside, under Testing/slicer."""

    def setUp(self) -> None:
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Called by Slicer by this name."""
        self.setUp()
        self.test_OpensAndSaysWhyItCannotRun()
        self.setUp()
        self.test_EngineThatIsNotThereIsAnAnswer()
        self.setUp()
        self.test_ImageOfAFolderIsLoadedAsSlicerLoadsIt()

    def test_OpensAndSaysWhyItCannotRun(self) -> None:
        """The panel opens in the application; its button is grey with a reason, and a volume and a word enable it."""
        slicer.util.selectModule("MedicalSAM3")
        widget = slicer.modules.MedicalSAM3Widget
        self.assertFalse(widget.ui.segmentButton.enabled)
        self.assertTrue(widget.ui.segmentButton.toolTip)
        widget.ui.inputSelector.setCurrentNode(self.makeVolume())
        widget.concepts.setText("liver, spleen")
        self.assertTrue(widget.ui.segmentButton.enabled)

    def test_EngineThatIsNotThereIsAnAnswer(self) -> None:
        """A server that does not answer ends the run with a sentence and leaves the scene as it was."""
        logic = MedicalSAM3Logic()
        logic.setEngine(type(logic.engine)(kind="remote", url="http://127.0.0.1:9"))
        run = logic.start(self.makeVolume(), ["liver"])
        while run.poll():
            slicer.app.processEvents()
        self.assertEqual(run.state, "failed")
        self.assertTrue(run.error)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode"), 0)
        logic.close()

    def test_ImageOfAFolderIsLoadedAsSlicerLoadsIt(self) -> None:
        """A file is read beside the main thread, by the reader of Slicer's loader and to the same voxels and place."""
        from pathlib import Path

        from MedicalSAM3Slicer.folder import FolderImage
        from MedicalSAM3Slicer.loading import LoadTask
        from MedicalSAM3Slicer.volume_input import ijkToRas

        volume = self.makeVolume()
        slicer.util.updateVolumeFromArray(volume, np.arange(120, dtype=np.int16).reshape(4, 5, 6))
        volume.SetSpacing(0.5, 0.75, 2.0)
        volume.SetIJKToRASDirections(-1, 0, 0, 0, 1, 0, 0, 0, 1)  # a left hand's axes
        path = Path(slicer.app.temporaryPath) / "MedicalSAM3Test.nrrd"
        try:
            slicer.util.saveNode(volume, str(path))
            task = LoadTask(FolderImage(path.name, path)).begin()
            while task.poll():
                slicer.app.processEvents()
            expected = slicer.util.loadVolume(str(path))
        finally:
            path.unlink(missing_ok=True)
        self.assertEqual((task.state, task.note), ("done", ""))
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(task.result), slicer.util.arrayFromVolume(expected))
        np.testing.assert_allclose(ijkToRas(task.result), ijkToRas(expected), atol=1e-9)

    def makeVolume(self) -> Any:
        """A small volume of the scene."""
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
        slicer.util.updateVolumeFromArray(volume, np.zeros((4, 5, 6), dtype=np.int16))
        return volume
