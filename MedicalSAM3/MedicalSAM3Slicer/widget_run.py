"""Segment and Cancel: start a run, show how far it is, bring its answers to the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .options import RunOptions
from .placing import segmentsOf
from .segmentation_node import segmentationOf
from .task import Progress, UserError
from .widget_concepts import ConceptsPart
from .widget_options import OptionsPart
from .widget_results import ResultsPart
from .widget_ticker import Ticker

FULL = 1000
"""Steps of a progress bar."""


class RunPart:
    """One run at a time.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        ticker: Polls the run.
        concepts, options, results: The parts of the panel that a run reads from and writes to.
        model: Gives the name of the chosen model.
        onStart: Called before a run begins.
        onChange: Called when a run has begun or ended.
        onDone: Called when a run was done: there is an engine now.
    """

    def __init__(
        self, ui: Any, logic: Any, ticker: Ticker, concepts: ConceptsPart, options: OptionsPart, results: ResultsPart,
        model: Callable[[], str], onStart: Callable[[], None], onChange: Callable[[], None],
        onDone: Callable[[], None],
    ) -> None:  # fmt: skip
        self.ui, self.logic, self._ticker = ui, logic, ticker
        self._concepts, self._options, self._results = concepts, options, results
        self._model, self._onStart, self._onChange, self._onDone = model, onStart, onChange, onDone
        self.run: Any = None
        ui.segmentButton.connect("clicked()", self.onSegment)
        ui.replaceButton.connect("clicked()", lambda: self._start("replace"))
        ui.addButton.connect("clicked()", lambda: self._start("add"))
        ui.dontButton.connect("clicked()", self._hideQuestion)
        ui.progressBar.visible = False
        ui.againFrame.visible = False
        ui.statusLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse | qt.Qt.TextSelectableByKeyboard)
        self.say("")

    def isRunning(self) -> bool:
        """Whether a run goes on."""
        return self.run is not None

    def say(self, text: str) -> None:
        """Show a sentence below the button."""
        self.ui.statusLabel.text = text
        self.ui.statusLabel.visible = bool(text)

    def onSegment(self) -> None:
        """The button, or Ctrl+Enter: start, or cancel what goes on."""
        if self.run is not None:
            self.run.cancel()
            self._ticker.tick()
            return
        if reason := self.reason():
            self.say(reason)
            return
        again = self._options.againChoice()
        there = [] if again else self._alreadyThere()
        if there:
            self._ask(there)
        else:
            self._start(again or "replace")

    def reason(self) -> str:
        """Why a run cannot start; "" where it can."""
        if self._volume() is None:
            return _("Load and choose a volume first.")
        volume, concepts, options, target = self.asked()
        return self._options.reason() or self.logic.why(volume, concepts, target, options)

    def update(self) -> None:
        """Say what the button does, or in its tooltip why it does nothing."""
        running, reason = self.isRunning(), self.reason()
        self.ui.segmentButton.text = _("Cancel") if running else _("Segment")
        self.ui.segmentButton.enabled = running or not reason
        tip = _("End the run. The scene stays as it was.") if running else _("Segment the concepts (Ctrl+Enter).")
        self.ui.segmentButton.toolTip = tip if running or not reason else reason

    def discard(self) -> None:
        """End what goes on, for a scene that closes."""
        if self.run is not None:
            self.run.cancel()
        self._ticker.tick()

    def asked(self) -> tuple[Any, list[str], RunOptions, Any]:
        """Volume, concepts, options and segmentation of the run that the panel shows."""
        target = self.ui.outputSelector.currentNode()
        return self._volume(), self._concepts.concepts(), self._runOptions("replace"), target

    def _start(self, again: str) -> None:
        self._hideQuestion()
        self._onStart()
        concepts = self._concepts.concepts()
        self._results.clear()
        self.say("")
        try:
            options = self._runOptions(again)
            if self._options.eachFrame():
                self.run = self.logic.startSequence(self._volume(), concepts, options)
            else:
                self.run = self.logic.start(self._volume(), concepts, self.ui.outputSelector.currentNode(), options)
        except UserError as error:
            self.say(str(error))
            self._onChange()
            return
        self._concepts.remember(concepts)
        volume = self._volume()
        self.ui.progressBar.visible = True
        self._progressed(self.run, volume)
        self._ticker.follow(
            self.run, lambda task: self._progressed(task, volume), lambda task: self._ended(task, volume)
        )
        self._onChange()

    def _progressed(self, run: Any, volume: Any) -> None:
        showProgress(self.ui.progressBar, run.progress)
        if len(run.outcomes) != len(self._results.outcomes):
            self._results.show(run.outcomes, volume, None)

    def _ended(self, run: Any, volume: Any) -> None:
        self.run = None
        self.ui.progressBar.visible = False
        if run.state == "done":
            result = run.result
            self._results.show(result.outcomes, volume, result.segmentationNode)
            self.say("\n".join([summary(result.outcomes), *result.notices]))
            self._onDone()
        else:
            self._results.clear()
            self.say(run.error or _("Cancelled. The scene is as it was."))
        self._onChange()

    def _volume(self) -> Any:
        return self.ui.inputSelector.currentNode()

    def _runOptions(self, again: str) -> RunOptions:
        return self._options.options(again, self._model())

    def _alreadyThere(self) -> list[str]:
        """The concepts that the segmentation holds already."""
        node = self.ui.outputSelector.currentNode() or segmentationOf(self._volume())
        return [phrase for phrase in self._concepts.concepts() if node is not None and segmentsOf(node, phrase)]

    def _ask(self, there: list[str]) -> None:
        self.ui.againFrame.visible = True
        self.ui.askLabel.text = _("The segmentation already holds: {names}.").format(names=", ".join(there))
        self.ui.replaceButton.setFocus()

    def _hideQuestion(self) -> None:
        self.ui.againFrame.visible = False


def showProgress(bar: Any, progress: Progress) -> None:
    """Show how far a task is; the bar swings where that is not known."""
    bar.maximum = 0 if progress.fraction is None else FULL
    if progress.fraction is not None:
        bar.value = round(FULL * progress.fraction)
    bar.setFormat(progressText(progress).replace("%", "%%"))


def progressText(progress: Progress) -> str:
    """What a task does, how many slices it has done, and how long it will still take."""
    parts = [progress.stage] if progress.stage else []
    if progress.total > 10_000:  # bytes
        parts.append(_("{done:.1f} of {total:.1f} MB").format(done=progress.done / 1e6, total=progress.total / 1e6))
    elif progress.total:
        parts.append(_("{done} of {total} slices").format(done=progress.done, total=progress.total))
    if progress.secondsLeft is not None:
        parts.append(timeLeft(progress.secondsLeft))
    return ", ".join(parts)


def timeLeft(seconds: float) -> str:
    """About how long: no more exact than it is known."""
    if seconds < 5:
        return _("a few seconds left")
    if seconds < 60:
        return _("about {seconds} s left").format(seconds=5 * round(seconds / 5))
    if seconds < 90 * 60:
        return _("about {minutes} min left").format(minutes=round(seconds / 60))
    return _("about {hours:.1f} h left").format(hours=seconds / 3600)


def summary(outcomes: Any) -> str:
    """One sentence about all answers; what was not found is named."""
    found = [outcome for outcome in outcomes if outcome.state == "found"]
    parts = [_("{found} of {asked} found.").format(found=len(found), asked=len(outcomes))]
    missing = [outcome.phrase for outcome in outcomes if outcome.state == "not_found"]
    failed = [outcome.phrase for outcome in outcomes if outcome.state == "failed"]
    if missing:
        parts.append(_("Not found: {names}.").format(names=", ".join(missing)))
    if failed:
        parts.append(_("Failed: {names}.").format(names=", ".join(failed)))
    return " ".join(parts)
