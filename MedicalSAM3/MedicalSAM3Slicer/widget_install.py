"""Installing what the local engine needs: on request, after a question, and taken up again after a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from .install import install, makePlan
from .task import UserError

BEGUN_SETTING = "MedicalSAM3/InstallationBegun"


class InstallPart:
    """The button Install.

    Args:
        ui: The widgets of the form.
        say: Shows a sentence in the section of the engine.
    """

    def __init__(self, ui: Any, say: Callable[[str], None]) -> None:
        self.ui, self._say = ui, say
        ui.installButton.connect("clicked()", self.onInstall)
        if hasBegun():
            self._takeUp()

    def onInstall(self) -> None:
        """List what the local engine needs; install it only if the user agrees."""
        plan = makePlan()
        if plan.isEmpty:
            setBegun(False)
            self._say(_("All that the engine needs is installed."))
            return
        if not slicer.util.confirmOkCancelDisplay(plan.text()):
            return
        setBegun(True)  # Slicer may be restarted in the middle
        try:
            install(plan)
        except UserError as error:
            self._say(str(error))
            return
        if makePlan().isEmpty:
            setBegun(False)
            self._say(_("Installed. Press Test to start the engine."))
        else:
            self._say(_("The rest of it comes after a restart of Slicer: restart it and open this module again."))

    def _takeUp(self) -> None:
        """Say how an installation stands that was begun before Slicer was restarted; nothing is installed by itself."""
        self.ui.engineCollapsibleButton.collapsed = False
        if makePlan().isEmpty:
            setBegun(False)
            self._say(_("The installation is complete. Press Test to start the engine."))
        else:
            self._say(_("The installation is not complete. Press Install: it goes on with what is missing."))


def hasBegun() -> bool:
    """Whether an installation was begun that nobody saw the end of."""
    return str(slicer.util.settingsValue(BEGUN_SETTING, "")) == "yes"


def setBegun(begun: bool) -> None:
    """Remember it beyond a restart."""
    qt.QSettings().setValue(BEGUN_SETTING, "yes" if begun else "")
