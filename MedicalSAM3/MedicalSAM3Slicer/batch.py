"""Several volumes, one after the other, with a state for each and a table in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from .change import Change, isInScene
from .folder import FolderImage, SeriesTask
from .outcome import Outcome
from .run import Run
from .summary import makeTable
from .task import Task, UserError


@dataclass
class BatchEntry:
    """A volume of a batch.

    Attributes:
        name: Of the volume, for the table of the panel.
        state: "waiting", "running", "done", "failed" or "cancelled".
        outcomes: One for each concept once it is done.
        segmentationNode: Where the segments are.
        error: A sentence where it failed.
    """

    name: str
    state: str = "waiting"
    outcomes: tuple[Outcome, ...] = ()
    segmentationNode: Any = None
    error: str = ""


class Batch(Task):
    """Runs one after the other. ``result`` is the summary, a vtkMRMLTableNode. ``cancel()`` keeps what is done.

    Args:
        volumes: Nodes, or paths and ``FolderImage``s that are loaded when it is their turn.
        start: Starts the run of a node.

    Attributes:
        entries: One for each volume, in the order given.
        changes: What its runs did to the scene.
    """

    def __init__(self, volumes: Sequence[Any], start: Callable[[Any], Run]) -> None:
        super().__init__()
        if not volumes:
            raise UserError(_("Choose at least one volume."))
        self.entries = tuple(BatchEntry(_nameOf(volume)) for volume in volumes)
        self.changes: list[Change] = []
        self._volumes, self._start = list(volumes), start
        self._at = 0
        self._step: Task | None = None
        """What goes on for the volume whose turn it is: its series is read, or it is segmented."""

    def poll(self) -> bool:
        """Go on: start the next volume, or take note of what the engine did for this one."""
        if not self.isRunning:
            return False
        entry = self.entries[self._at]
        if self._step is None:
            self._begin(entry)
        elif not self._step.poll():
            self._close(entry, self._step)
        else:
            told = self._step.progress
            share = (self._at + (told.fraction or 0.0)) / len(self.entries)
            stage = _("{name}: {stage}").format(name=entry.name, stage=told.stage)
            self.progress = replace(told, stage=stage, fraction=share, secondsLeft=None)
            self._tell()
        return self.isRunning

    def cancel(self) -> None:
        """End it; the volumes that are done stay done."""
        if not self.isRunning:
            return
        if self._step is not None:
            self._step.cancel()
        for entry in self.entries:
            if entry.state in ("waiting", "running"):
                entry.state = "cancelled"
        self._end("cancelled", self._summary())

    def _begin(self, entry: BatchEntry) -> None:
        entry.state = "running"
        volume = self._volumes[self._at]
        if isinstance(volume, FolderImage) and not isinstance(volume.source, Path):
            self._step = SeriesTask(volume).begin()
            return
        try:
            if isinstance(volume, (str, Path, FolderImage)):
                volume = loadVolume(Path(volume.source if isinstance(volume, FolderImage) else volume))
            self._segment(volume)
        except UserError as error:
            self._fail(entry, str(error))

    def _segment(self, node: Any) -> None:
        self._volumes[self._at] = node
        self._step = self._start(node)

    def _close(self, entry: BatchEntry, step: Task) -> None:
        if isinstance(step, SeriesTask) and step.state == "done":
            try:
                self._segment(step.result)
            except UserError as error:
                self._fail(entry, str(error))
            return
        entry.state, entry.error = step.state, step.error
        if isinstance(step, Run):
            if step.state == "done":
                entry.outcomes, entry.segmentationNode = step.result.outcomes, step.result.segmentationNode
            self.changes += step.changes
        self._next()

    def _fail(self, entry: BatchEntry, error: str) -> None:
        entry.state, entry.error = "failed", error
        self._next()

    def _next(self) -> None:
        self._step = None
        self._at += 1
        if self._at == len(self.entries):
            self._end("done", self._summary())
        else:
            self._tell()

    def _summary(self) -> Any:
        """The table; None where the scene was closed meanwhile, or nothing was done."""
        nodes = [volume for volume in self._volumes if not isinstance(volume, (str, Path, FolderImage))]
        if not any(isInScene(node) for node in nodes):
            return None
        table = makeTable(self.entries)
        self.changes.append(Change(None, nodes=[table]))
        return table


def loadVolume(path: Path) -> Any:
    """Load a file as a volume node.

    Raises:
        UserError: It is no image.
    """
    try:
        return slicer.util.loadVolume(str(path))
    except Exception as error:
        raise UserError(_("'{file}' could not be loaded as a volume.").format(file=path.name)) from error


def _nameOf(volume: Any) -> str:
    if isinstance(volume, FolderImage):
        return volume.name
    return Path(volume).name if isinstance(volume, (str, Path)) else volume.GetName()
