"""Weights that the user has already: choose them, read the licence, bring them to the engine on this computer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .task import UserError
from .weights_file import licenceText, suggestedName
from .widget_models import ModelsPart
from .widget_run import showProgress


class ImportPart:
    """For hospitals without a network: no byte of it comes from elsewhere.

    Args:
        ui: The widgets of the form.
        logic: Of the module.
        ticker: Polls the import.
        models: Shows what was imported.
        say: Shows a sentence in the section of the engine.
    """

    def __init__(self, ui: Any, logic: Any, ticker: Any, models: ModelsPart, say: Callable[[str], None]) -> None:
        self.ui, self.logic, self._ticker, self._models, self._say = ui, logic, ticker, models, say
        self._bases: list[str] = []
        self.task: Any = None
        ui.importBar.visible = False
        ui.importLicenceLabel.setTextInteractionFlags(qt.Qt.TextSelectableByMouse | qt.Qt.TextSelectableByKeyboard)
        ui.importPathEdit.connect("currentPathChanged(QString)", self._chosen)
        ui.importNameEdit.connect("editingFinished()", self.update)
        ui.importCheckBox.connect("toggled(bool)", self.update)
        ui.importButton.connect("clicked()", self.onImport)
        self._chosen()

    def onImport(self) -> None:
        """Import, or cancel what goes on."""
        if self.task is not None:
            self.task.cancel()
            self._ticker.tick()
            return
        ui = self.ui
        base = self._bases[ui.importBaseBox.currentIndex - 1] if ui.importBaseBox.currentIndex > 0 else ""
        try:
            self.task = self.logic.importModel(
                ui.importPathEdit.currentPath, ui.importNameEdit.text, bool(ui.importCheckBox.checked), base
            )
        except UserError as error:
            self._say(str(error))
            return
        ui.importBar.visible = True
        self._ticker.follow(self.task, lambda task: showProgress(ui.importBar, task.progress), self._ended)
        self.update()

    def reason(self) -> str:
        """Why nothing can be imported; "" where it can."""
        if self.logic.engine.kind != "local":
            return _("Weights can be brought to the engine on this computer only; ask whoever runs the server.")
        if not self.ui.importPathEdit.currentPath.strip():
            return _("Choose the file first, or the config.json of a folder.")
        if not self.ui.importNameEdit.text.strip():
            return _("Give the model a name.")
        return "" if self.ui.importCheckBox.checked else _("Read the licence and accept it first.")

    def update(self, *ignored: object) -> None:
        """Enable what can be done now, and say why the rest cannot."""
        ui, busy, reason = self.ui, self.task is not None, self.reason()
        isLocal = self.logic.engine.kind == "local"
        for widget in (ui.importPathEdit, ui.importNameEdit, ui.importBaseBox, ui.importCheckBox):
            widget.enabled = isLocal and not busy
        ui.importButton.text = _("Cancel") if busy else _("Import")
        ui.importButton.enabled = busy or not reason
        ui.importButton.toolTip = (
            _("End it. Nothing of it stays.") if busy else reason or _("Check the weights and install them.")
        )
        self._showBases()

    def _chosen(self, *ignored: object) -> None:
        path = self.ui.importPathEdit.currentPath
        self.ui.importNameEdit.text = suggestedName(path)
        self.ui.importCheckBox.checked = False
        self.ui.importLicenceLabel.text = licenceText(path)
        self.update()

    def _showBases(self) -> None:
        bases = self._models.own()
        if bases == self._bases:
            return
        self._bases, box = bases, self.ui.importBaseBox
        while box.count > 1:
            box.removeItem(1)
        for name in bases:
            box.addItem(name)

    def _ended(self, task: Any) -> None:
        self.task = None
        self.ui.importBar.visible = False
        if task.state == "done":
            self._say(_("{name}: imported.").format(name=task.result))
            self.ui.importPathEdit.currentPath = ""
            self._models.choose(task.result)
            self._models.refresh()
        else:
            self._say(task.error or _("Cancelled; nothing was installed."))
        self.update()
