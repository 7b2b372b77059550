"""Watch a running server: say when it answers, and end it when its parent has gone or nobody uses it any more."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib.engine_port import Engines
from MedicalSAM3Lib.local_server import Idleness

if TYPE_CHECKING:
    import uvicorn

TICK_S = 0.5
PATIENCE_S = 30.0
"""For an orderly end; after that the process ends however it can, and its children with it."""

_NOT_USE = ("/health", "/metrics")
"""Who only looks whether the server is there does not use it."""


class ServerWatch:
    """A thread beside the server.

    Args:
        engines: Busy ones are use.
        on_ready: Called once the server answers.
        is_wanted: False ends the server.
        idle_s: So many seconds without use end it; None = never.
    """

    def __init__(
        self,
        engines: Engines,
        on_ready: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
        idle_s: float | None = None,
    ) -> None:
        self._engines, self._on_ready, self._is_wanted = engines, on_ready, is_wanted
        self._idle = Idleness(float("inf") if idle_s is None else idle_s / TICK_S)
        self._over = threading.Event()
        self._failure: BaseException | None = None

    def attach(self, server: uvicorn.Server) -> None:
        """Begin to watch; to be called before the server starts."""
        server.config.app = _Used(server.config.app, self._idle)
        threading.Thread(target=self._watch, args=(server,), name="watch", daemon=True).start()

    def end(self) -> None:
        """The server has ended in order.

        Raises:
            Exception: What ``on_ready`` raised, which ended it.
        """
        self._over.set()
        if self._failure is not None:
            raise self._failure

    def _watch(self, server: uvicorn.Server) -> None:
        is_told = False
        while not self._over.wait(TICK_S / 10 if not is_told else TICK_S):
            if server.started and not is_told:
                is_told = True
                try:
                    self._on_ready()
                except Exception as error:
                    self._failure = error
                    break
            is_busy = any(engine.state == "busy" for engine in self._engines.states())
            if not self._is_wanted() or (is_told and self._idle.tick(busy=is_busy)):
                break
        server.should_exit = True
        if not self._over.wait(PATIENCE_S):
            os._exit(1)


class _Used:
    """ASGI: a request that is being answered is use."""

    def __init__(self, app: Any, idle: Idleness) -> None:
        self._app, self._idle = app, idle

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in _NOT_USE:
            await self._app(scope, receive, send)
            return
        with self._idle.use():
            await self._app(scope, receive, send)
