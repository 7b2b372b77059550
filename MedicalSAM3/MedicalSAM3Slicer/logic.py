"""All that the module does without its panel: segment, batches, models, the engine.

    from MedicalSAM3 import MedicalSAM3Logic

    result = MedicalSAM3Logic().segment(volumeNode, ["liver", "spleen"])

What takes time comes as a ``Task`` (or ``Run``, ``Batch``, which are tasks): it goes on in a thread while its owner
calls ``poll()`` from a timer, every 20 ms or so, on the main thread. Only ``poll()`` touches the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from . import engine_tasks
from .batch import Batch
from .change import Change, revertAll
from .checking import checkRun, plainQuestion
from .choices import parameterNode
from .engine_logic import EngineLogic
from .engine_work import Question
from .folder import lookThrough
from .options import EngineSettings, RunOptions
from .outcome import Outcome
from .phrases import checkedConcepts, completions, learnWords
from .placing import Rules
from .results_folder import ResultsFolder
from .run import Run, RunResult
from .sequence_run import SequenceRun, readFrames, sequenceOf
from .task import Progress, Task, ThreadTask, UserError
from .volume_input import VolumeInput, readVolume, timesOf

__all__ = [
    "Batch", "EngineSettings", "MedicalSAM3Logic", "Outcome", "Progress", "Run", "RunOptions", "RunResult", "Task",
    "UserError",
]  # fmt: skip


class MedicalSAM3Logic(EngineLogic):
    """The module without its panel. Everything that cannot be done is told in a sentence for users (``UserError``)."""

    def __init__(self, engine: EngineSettings | None = None) -> None:
        super().__init__(engine)
        self._last: Run | Batch | None = None

    # --- segment ---

    def why(
        self,
        volumeNode: Any,
        concepts: Sequence[str] | str,
        segmentationNode: Any = None,
        options: RunOptions | None = None,
    ) -> str:
        """Why a run cannot start, in a sentence for a tooltip; "" where it can. Quick: asks no engine."""
        try:
            checkRun(volumeNode, concepts, segmentationNode, options or RunOptions())
        except UserError as error:
            return str(error)
        return ""

    def start(
        self,
        volumeNode: Any,
        concepts: Sequence[str] | str,
        segmentationNode: Any = None,
        options: RunOptions | None = None,
    ) -> Run:
        """Start to segment. Of a volume that shows a sequence, the frame that it shows.

        Args:
            volumeNode: A vtkMRMLScalarVolumeNode or vtkMRMLVectorVolumeNode (colours).
            concepts: Phrases, or a text with commas or lines between them.
            segmentationNode: Gets the segments; None = the one that belongs to this volume and was made by this
                module, or else a new one once something was found.

        Raises:
            UserError: It cannot start.
        """
        options = options or RunOptions()
        question, rules = checkRun(volumeNode, concepts, segmentationNode, options)
        inputs = [readVolume(volumeNode, options.modality)]
        return self._startRun(Run, volumeNode, inputs, question, rules, segmentationNode, options)

    def sequenceOf(self, volumeNode: Any) -> Any:
        """The vtkMRMLSequenceNode that a volume shows a frame of; None where it shows none."""
        found = sequenceOf(volumeNode) if volumeNode else None
        return found[1] if found else None

    def startSequence(self, volumeNode: Any, concepts: Sequence[str] | str, options: RunOptions | None = None) -> Run:
        """Start to segment each frame of the sequence that a volume shows; gives a sequence of segmentations beside it.

        Raises:
            UserError: It cannot start, or the volume shows no sequence.
        """
        options = options or RunOptions()
        question, rules = checkRun(volumeNode, concepts, None, options)
        sequence = self.sequenceOf(volumeNode)
        if sequence is None:
            raise UserError(_("'{name}' shows no sequence; choose its volume.").format(name=volumeNode.GetName()))
        inputs = readFrames(volumeNode, sequence, options.modality)
        return self._startRun(SequenceRun, volumeNode, inputs, question, rules, None, options)

    def segment(
        self,
        volumeNode: Any,
        concepts: Sequence[str] | str,
        segmentationNode: Any = None,
        onProgress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> RunResult:
        """Segment and wait, for scripts: ``start`` with the fields of ``RunOptions`` by name.

        Args:
            onProgress: Called now and then; what it raises cancels the run.

        Raises:
            UserError: It cannot be done.
        """
        result: RunResult = self.start(volumeNode, concepts, segmentationNode, RunOptions(**options)).wait(onProgress)
        return result

    def estimate(
        self,
        volumeNode: Any,
        concepts: Sequence[str] | str,
        options: RunOptions | None = None,
        segmentationNode: Any = None,
    ) -> Task:
        """What a run would take. ``result``: an ``Estimate`` with a ``sentence``; sends the volume first.

        Raises:
            UserError: It could not start.
        """
        options = options or RunOptions()
        question, _rules = checkRun(volumeNode, concepts, segmentationNode, options)
        volume = readVolume(volumeNode, options.modality)
        return self._begin(lambda task, connection: engine_tasks.estimate(task, connection, volume, question))

    def question(
        self,
        volumeNode: Any,
        concepts: Sequence[str] | str,
        options: RunOptions | None = None,
        segmentationNode: Any = None,
    ) -> tuple[Any, ...]:
        """What an engine would be asked; equal for equal questions about equal voxels. Quick: asks no engine.

        Raises:
            UserError: A run could not start.
        """
        question, _rules = checkRun(volumeNode, concepts, segmentationNode, options or RunOptions())
        return timesOf(volumeNode.GetImageData()), question

    def staysWhereItIs(self, volumeNode: Any) -> bool:
        """Whether asking about a volume takes it nowhere: the engine is on this computer, or has the volume already."""
        return self.engine.kind == "local" or readVolume(volumeNode).key in self._connection.sent

    def canUndo(self) -> bool:
        """Whether there is a last run or batch that can be taken back."""
        return bool(self._changes())

    def undo(self) -> bool:
        """Take back what the last run or batch did to the scene, in one step; False where there is nothing."""
        changes, self._last = self._changes(), None
        return revertAll(changes)

    def getParameterNode(self) -> Any:
        """The vtkMRMLScriptedModuleNode that keeps the panel's choices in the scene; see ``choices``."""
        return parameterNode()

    # --- batch ---

    def lookThrough(self, folder: Path | str) -> Task:
        """Find the images of a folder and of those below it; ``result``: a list of ``FolderImage``s for a batch."""
        task = ThreadTask(lambda task: lookThrough(task, Path(folder)), self._connection.explain)
        self._keep(task)
        return task.begin()

    def startBatch(
        self,
        volumeNodes: Sequence[Any],
        concepts: Sequence[str] | str,
        options: RunOptions | None = None,
        saveTo: Path | str | None = None,
        again: str = "skip",
        unload: bool = True,
    ) -> Batch:
        """Start to segment several volumes, one after the other; a failure does not stop the rest.

        An entry that is a path, or an image of ``lookThrough``, is loaded first. Ends with a summary table node.

        Args:
            saveTo: A folder that gets ``CASE.seg.nrrd`` of each volume and the table as ``summary.csv``.
            again: A result that is there already: "skip" its volume, or do it "anew".
            unload: Remove what was loaded for the batch, with its segmentation, once its result is in ``saveTo``.

        Raises:
            UserError: No volume, no concept, or a folder that cannot be written to.
        """
        phrases, options = checkedConcepts(concepts), options or RunOptions()
        results = None if saveTo is None else ResultsFolder(Path(saveTo), plainQuestion(phrases, options), again)
        batch = Batch(
            volumeNodes,
            lambda node: self.start(node, phrases, None, options),
            self._connection.explain,
            results,
            unload,
        )
        self._keep(batch)
        self._last = batch
        return batch

    # --- concepts ---

    def complete(self, typed: str, limit: int = 12) -> list[str]:
        """Names of known concepts that fit what was typed, the best first. Quick: asks no engine."""
        return completions(typed, limit)

    def learnWords(self) -> Task:
        """Make completion and correction quick from the first letter on; not needed by scripts."""
        return self._begin(lambda task, connection: learnWords())

    # --- how ---

    def _startRun(
        self,
        kind: type[Run],
        volume: Any,
        inputs: Sequence[VolumeInput],
        question: Question,
        rules: Rules,
        target: Any,
        options: RunOptions,
    ) -> Run:
        wanted = {"freeMemory": options.freeMemory, "show3D": options.show3D}
        run = kind(self._connection, volume, inputs, question, rules, target, **wanted)
        if not isinstance(self._last, Batch) or not self._last.isRunning:
            self._last = run
        self._keep(run)
        run.begin()
        return run

    def _changes(self) -> list[Change]:
        return [] if self._last is None or self._last.isRunning else self._last.changes
