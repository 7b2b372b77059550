"""A run: a volume goes to the engine, its masks come back as segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from .change import Change, isInScene
from .connection import Connection
from .engine_work import Answer, Question, ask
from .grid import checkGrid, ijkToSegmentation
from .outcome import Outcome, outcomeOf
from .placing import Place, Rules, cut, outcomesOf, put
from .segmentation_node import belongTo, newSegmentation, segmentationOf
from .task import ThreadTask, UserError
from .volume_input import VolumeInput, ijkToRas, toWorld


@dataclass(frozen=True)
class RunResult:
    """What a run brought.

    Attributes:
        outcomes: One for each concept, in the order asked; of a sequence, those of all frames.
        segmentationNode: Where the segments are; None where nothing was found and there was none before.
        notices: Sentences that a user should know.
    """

    outcomes: tuple[Outcome, ...]
    segmentationNode: Any
    notices: tuple[str, ...] = ()


class Run(ThreadTask):
    """A segmentation that goes on. ``result`` is a ``RunResult`` once it is "done".

    Args:
        connection: Which engine.
        volume: The node, which must stay in the scene until the end.
        inputs: What is sent of it: itself, or each frame of a sequence.
        target: Segmentation node that gets the segments; None = found or made at the end.
        freeMemory: Let the engine forget the features at the end.
        show3D: Make surfaces at the end.

    Attributes:
        outcomes: Those that are known so far, in the order asked.
        changes: What it did to the scene.
    """

    def __init__(
        self,
        connection: Connection,
        volume: Any,
        inputs: Sequence[VolumeInput],
        question: Question,
        rules: Rules,
        target: Any = None,
        *,
        freeMemory: bool = False,
        show3D: bool = False,
    ) -> None:
        super().__init__(self._ask, connection.explain)
        self.outcomes: tuple[Outcome, ...] = ()
        self.changes: list[Change] = []
        self.volume, self.target, self.question, self.rules = volume, target, question, rules
        self._connection, self._inputs = connection, tuple(inputs)
        self._freeMemory, self._show3D = freeMemory, show3D
        self._frame = 0

    def poll(self) -> bool:
        """Take note of what the engine did; end at once where the scene has not the volume any more."""
        if self.isRunning and (reason := self._whyGone()):
            self._fail(reason)
        return super().poll()

    def take(self, kind: str, value: Any) -> None:
        """Hear of a finding."""
        if kind == "finding":
            frame = self._frame if len(self._inputs) > 1 else None
            self.outcomes = (*self.outcomes, outcomeOf(value, frame=frame))
        elif kind == "frame":
            self._frame = value

    def finish(self, value: list[Answer]) -> RunResult:
        """Bring the answers into the scene: all of them, or nothing.

        Raises:
            UserError: The scene has changed so that they have no place.
        """
        if reason := self._whyGone():
            raise UserError(reason)
        result = self.place(value)
        self.outcomes = result.outcomes
        if self._show3D and self.changes:
            result.segmentationNode.CreateClosedSurfaceRepresentation()
        return result

    def place(self, answers: list[Answer]) -> RunResult:
        """Bring the answer for one volume into the scene."""
        (answer,) = answers
        if self.volume.GetImageData() is None or self.volume.GetImageData().GetDimensions()[::-1] != answer.shapeKji:
            raise UserError(_("The volume got another size while it was being segmented; nothing was added."))
        target = self.target or segmentationOf(self.volume)
        if target is not None:
            checkGrid(target, self.volume)
        local = ijkToRas(self.volume)
        frame = local if target is None else ijkToSegmentation(self.volume, target)
        pieces = cut(answer, self.question, Place(target, frame, toWorld(self.volume) @ local), self.rules)
        added: dict[int, list[str]] = {}
        if pieces:
            change = Change(target)
            if target is None:
                change.node = target = newSegmentation(self.volume)
                change.nodes = [target]
            elif target.GetSegmentation().GetNumberOfSegments() == 0:
                belongTo(target, self.volume)
                pieces = cut(answer, self.question, Place(target, local, toWorld(self.volume) @ local), self.rules)
            added = put(change, pieces, answer, self.question, self.rules)
            self.changes = [change]
        voxelMl = float(abs(np.linalg.det((toWorld(self.volume) @ local)[:3, :3]))) / 1000.0
        outcomes = outcomesOf(answer, self.question, pieces, added, voxelMl)
        return RunResult(outcomes, target, answer.notices)

    def _whyGone(self) -> str:
        if not isInScene(self.volume):
            return _("The volume was removed while it was being segmented; nothing was added.")
        if self.target is not None and not isInScene(self.target):
            return _("The chosen segmentation was removed while the volume was being segmented; nothing was added.")
        return ""

    def _end(self, state: str, result: Any = None, error: str = "") -> None:
        self._inputs = ()  # whoever keeps the run does not keep the voxels
        super()._end(state, result, error)

    def _ask(self, task: ThreadTask) -> list[Answer]:
        answers, inputs = [], self._inputs
        for number, volume in enumerate(inputs):
            task.post("frame", number)
            span = number / len(inputs), (number + 1) / len(inputs)
            answers.append(ask(task, self._connection, volume, self.question, span))
        if self._freeMemory:
            self._connection.client(task).drop_features()
        return answers
