"""The batch: a table of volumes, the concepts of the panel, a state for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .folder import FolderImage
from .outcome import describe
from .results_folder import WHERE_DONE
from .summary import stateName
from .task import UserError

VOLUME_CLASSES = ("vtkMRMLScalarVolumeNode", "vtkMRMLVectorVolumeNode")


class BatchPart:
    """Several volumes, one after the other.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        ticker: Polls the batch.
        start: Gives concepts and options of the panel for a batch.
        say: Shows a sentence in the panel.
        onChange: Called when a batch has begun or ended.
    """

    def __init__(
        self, ui: Any, logic: Any, ticker: Any, start: Callable[[], tuple[list[str], Any]],
        say: Callable[[str], None], onChange: Callable[[], None],
    ) -> None:  # fmt: skip
        self.ui, self.logic, self._ticker, self._start, self._say, self._onChange = (
            ui, logic, ticker, start, say, onChange,
        )  # fmt: skip
        self.entries: list[Any] = []
        """IDs of volume nodes (a node may go before its turn), and images of folders."""
        self._rows: list[tuple[str, str, str]] = []
        self.batch: Any = None
        self.search: Any = None
        ui.batchTable.verticalHeader().setVisible(False)
        ui.batchTable.horizontalHeader().setStretchLastSection(True)
        ui.batchSceneButton.connect("clicked()", self.addLoaded)
        ui.batchFolderButton.connect("clicked()", self.addFolder)
        ui.batchClearButton.connect("clicked()", self.clear)
        ui.batchButton.connect("clicked()", self.onBatch)
        ui.batchResultsButton.connect("clicked()", self.chooseResults)
        ui.batchResultsEdit.connect("textChanged(QString)", lambda text: self._onChange())

    def isRunning(self) -> bool:
        """Whether a batch goes on."""
        return self.batch is not None

    def addLoaded(self) -> None:
        """Add all volumes of the scene that can be segmented."""
        for name in VOLUME_CLASSES:
            for node in slicer.util.getNodesByClass(name):
                if node.GetClassName() == name and not node.GetHideFromEditors() and node.GetID() not in self.entries:
                    self.entries.append(node.GetID())
        self._list()

    def addFolder(self) -> None:
        """Add the images of a folder: they are looked for in the background, a folder may hold many files."""
        folder = qt.QFileDialog.getExistingDirectory(self.ui.batchFolderButton, _("Folder with images"))
        if not folder:
            return
        self.search = self.logic.lookThrough(folder)
        self._say(_("Looking through the folder..."))
        self._ticker.follow(self.search, lambda task: None, self._found)
        self._onChange()

    def _found(self, search: Any) -> None:
        self.search = None
        if search.state == "done":
            self.entries += [image for image in search.result if image not in self.entries]
            self._say(_("Images found in the folder: {count}.").format(count=len(search.result)))
        else:
            self._say(search.error)
        self._list()

    def chooseResults(self) -> None:
        """Pick the folder that gets the results."""
        folder = qt.QFileDialog.getExistingDirectory(self.ui.batchResultsButton, _("Folder for the results"))
        if folder:
            self.ui.batchResultsEdit.text = folder

    def clear(self) -> None:
        """Empty the list."""
        self.entries = []
        self._list()

    def onBatch(self) -> None:
        """Start, or cancel; what is done stays."""
        if self.batch is not None:
            self.batch.cancel()
            self._ticker.tick()
            return
        concepts, options = self._start()
        volumes = [
            entry if isinstance(entry, FolderImage) else slicer.mrmlScene.GetNodeByID(entry) for entry in self.entries
        ]
        volumes = [volume for volume in volumes if volume is not None]
        again = WHERE_DONE[self.ui.batchAgainBox.currentIndex]
        try:
            self.batch = self.logic.startBatch(
                volumes, concepts, options, self._saveTo() or None, again, bool(self.ui.batchUnloadCheckBox.checked)
            )
        except UserError as error:
            self._say(str(error))
            return
        self._ticker.follow(self.batch, self._show, self._ended)
        self._show(self.batch)
        self._onChange()

    def discard(self) -> None:
        """End what goes on, for a scene that closes; the list goes with the scene."""
        for task in (self.batch, self.search):
            if task is not None:
                task.cancel()
        self._ticker.tick()
        self.clear()

    def update(self, isBusy: bool, concepts: list[str]) -> None:
        """Say what the button does, or in its tooltip why it does nothing."""
        running = self.isRunning()
        reason = ""
        if isBusy and not running:
            reason = _("Wait for the run that goes on, or cancel it.")
        elif self.search is not None:
            reason = _("Wait until the folder is looked through.")
        elif not self.entries:
            reason = _("Add volumes first.")
        elif not concepts:
            reason = _("Type at least one concept above.")
        self.ui.batchButton.text = _("Cancel batch") if running else _("Run batch")
        self.ui.batchButton.enabled = running or not reason
        self.ui.batchButton.toolTip = reason or _("Segment the concepts in each volume, one after the other.")
        for button in (self.ui.batchSceneButton, self.ui.batchFolderButton, self.ui.batchClearButton):
            button.enabled = not running and self.search is None
        self._updateResults(running)

    def _updateResults(self, running: bool) -> None:
        ui, saves = self.ui, bool(self._saveTo())
        again = _("What becomes of an image whose result is in the folder already; the table says it.")
        unload = _("Else all images of the folder stay in memory. Volumes that were loaded before always stay.")
        for widget, tip in ((ui.batchAgainBox, again), (ui.batchUnloadCheckBox, unload)):
            widget.enabled = saves and not running
            widget.toolTip = tip if saves else _("Choose a folder for the results first.")
        for widget in (ui.batchResultsEdit, ui.batchResultsButton):
            widget.enabled = not running

    def _saveTo(self) -> str:
        return str(self.ui.batchResultsEdit.text).strip()

    def _list(self) -> None:
        rows = []
        for entry in self.entries:
            node = entry if isinstance(entry, FolderImage) else slicer.mrmlScene.GetNodeByID(entry)
            name = _("(removed)") if node is None else node.name if node is entry else node.GetName()
            rows.append((name, stateName("waiting"), ""))
        self._fill(rows)
        self._onChange()

    def _show(self, batch: Any) -> None:
        rows = []
        for entry in batch.entries:
            answers = [describe(outcome) for outcome in entry.outcomes]
            stage = _stageText(entry.stage, batch.progress) if entry.state == "running" else ""
            said = "; ".join(text for text in (entry.error or entry.note, stage, *answers) if text)
            rows.append((entry.name, stateName(entry.state), said))
        self._fill(rows)

    def _ended(self, batch: Any) -> None:
        self._show(batch)
        self.batch = None
        self._say(batch.error or self._endText(batch))
        self._onChange()

    def _endText(self, batch: Any) -> str:
        count = {state: sum(entry.state == state for entry in batch.entries) for state in ("done", "skipped", "failed")}
        texts = [_("Batch: {done} of {count} volumes done, {failed} failed.").format(count=len(batch.entries), **count)]
        if count["skipped"]:
            texts.append(_("Skipped, as the folder has a result: {skipped}.").format(**count))
        if batch.result is not None:
            texts.append(_("The summary is a table in the scene."))
        if batch.note:
            texts.append(_("It could not be written to the folder: {reason}").format(reason=batch.note))
        elif self._saveTo():
            texts.append(_("The folder has it as summary.csv."))
        return " ".join(texts)

    def _fill(self, rows: list[tuple[str, str, str]]) -> None:
        """Show rows; those that are shown already are left alone: there may be hundreds, at every tick."""
        table = self.ui.batchTable
        if table.rowCount != len(rows):
            table.setRowCount(len(rows))
        for row, texts in enumerate(rows):
            if self._rows[row : row + 1] != [texts]:
                self._put(row, texts)
        self._rows = rows

    def _put(self, row: int, texts: tuple[str, str, str]) -> None:
        table = self.ui.batchTable
        for column, text in enumerate(texts):
            item = table.item(row, column)
            if item is None:
                item = qt.QTableWidgetItem()
                table.setItem(row, column, item)
            item.setText(text)
            item.setToolTip(text)


def _stageText(stage: str, progress: Any) -> str:
    """What is done now, with how much of it."""
    if not stage or not progress.total:
        return stage
    return _("{stage}, {percent} %").format(stage=stage, percent=100 * progress.done // progress.total)
