"""What a run will take, told before it: by itself where no image leaves this computer for that, else on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .options import RunOptions
from .task import UserError

WAIT_MS = 1200
"""After the last change: somebody may still be typing."""

PATIENCE_S = 15.0
"""An engine that takes longer to predict is busy enough; it is asked on request only."""

Asked = tuple[Any, list[str], RunOptions, Any]


class PredictionPart:
    """Time and memory of the run that the panel shows.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        ticker: Polls the prediction.
        asked: Gives volume, concepts, options and segmentation of the panel.
        say: Shows a sentence below the button.
    """

    def __init__(
        self, ui: Any, logic: Any, ticker: Any, asked: Callable[[], Asked], say: Callable[[str], None]
    ) -> None:
        self.ui, self.logic, self._ticker, self._asked, self._say = ui, logic, ticker, asked, say
        self._task: Any = None
        self._question: Any = None
        self._resting: Any = None
        """The engine that failed or was slow when it was asked last; it is left alone."""
        self._began, self._isBusy = 0.0, False
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._byItself)
        ui.predictButton.connect("clicked()", self.predict)
        ui.predictionLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse | qt.Qt.TextSelectableByKeyboard)
        self._tell("")

    def update(self, reason: str, isBusy: bool) -> None:
        """The panel has changed: what was told for another question is not shown any more.

        Args:
            reason: Why a run cannot start; "" where it can.
            isBusy: Whether something goes on.
        """
        self._isBusy = isBusy
        self.ui.predictButton.enabled = not isBusy and not reason and self._task is None
        self.ui.predictButton.toolTip = reason or _("Ask how long this run will take and how much memory it needs.")
        question = None if reason else self._now()
        if question != self._question:
            self._question = question
            self.stop()
            self._tell("")
            if question is not None:
                self._timer.start(WAIT_MS)

    def stop(self) -> None:
        """A run begins, or the question is another: nobody waits for the answer any more."""
        self._timer.stop()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            self._tell("")

    def wake(self) -> None:
        """The engine works: it may be asked again without being told to."""
        self._resting = None

    def close(self) -> None:
        """Let go of the widgets."""
        self._timer.stop()

    def predict(self) -> None:
        """Ask the engine, whatever it takes; sends the volume if it has it not yet."""
        self._timer.stop()
        try:
            self._task = task = self.logic.estimate(*self._asked())
        except UserError as error:
            self._say(str(error))
            return
        self._began = time.monotonic()
        self.ui.predictButton.enabled = False
        self._tell(_("Asking the engine for time and memory..."))
        self._ticker.follow(task, lambda task: None, self._predicted)

    def _byItself(self) -> None:
        if self._isBusy:
            self._timer.start(WAIT_MS)
        elif self._task is None and self.logic.engine != self._resting and self._staysHere():
            self.predict()

    def _staysHere(self) -> bool:
        try:
            return bool(self.logic.staysWhereItIs(self._asked()[0]))
        except UserError:
            return False

    def _predicted(self, task: Any) -> None:
        if task is not self._task:  # nobody waits for it any more
            return
        self._task = None
        self.ui.predictButton.enabled = True
        isSlow = time.monotonic() - self._began > PATIENCE_S
        self._resting = self.logic.engine if isSlow or task.state != "done" else None
        self._tell(
            task.result.sentence
            if task.state == "done"
            else _("Time and memory are not known. {reason}").format(reason=task.error)
        )

    def _now(self) -> Any:
        try:
            return self.logic.engine, self.logic.question(*self._asked())
        except UserError:
            return None

    def _tell(self, text: str) -> None:
        self.ui.predictionLabel.text = text
        self.ui.predictionLabel.visible = bool(text)
