"""The engine and its models, as the module's logic asks for them: each call gives a task that goes on in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import engine_tasks
from .connection import Connection
from .options import EngineSettings
from .task import Task, ThreadTask
from .updates import checkForUpdates
from .weights_file import checkedWeights


class EngineLogic:
    """What can be asked of an engine but to segment. See ``logic`` for how tasks are used."""

    def __init__(self, engine: EngineSettings | None = None) -> None:
        self._connection = Connection(engine or EngineSettings())
        self._tasks: list[Task] = []

    @property
    def engine(self) -> EngineSettings:
        """Which engine is asked."""
        return self._connection.settings

    def setEngine(self, settings: EngineSettings) -> None:
        """Ask another engine from now on: what goes on at the one before is cancelled, a local one is ended."""
        if settings != self.engine:
            self.close()
            self._connection = Connection(settings)

    def testEngine(self) -> Task:
        """Start or reach the engine; ``result`` is a list of sentences that a user should know."""
        return self._begin(engine_tasks.test)

    def checkForUpdates(self) -> Task:
        """``result``: sentences about engine, packages and models. The one call that may ask the Hugging Face hub."""
        return self._begin(checkForUpdates)

    def capabilities(self) -> Task:
        """``result``: version, model, devices and limits, as ``Client.capabilities`` gives them."""
        return self._begin(lambda task, connection: connection.client(task).capabilities())

    def freeMemory(self) -> Task:
        """Let the engine forget all features; ``result`` is the number of bytes. Starts no engine."""
        return self._begin(engine_tasks.freeMemory)

    def stopEngine(self) -> None:
        """End the local server, if there is one; the next run starts it again."""
        self._connection.stop()

    def close(self) -> None:
        """Cancel everything and end the local server. For ``cleanup()`` of the panel; the logic can be used again."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self.stopEngine()

    # --- models ---

    def listModels(self) -> Task:
        """``result``: models as dicts with name, title, state, bytes, licence, licence_text, demonstration."""
        return self._begin(engine_tasks.models)

    def downloadModel(self, name: str, acceptLicence: bool) -> Task:
        """Let the engine download a model; ``progress`` counts bytes."""
        return self._begin(lambda task, connection: engine_tasks.download(task, connection, name, acceptLicence))

    def verifyModel(self, name: str) -> Task:
        """Let the engine check the files of a model."""
        return self._begin(lambda task, connection: engine_tasks.verify(task, connection, name))

    def removeModel(self, name: str) -> Task:
        """Let the engine remove a model."""
        return self._begin(lambda task, connection: engine_tasks.remove(task, connection, name))

    def importModel(self, path: str, name: str, acceptLicence: bool, base: str = "") -> Task:
        """Install weights from a file or folder of this computer; ``result`` is the name.

        Args:
            path: A checkpoint of SAM3 or Medical SAM3, or a model folder or its config.json.
            name: To install it under: lower case letters, digits, ".", "_" and "-".
            acceptLicence: A person has read ``weights_file.licenceText`` and accepts it.
            base: Installed model whose tracker is taken if the weights have none; "" = none is.

        Raises:
            UserError: The engine is a server, there is no such file, or the licence was not accepted.
        """
        weights = checkedWeights(self.engine, path, name, acceptLicence)
        return self._begin(lambda task, connection: engine_tasks.importWeights(task, connection, weights, base))

    # --- how ---

    def _begin(self, work: Callable[[ThreadTask, Connection], Any]) -> Task:
        connection = self._connection
        task = ThreadTask(lambda task: work(task, connection), connection.explain)
        self._keep(task)
        return task.begin()

    def _keep(self, task: Task) -> None:
        self._tasks = [one for one in self._tasks if one.isRunning] + [task]
