"""The engine: on this computer or on a server, tested, freed and ended from the panel, remembered in the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .options import DEVICES, EngineSettings
from .task import UserError
from .widget_run import progressText

PREFIX = "MedicalSAM3/"
KEYS = {
    "kind": "Engine", "url": "Address", "token": "Token", "certificate": "Certificate", "python": "Python",
    "device": "Device",
}  # fmt: skip


class EnginePart:
    """Which engine does the work.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        ticker: Polls what is asked of the engine.
        onReady: Called once the engine has answered.
        onChange: Called after each change.
    """

    def __init__(
        self, ui: Any, logic: Any, ticker: Any, onReady: Callable[[], None], onChange: Callable[[], None]
    ) -> None:
        self.ui, self.logic, self._ticker, self._onReady, self._onChange = ui, logic, ticker, onReady, onChange
        self._task: Any = None
        self.lastError = self.lastCheck = ""
        self._show(readSettings())
        logic.setEngine(self.settings())
        ui.remoteRadio.connect("toggled(bool)", self._changed)
        for edit in (ui.urlEdit, ui.tokenEdit):
            edit.connect("editingFinished()", self._changed)
        for edit in (ui.certificateEdit, ui.pythonEdit):
            edit.connect("currentPathChanged(QString)", self._changed)
        ui.deviceBox.connect("currentIndexChanged(int)", self._changed)
        ui.testButton.connect("clicked()", self.test)
        ui.updatesButton.connect("clicked()", self.checkForUpdates)
        ui.freeButton.connect("clicked()", self.free)
        ui.stopButton.connect("clicked()", self.stop)
        ui.engineLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse | qt.Qt.TextSelectableByKeyboard)
        self.say("")
        self.update()

    def settings(self) -> EngineSettings:
        """As the form shows them."""
        ui = self.ui
        return EngineSettings(
            kind="remote" if ui.remoteRadio.checked else "local",
            url=ui.urlEdit.text.strip(),
            token=ui.tokenEdit.text.strip(),
            certificate=ui.certificateEdit.currentPath.strip(),
            python=ui.pythonEdit.currentPath.strip(),
            device=DEVICES[max(ui.deviceBox.currentIndex, 0)],
        )

    def say(self, text: str) -> None:
        """Show a sentence in this section."""
        self.ui.engineLabel.text = text
        self.ui.engineLabel.visible = bool(text)

    def test(self) -> None:
        """Start or reach the engine; say what is wrong, or what should be known."""
        self._do(self.logic.testEngine, lambda told: self._tested(told))

    def checkForUpdates(self) -> None:
        """Say whether engine, packages and models are up to date; nothing asks before this is pressed."""
        self._do(self.logic.checkForUpdates, self._checked)

    def free(self) -> None:
        """Let the engine forget the volumes."""
        self._do(
            self.logic.freeMemory,
            lambda freed: self.say(_("{size} MB were given back.").format(size=int(freed or 0) >> 20)),
        )

    def stop(self) -> None:
        """End the local engine."""
        self.logic.stopEngine()
        self.say(_("The engine was ended; the next run starts it again."))

    def update(self) -> None:
        """Enable what fits the kind of engine."""
        remote = bool(self.ui.remoteRadio.checked)
        for edit in (self.ui.urlEdit, self.ui.tokenEdit, self.ui.certificateEdit):
            edit.enabled = remote
        for widget in (self.ui.pythonEdit, self.ui.deviceBox, self.ui.installButton, self.ui.stopButton):
            widget.enabled = not remote
        self.ui.installButton.toolTip = (
            _("A server does the work: nothing has to be installed here.")
            if remote
            else _("List what the engine needs, how large it is, and install it if you agree.")
        )
        self.ui.stopButton.toolTip = (
            _("A server is ended by whoever runs it.")
            if remote
            else _("End the local engine; the next run starts it again.")
        )
        for button, tip in (
            (self.ui.testButton, _("Start or reach the engine, and say what is wrong.")),
            (self.ui.updatesButton, _("Compare engine, packages and models with what this version asks for and what is "
                                      "offered now. Nothing is contacted before you press this.")),
        ):  # fmt: skip
            button.enabled = self._task is None
            button.toolTip = tip if self._task is None else _("The engine is asked.")

    def _do(self, begin: Callable[[], Any], then: Callable[[Any], None]) -> None:
        if self._task is not None:
            return
        try:
            self._task = begin()
        except UserError as error:
            self.say(str(error))
            return
        self.say(_("Asking the engine..."))
        self._ticker.follow(
            self._task, lambda task: self.say(progressText(task.progress)), lambda t: self._end(t, then)
        )
        self.update()

    def _end(self, task: Any, then: Callable[[Any], None]) -> None:
        self._task = None
        if task.state == "done":
            then(task.result)
        else:
            self.lastError = task.error
            self.say(task.error or _("Cancelled."))
        self.update()
        self._onChange()

    def _tested(self, told: Any) -> None:
        self.say("\n".join([_("The engine is ready."), *(told or ())]))
        self._onReady()

    def _checked(self, told: Any) -> None:
        self.lastCheck = "\n".join(told)
        self.say(self.lastCheck)

    def _changed(self, *ignored: object) -> None:
        settings = self.settings()
        if settings != self.logic.engine:
            writeSettings(settings)
            self.logic.setEngine(settings)
            self.say("")
        self.update()
        self._onChange()

    def _show(self, settings: EngineSettings) -> None:
        self.ui.localRadio.checked = settings.kind == "local"
        self.ui.remoteRadio.checked = settings.kind == "remote"
        self.ui.urlEdit.text, self.ui.tokenEdit.text = settings.url, settings.token
        self.ui.certificateEdit.currentPath, self.ui.pythonEdit.currentPath = settings.certificate, settings.python
        self.ui.deviceBox.currentIndex = DEVICES.index(settings.device)


def readSettings() -> EngineSettings:
    """As they were when Slicer was used last."""
    values = {name: str(slicer.util.settingsValue(PREFIX + key, "") or "") for name, key in KEYS.items()}
    values["kind"] = "remote" if values["kind"] == "remote" else "local"
    values["device"] = values["device"] if values["device"] in DEVICES else ""
    return EngineSettings(**values)


def writeSettings(settings: EngineSettings) -> None:
    """For the next session; the token too, which the tooltip of its field says."""
    for name, key in KEYS.items():
        qt.QSettings().setValue(PREFIX + key, getattr(settings, name))
