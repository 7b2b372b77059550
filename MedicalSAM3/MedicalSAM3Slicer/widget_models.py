"""The models of the engine: choose, read the licence, download, check, remove."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .task import UserError
from .widget_run import showProgress

MODEL_SETTING = "MedicalSAM3/Model"
AUTOMATIC = "auto"


class ModelsPart:
    """Which model segments.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        ticker: Polls what the engine does with models.
        say: Shows a sentence in the section of the engine.
        onChange: Called after each change.
    """

    def __init__(
        self, ui: Any, logic: Any, ticker: Any, say: Callable[[str], None], onChange: Callable[[], None]
    ) -> None:
        self.ui, self.logic, self._ticker, self._say, self._onChange = ui, logic, ticker, say, onChange
        self._models: list[Mapping[str, Any]] = []
        self._names = [AUTOMATIC]
        self.task: Any = None
        self.show(usualModel())
        ui.modelBar.visible = False
        ui.licenceLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse | qt.Qt.TextSelectableByKeyboard)
        ui.modelBox.connect("currentIndexChanged(int)", self._shown)
        ui.modelBox.connect("activated(int)", self._chosen)
        ui.downloadButton.connect("clicked()", self.onDownload)
        ui.verifyButton.connect("clicked()", self.verify)
        ui.removeButton.connect("clicked()", self.remove)
        ui.licenceCheckBox.connect("toggled(bool)", self.update)
        self.update()

    def model(self) -> str:
        """Name of the chosen model."""
        return self._names[max(self.ui.modelBox.currentIndex, 0)]

    def show(self, name: str) -> None:
        """Choose a model, whether the engine has it or not; "" = the one that the user chose last."""
        name = name or usualModel()
        if name not in self._names:
            self._names.append(name)
            self.ui.modelBox.addItem(_("{name} (not known to the engine)").format(name=name) if self._models else name)
        self.ui.modelBox.currentIndex = self._names.index(name)

    def choose(self, name: str) -> None:
        """Choose a model for this and later sessions."""
        self.show(name)
        self._chosen()

    def own(self) -> list[str]:
        """Names of the installed models, but for the demonstration."""
        return [one["name"] for one in self._models if one["state"] == "ready" and not one.get("demonstration")]

    def refresh(self) -> None:
        """Ask the engine which models there are."""
        self._do(self.logic.listModels, self._listed, showsBar=False)

    def refreshOnce(self) -> None:
        """Ask, unless that is known already."""
        if not self._models:
            self.refresh()

    def onDownload(self) -> None:
        """Download the chosen model, or cancel what goes on."""
        if self.task is not None:
            self.task.cancel()
            self._ticker.tick()
            return
        accepted = bool(self.ui.licenceCheckBox.checked)
        self._do(lambda: self.logic.downloadModel(self.model(), accepted), lambda told: self._done(_("downloaded")))

    def verify(self) -> None:
        """Compare every file with its checksum."""
        self._do(lambda: self.logic.verifyModel(self.model()), lambda told: self._done(_("checked, and whole")))

    def remove(self) -> None:
        """Delete the files, once the user agrees."""
        text = _("Delete the files of '{name}' from the engine's disk? To have it again, download or import it again.")
        if slicer.util.confirmYesNoDisplay(text.format(name=self.model())):
            self._do(lambda: self.logic.removeModel(self.model()), lambda told: self._done(_("removed")))

    def update(self, *ignored: object) -> None:
        """Show licence and state of the chosen model; enable what can be done with it."""
        ui, entry, busy = self.ui, self._entry(), self.task is not None
        state = entry.get("state", "") if entry else ""
        ui.licenceLabel.text = modelText(entry) if entry else _("Press Test to see the models of the engine.")
        ui.licenceCheckBox.visible = state == "absent"
        needsConsent = state == "absent" and not ui.licenceCheckBox.checked
        reason = _("Choose a model that is not installed yet.") if state not in ("absent", "broken") else ""
        reason = reason or (_("Read the licence and accept it first.") if needsConsent else "")
        ui.downloadButton.text = _("Cancel") if busy else _("Download")
        ui.downloadButton.enabled = busy or not reason
        ui.downloadButton.toolTip = _("End it.") if busy else reason or _("Download the model to the engine's disk.")
        own = bool(entry) and not entry.get("demonstration") and state in ("ready", "broken") and not busy
        installed = state in ("ready", "broken")
        wait = _("Wait for what goes on, or cancel it.") if busy else ""
        ui.verifyButton.enabled = installed and not busy
        ui.verifyButton.toolTip = wait or (
            _("Compare every file with its checksum.") if installed else _("Choose a model that is installed.")
        )
        ui.removeButton.enabled = own
        ui.removeButton.toolTip = wait or (
            _("Delete its files.") if own else _("Only a model that was downloaded or imported can be removed.")
        )
        ui.modelNoticeLabel.visible = bool(entry and entry.get("demonstration"))

    def _do(self, begin: Callable[[], Any], then: Callable[[Any], None], showsBar: bool = True) -> None:
        if self.task is not None:
            return
        try:
            self.task = begin()
        except UserError as error:
            self._say(str(error))
            return
        self.ui.modelBar.visible = showsBar
        self._ticker.follow(
            self.task, lambda task: showProgress(self.ui.modelBar, task.progress), lambda task: self._end(task, then)
        )
        self.update()

    def _end(self, task: Any, then: Callable[[Any], None]) -> None:
        self.task = None
        self.ui.modelBar.visible = False
        if task.state == "done":
            then(task.result)
        else:
            self._say(task.error or _("Cancelled; what is there already is kept, and used by the next download."))
        self.update()
        self._onChange()

    def _done(self, word: str) -> None:
        self._say(_("{name}: {word}.").format(name=self.model(), word=word))
        self.refresh()

    def _listed(self, models: list[Mapping[str, Any]]) -> None:
        chosen, self._models = self.model(), list(models)
        self._names = [AUTOMATIC, *(entry["name"] for entry in models)]
        self.ui.modelBox.blockSignals(True)  # nobody chooses while the list is filled
        while self.ui.modelBox.count > 1:
            self.ui.modelBox.removeItem(1)
        for entry in models:
            self.ui.modelBox.addItem(
                _("{title} ({state})").format(title=entry["title"], state=stateName(entry["state"]))
            )
        self.show(chosen)
        self.ui.modelBox.blockSignals(False)

    def _chosen(self, *ignored: object) -> None:
        qt.QSettings().setValue(MODEL_SETTING, self.model())  # by the user, not by a scene

    def _shown(self, *ignored: object) -> None:
        self.ui.licenceCheckBox.checked = False
        self.update()
        self._onChange()

    def _entry(self) -> Mapping[str, Any]:
        if self.model() != AUTOMATIC:
            return next((entry for entry in self._models if entry["name"] == self.model()), {})
        ready = [entry for entry in self._models if entry["state"] == "ready"]
        return ready[0] if len(ready) == 1 else {}


def usualModel() -> str:
    """The model that the user chose last, in whatever scene."""
    return str(slicer.util.settingsValue(MODEL_SETTING, AUTOMATIC))


def modelText(entry: Mapping[str, Any]) -> str:
    """Size, state and licence of a model."""
    size = _("{size:.1f} GB").format(size=entry["bytes"] / 1e9) if entry["bytes"] > 1e8 else _("under 0.1 GB")
    text = _("{state}, {size}. Licence: {licence}. {text}")
    return text.format(
        state=stateName(entry["state"]), size=size, licence=entry["licence"], text=entry["licence_text"]
    ).strip()


def stateName(state: str) -> str:
    """A state in words."""
    return {"ready": _("installed"), "absent": _("not installed"), "broken": _("damaged")}.get(state, state)
