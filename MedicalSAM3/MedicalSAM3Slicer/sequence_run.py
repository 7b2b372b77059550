"""Each frame of a sequence: a sequence of segmentations beside it, which moves with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from .change import Change
from .engine_work import Answer
from .outcome import Outcome
from .placing import Place, cut, outcomesOf, put
from .run import Run, RunResult
from .segmentation_node import OURS, belongTo
from .task import UserError
from .volume_input import VolumeInput, ijkToRas, readVolume, toWorld


def sequenceOf(volume: Any) -> tuple[Any, Any] | None:
    """The (browser, sequence) that a volume node shows a frame of; None where it shows none."""
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode"):
        sequence = browser.GetSequenceNode(volume)
        if sequence is not None:
            return browser, sequence
    return None


def readFrames(volume: Any, sequence: Any, modality: str) -> list[VolumeInput]:
    """What goes to the engine of each frame.

    Raises:
        UserError: There is none, or one cannot be segmented.
    """
    count = sequence.GetNumberOfDataNodes()
    if not count:
        raise UserError(_("The sequence '{name}' has no frame.").format(name=sequence.GetName()))
    return [readVolume(sequence.GetNthDataNode(number), modality, volume) for number in range(count)]


class SequenceRun(Run):
    """A run over all frames. Nothing reaches the scene before the last frame is done."""

    def place(self, answers: list[Answer]) -> RunResult:
        """Bring the answers for all frames into the scene."""
        found = sequenceOf(self.volume)
        if found is None or found[1].GetNumberOfDataNodes() != len(answers):
            raise UserError(_("The sequence was changed while it was being segmented; nothing was added."))
        browser, sequence = found
        outcomes: list[Outcome] = []
        nodes = []
        for number, answer in enumerate(answers):
            node, told = self._segmentFrame(sequence.GetNthDataNode(number), answer)
            nodes.append(node)
            outcomes += [replace(outcome, frame=number) for outcome in told]
        shown = None
        if any(outcome.state == "found" for outcome in outcomes):
            shown = self._show(browser, sequence, nodes)
        notices = dict.fromkeys(notice for answer in answers for notice in answer.notices)
        return RunResult(tuple(outcomes), shown, tuple(notices))

    def _segmentFrame(self, frame: Any, answer: Answer) -> tuple[Any, tuple[Outcome, ...]]:
        """A segmentation node outside the scene, and what is in it."""
        if frame.GetImageData().GetDimensions()[::-1] != answer.shapeKji:
            raise UserError(_("The sequence was changed while it was being segmented; nothing was added."))
        node = slicer.vtkMRMLSegmentationNode()
        node.SetReferenceImageGeometryParameterFromVolumeNode(frame)
        local = ijkToRas(frame)
        world = toWorld(self.volume) @ local
        pieces = cut(answer, self.question, Place(None, local, world), self.rules)
        added = put(Change(node), pieces, answer, self.question, self.rules)
        voxelMl = float(abs(np.linalg.det(world[:3, :3]))) / 1000.0
        return node, outcomesOf(answer, self.question, pieces, added, voxelMl)

    def _show(self, browser: Any, sequence: Any, nodes: list[Any]) -> Any:
        """Put the segmentations into a sequence that the browser moves along; return the node that shows them."""
        scene = slicer.mrmlScene
        name = scene.GenerateUniqueName(_("{volume} segmentation").format(volume=self.volume.GetName()))
        segmentations = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
        segmentations.SetIndexName(sequence.GetIndexName())
        segmentations.SetIndexUnit(sequence.GetIndexUnit())
        segmentations.SetIndexType(sequence.GetIndexType())
        for number, node in enumerate(nodes):
            segmentations.SetDataNodeAtValue(node, sequence.GetNthIndexValue(number))
        browser.AddSynchronizedSequenceNode(segmentations)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)  # makes the node that shows them
        shown = browser.GetProxyNode(segmentations)
        shown.SetName(name)
        shown.SetAttribute(OURS, "1")
        shown.CreateDefaultDisplayNodes()
        belongTo(shown, self.volume)
        self.changes = [Change(None, nodes=[segmentations, shown])]
        return shown
