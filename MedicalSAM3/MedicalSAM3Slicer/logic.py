"""All that the module does without its panel: segment, batches, models, the engine.

    from MedicalSAM3 import MedicalSAM3Logic

    result = MedicalSAM3Logic().segment(volumeNode, ["liver", "spleen"])

What takes time comes as a ``Task`` (or ``Run``, ``Batch``, which are tasks): it goes on in a thread while its owner
calls ``poll()`` from a timer, every 50 ms or so, on the main thread. Only ``poll()`` touches the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .batch import Batch
from .options import EngineSettings, RunOptions
from .outcome import Outcome
from .run import Run, RunResult
from .task import Progress, Task

__all__ = [
    "Batch",
    "EngineSettings",
    "MedicalSAM3Logic",
    "Outcome",
    "Progress",
    "Run",
    "RunOptions",
    "RunResult",
    "Task",
]


class MedicalSAM3Logic:
    """The module without its panel. Everything that cannot be done is told in a sentence for users (``UserError``)."""

    def __init__(self, engine: EngineSettings | None = None) -> None: ...

    # --- the engine ---

    @property
    def engine(self) -> EngineSettings:
        """Which engine is asked."""

    def setEngine(self, settings: EngineSettings) -> None:
        """Ask another engine from now on; a local server that does not fit any more is stopped."""

    def testEngine(self) -> Task:
        """Start or reach the engine; ``result`` is a list of sentences that a user should know."""

    def capabilities(self) -> Task:
        """``result``: version, model, devices and limits, as ``Client.capabilities`` gives them."""

    def freeMemory(self) -> Task:
        """Let the engine forget all features; ``result`` is the number of bytes. Starts no engine."""

    def stopEngine(self) -> None:
        """End the local server, if there is one; the next run starts it again."""

    def close(self) -> None:
        """Cancel everything and end the local server. For ``cleanup()`` of the panel; the logic can be used again."""

    # --- segment ---

    def why(self, volumeNode: Any, concepts: Sequence[str] | str, options: RunOptions | None = None) -> str:
        """Why a run cannot start, in a sentence for a tooltip; "" where it can. Quick: asks no engine."""

    def start(
        self,
        volumeNode: Any,
        concepts: Sequence[str] | str,
        segmentationNode: Any = None,
        options: RunOptions | None = None,
    ) -> Run:
        """Start to segment; of a volume that shows a sequence with ``startSequence``, each frame.

        Args:
            volumeNode: A vtkMRMLScalarVolumeNode or vtkMRMLVectorVolumeNode (colours).
            concepts: Phrases, or a text with commas or lines between them.
            segmentationNode: Gets the segments; None = the one that belongs to this volume and was made by this
                module, or else a new one once something was found.

        Raises:
            UserError: It cannot start.
        """

    def startSequence(self, sequenceNode: Any, concepts: Sequence[str] | str, options: RunOptions | None = None) -> Run:
        """Start to segment each frame of a vtkMRMLSequenceNode; gives a sequence of segmentations beside it."""

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

    def estimate(self, volumeNode: Any, concepts: Sequence[str] | str, options: RunOptions | None = None) -> Task:
        """What a run would take. ``result``: an ``Estimate`` with a ``sentence``; sends the volume first."""

    def canUndo(self) -> bool:
        """Whether the last run's segments can be taken back."""

    def undo(self) -> bool:
        """Take back what the last run did to the scene, in one step; False where there is nothing to take back."""

    # --- batch ---

    def startBatch(
        self, volumeNodes: Sequence[Any], concepts: Sequence[str] | str, options: RunOptions | None = None
    ) -> Batch:
        """Start to segment several volumes, one after the other; a failure does not stop the rest.

        An entry that is a path is loaded first. Ends with a summary table node.
        """

    # --- concepts and models ---

    def complete(self, typed: str, limit: int = 12) -> list[str]:
        """Names of known concepts that fit what was typed, the best first. Quick: asks no engine."""

    def listModels(self) -> Task:
        """``result``: models as dicts with name, title, state, bytes, licence, licence_text, demonstration."""

    def downloadModel(self, name: str, acceptLicence: bool) -> Task:
        """Let the engine download a model; ``progress`` counts bytes."""

    def verifyModel(self, name: str) -> Task:
        """Let the engine check the files of a model."""

    def removeModel(self, name: str) -> Task:
        """Let the engine remove a model."""
