"""From the engine's settings to a client that can be asked, and from what goes wrong to a sentence."""

from __future__ import annotations

import errno
import logging
import threading

from slicer.i18n import tr as _

from MedicalSAM3Lib.client import Client
from MedicalSAM3Lib.errors import MedicalSAM3Error, Unreachable

from .local_engine import LocalEngine
from .options import EngineSettings
from .task import Progress, ThreadTask, UserError

ATTEMPTS = 4
"""With the pauses between them some seconds: somebody waits in front of the panel."""


class Connection:
    """The engine of some settings. Used from the threads of tasks; nothing is started before it is needed.

    Attributes:
        settings: Which engine.
        sent: Key of a volume to its name at the engine that is connected now.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.sent: dict[tuple, str] = {}
        self.local = LocalEngine(settings) if settings.kind == "local" else None
        self._client: Client | None = None
        self._lock = threading.Lock()

    def client(self, task: ThreadTask) -> Client:
        """A client whose engine answered and fits; starts the local engine if it does not run.

        Raises:
            UserError, MedicalSAM3Error: It cannot be reached, or is of another version.
            TaskCancelled: While it started.
        """
        while not self._lock.acquire(timeout=0.1):  # another task starts it
            task.check()
        try:
            if self.local is not None and not self.local.isAlive():
                self._client = None
            if self._client is None:
                self._connect(task)
            assert self._client is not None
            return self._client
        finally:
            self._lock.release()

    def _connect(self, task: ThreadTask) -> None:
        task.report(Progress(_("Starting the engine") if self.local else _("Reaching the server")))
        if self.local is not None:
            client = Client(*self.local.start(task), attempts=ATTEMPTS)
        elif not self.settings.url.strip():
            raise UserError(_("Give the address of the server first, for instance https://host:8765."))
        else:
            client = Client(
                self.settings.url.strip(),
                self.settings.token.strip() or None,
                certificate=self.settings.certificate or None,
                attempts=ATTEMPTS,
            )
        client.check()
        self.sent.clear()
        self._client = client

    def forget(self) -> None:
        """Connect anew at the next use: another answers there now, or none."""
        self._client = None

    def running(self) -> Client | None:
        """The client if there is an engine already; starts none."""
        if self.local is not None and not self.local.isAlive():
            return None
        return self._client

    def stop(self) -> None:
        """End the local engine, if it runs."""
        self._client = None
        if self.local is not None:
            self.local.stop()

    def explain(self, error: BaseException) -> str:
        """A sentence for users. What nobody foresaw is in the log, too."""
        if isinstance(error, Unreachable):
            self.forget()
            if self.local is not None and not self.local.isAlive():
                return (
                    _(
                        "The engine on this computer ended while it worked, perhaps because memory was full. Nothing "
                        "was added. Try again: it starts anew. {said}"
                    )
                    .format(said=self.local.lastWords())
                    .strip()
                )
            return str(error)
        if isinstance(error, (UserError, MedicalSAM3Error)):
            return str(error)
        if isinstance(error, MemoryError):
            return _("There is not enough memory in this computer; close other volumes or programs and try again.")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _("The disk of this computer is full; make room on it and try again.")
        logging.error("MedicalSAM3: something unexpected happened", exc_info=error)
        return _("Something unexpected happened ({kind}); the Python console says more.").format(
            kind=type(error).__name__
        )
