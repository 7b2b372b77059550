"""Several volumes, one after the other, with a state for each and a table in the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from MedicalSAM3Lib.errors import OutputError

from .change import Change, isInScene, removeNode
from .folder import FolderImage
from .loading import LoadTask
from .outcome import Outcome
from .results_folder import SEGMENTATION, ResultsFolder
from .run import Run
from .saving import SaveTask, copyCase
from .summary import makeTable, tableOf
from .task import Task, TaskCancelled, UserError

Steps = Generator[Task, None, None]


@dataclass
class BatchEntry:
    """A volume of a batch.

    Attributes:
        name: Of the volume, for the table of the panel.
        case: Its name among the results of a folder.
        state: "waiting", "running", "done", "skipped", "failed" or "cancelled".
        stage: What is done for it now, while it is "running".
        outcomes: Those known so far; one for each concept once it is done.
        segmentationNode: Where the segments are; None where they were unloaded.
        error: A sentence where it failed.
        note: What a user should know else.
        file: Name of the file in the results folder.
    """

    name: str
    case: str = ""
    state: str = "waiting"
    stage: str = ""
    outcomes: tuple[Outcome, ...] = ()
    segmentationNode: Any = None
    error: str = ""
    note: str = ""
    file: str = ""


class Batch(Task):
    """Runs one after the other. ``result`` is the summary, a vtkMRMLTableNode. ``cancel()`` keeps what is done.

    Args:
        volumes: Nodes, or paths and ``FolderImage``s that are loaded when it is their turn.
        start: Starts the run of a node.
        explain: Makes a sentence of what went wrong with writing.
        results: Gets the results as files; None = they stay in the scene only.
        unload: Remove what was loaded for the batch, once its result is written; what the user had loaded stays.

    Attributes:
        entries: One for each volume, in the order given.
        changes: What its runs did to the scene.
        note: A sentence where the table could not be written.
    """

    def __init__(
        self, volumes: Sequence[Any], start: Callable[[Any], Run], explain: Callable[[BaseException], str] = str,
        results: ResultsFolder | None = None, unload: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if not volumes:
            raise UserError(_("Choose at least one volume."))
        self.changes: list[Change] = []
        self.note = ""
        self._volumes = [
            FolderImage(Path(one).name, Path(one)) if isinstance(one, (str, Path)) else one for one in volumes
        ]
        self.entries = tuple(BatchEntry(_nameOf(volume)) for volume in self._volumes)
        self._start, self._explain, self._results = start, explain, results
        self._unloads = unload and results is not None
        if results is not None:
            _nameCases(self.entries, self._volumes)
        self._at = 0
        self._nodes: list[Any] = []
        """Volumes whose results are in the scene."""
        self._step: Task | None = None
        """What goes on for the volume whose turn it is: it is read, segmented, or its result is written."""
        self._steps = self._all()

    def poll(self) -> bool:
        """Go on: begin the next step, or take note of what is done meanwhile for this one."""
        if not self.isRunning:
            return False
        if self._step is not None and self._step.poll():
            told = self._step.progress
            entry, share = self.entries[self._at], (self._at + (told.fraction or 0.0)) / len(self.entries)
            entry.stage = told.stage
            if isinstance(self._step, Run):
                entry.outcomes = self._step.outcomes
            stage = _("{name}: {stage}").format(name=entry.name, stage=told.stage)
            self.progress = replace(told, stage=stage, fraction=share, secondsLeft=None)
            self._tell()
            return True
        try:
            self._step = next(self._steps)
        except StopIteration:
            self._end("done", self._summary())
        else:
            self._tell()
        return self.isRunning

    def cancel(self) -> None:
        """End it; the volumes that are done stay done."""
        if not self.isRunning:
            return
        if self._step is not None:
            self._step.cancel()
        self._steps.close()
        for entry in self.entries:
            if entry.state in ("waiting", "running") and not self._isKept(entry):
                entry.state = "cancelled"
        self._end("cancelled", self._summary())

    def _all(self) -> Generator[Task | None, None, None]:
        """Each volume in its turn; yields what goes on now, and None between two."""
        for at, (entry, volume) in enumerate(zip(self.entries, self._volumes, strict=True)):
            self._at = at
            entry.state = "running"
            try:
                yield from self._one(entry, volume)
            except TaskCancelled:  # by somebody else: the engine was changed
                entry.state = "cancelled"
            except Exception as error:  # of this volume alone, whatever it is
                entry.state, entry.error = "failed", self._explain(error)
            self._writeTable()
            yield None

    def _one(self, entry: BatchEntry, volume: Any) -> Steps:
        if self._results is not None:
            if self._isKept(entry):
                return
            self._results.check()
        if not isinstance(volume, FolderImage):
            yield from self._segment(entry, volume, False)
            return
        load = LoadTask(volume)
        node = yield from _ended(load.begin())
        entry.note = load.note
        yield from self._segment(entry, node, self._unloads)

    def _isKept(self, entry: BatchEntry) -> bool:
        """Whether its result is there already, and is to stay."""
        kept = self._results.find(entry.case) if self._results is not None else None
        if kept is not None:
            entry.state, entry.outcomes, entry.note = "skipped", kept.outcomes, kept.note
            entry.file = entry.case + SEGMENTATION
        return kept is not None

    def _segment(self, entry: BatchEntry, node: Any, unload: bool) -> Steps:
        """Segment a node and write what came of it."""
        run: Run | None = None
        try:
            run = self._start(node)
            result = yield from _ended(run)
            entry.outcomes, entry.segmentationNode = result.outcomes, result.segmentationNode
            if self._results is not None:
                unload, wanted = False, unload  # a result that cannot be written is not thrown away
                yield from self._save(entry, node)
                unload = wanted
            entry.state = "done"
        finally:
            if run is None or run.state != "done":
                entry.outcomes = ()
            if unload:
                entry.segmentationNode = None
                _unload(node, run.result.segmentationNode if run and run.state == "done" else None)
            else:
                self._nodes.append(node)
                self.changes += run.changes if run else []

    def _save(self, entry: BatchEntry, node: Any) -> Steps:
        ids = [segmentId for outcome in entry.outcomes for segmentId in outcome.segmentIds]
        case, results = copyCase(node, entry.segmentationNode, ids), self._results
        assert results is not None
        save = SaveTask(case, lambda put: results.write(entry.case, entry.outcomes, put), self._explain)
        try:
            yield from _ended(save.begin())
        except UserError as error:
            raise UserError(_("{error} The result is in the scene.").format(error=error)) from error
        entry.file = entry.case + SEGMENTATION

    def _summary(self) -> Any:
        """The table; None where the scene is closed meanwhile, or nothing was done."""
        self._writeTable()
        states = {entry.state for entry in self.entries}
        isClosed = slicer.mrmlScene.IsClosing() or (self._nodes and not any(isInScene(node) for node in self._nodes))
        if isClosed or states == {"cancelled"}:
            return None
        table = makeTable(self.entries)
        self.changes.append(Change(None, nodes=[table]))
        return table

    def _writeTable(self) -> None:
        """Also after each volume: what is done is told, whatever comes next."""
        if self._results is None:
            return
        try:
            self._results.writeTable(tableOf(self.entries))
            self.note = ""
        except OutputError as error:
            self.note = str(error)


def _ended(task: Task) -> Generator[Task, None, Any]:
    """Wait for a task; its result.

    Raises:
        UserError: It failed.
        TaskCancelled: It was cancelled.
    """
    yield task
    if task.state == "cancelled":
        raise TaskCancelled
    if task.state != "done":
        raise UserError(task.error)
    return task.result


def _unload(volume: Any, segmentation: Any) -> None:
    """Remove both from the scene, and their voxels from memory, whoever still has the nodes."""
    for node in (segmentation, volume):
        if isInScene(node):
            removeNode(node)
    volume.SetAndObserveImageData(None)
    if segmentation is not None:
        segmentation.GetSegmentation().RemoveAllSegments()


def _nameOf(volume: Any) -> str:
    return volume.name if isinstance(volume, FolderImage) else volume.GetName()


def _nameCases(entries: Sequence[BatchEntry], volumes: Sequence[Any]) -> None:
    """Give each its name among the results, as ``medsam3 batch`` does: the same again at the next run."""
    from MedicalSAM3Lib.batch_cases import safe_names
    from MedicalSAM3Lib.batch_tree import without_suffix

    names = safe_names([without_suffix(entry.name) for entry in entries], [_originOf(volume) for volume in volumes])
    for entry, name in zip(entries, names, strict=True):
        entry.case = name


def _originOf(volume: Any) -> str:
    """What tells apart volumes of the same name: a file, else the node."""
    if isinstance(volume, FolderImage):
        source = volume.source
        return str((source if isinstance(source, Path) else source.headers[0].path).resolve())
    storage = volume.GetStorageNode()
    return (storage.GetFileName() if storage else None) or volume.GetID()
