"""The choices of the panel and those of the scene: each follows the other."""

from __future__ import annotations

from typing import Any

import slicer
import vtk

from .choices import Choices, parameterNode, readChoices, writeChoices
from .widget_concepts import ConceptsPart
from .widget_models import ModelsPart
from .widget_options import OptionsPart


class ChoicesPart:
    """Keeps what is chosen in the parameter node, and shows what a loaded scene brings.

    Args:
        ui: The widgets of the form.
        observer: The panel: observes the node (``VTKObservationMixin``).
        concepts, options, models: The parts of the panel that hold the choices.
    """

    def __init__(
        self, ui: Any, observer: Any, concepts: ConceptsPart, options: OptionsPart, models: ModelsPart
    ) -> None:
        self.ui, self._observer = ui, observer
        self._concepts, self._options, self._models = concepts, options, models
        self._busy = False
        self._held = 0
        self._node: Any = None

    def hold(self, *ignored: object) -> None:
        """A scene is being closed or loaded: what the selectors do meanwhile is nobody's choice."""
        self._held += 1

    def release(self, *ignored: object) -> None:
        """The scene is closed or loaded: show what it holds."""
        self._held = max(0, self._held - 1)
        self.show()

    def keep(self) -> None:
        """Write what the panel shows into the scene, once it has shown what the scene held."""
        if self._node is None or self._held or self._busy or slicer.mrmlScene.IsBatchProcessing():
            return
        self._busy = True
        try:
            writeChoices(self._observed(), self._shown())
        finally:
            self._busy = False

    def show(self, *ignored: object) -> None:
        """Show what the scene holds."""
        if self._held or self._busy:
            return
        self._busy = True
        try:
            self._put(readChoices(self._observed()))
        finally:
            self._busy = False
        self.keep()  # a volume that was chosen by default belongs to the choices

    def _observed(self) -> Any:
        node = parameterNode()
        if node is not self._node:  # the one before was removed by somebody
            self._observer.removeObservers(self.show)
            self._observer.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.show)
            self._node = node
        return node

    def _shown(self) -> Choices:
        run = self._options.options(self._options.againChoice() or "replace", "")
        return Choices(
            volume=self.ui.inputSelector.currentNode(),
            segmentation=self.ui.outputSelector.currentNode(),
            roi=run.roiNode,
            concepts=self.ui.conceptsEdit.plainText,
            again=self._options.againChoice(),
            overlap=run.overlap,
            insideSegmentId=run.insideSegmentId,
            slices=run.slices,
            mode=run.settings["mode"],
            speed=run.settings["speed"],
            model=self._models.model(),
            instances=run.instances,
            eachFrame=self._options.eachFrame(),
            freeMemory=run.freeMemory,
        )

    def _put(self, choices: Choices) -> None:
        if choices.volume is not None:
            self.ui.inputSelector.setCurrentNode(choices.volume)
        self.ui.outputSelector.setCurrentNode(choices.segmentation)
        self._concepts.setText(choices.concepts)
        self._options.show(choices)
        self._models.show(choices.model)
