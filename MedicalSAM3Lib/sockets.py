"""Connections that ask for nothing must not keep others out: uvicorn's HTTP protocol with a limit and a time.

uvicorn itself waits for the first request of a connection for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded_protocol(most: int, header_s: float) -> type[H11Protocol]:
    """A protocol class for uvicorn's ``http=``.

    Args:
        most: Connections at a time. One more drives out the one that has not asked for anything the longest; where
            all are being answered, it is closed itself.
        header_s: Time (s) for a request to arrive up to the end of its headers.
    """
    silent: dict[BoundedProtocol, None] = {}
    opened: set[BoundedProtocol] = set()

    class BoundedProtocol(H11Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Count it, and start its clock."""
            super().connection_made(transport)
            if len(opened) >= most:
                oldest = next(iter(silent), self)
                oldest.transport.abort()
                if oldest is self:
                    return
                oldest._gone()
            opened.add(self)
            self._fall_silent()

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget it."""
            self._gone()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """A request, or a part of one."""
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._speak()

        def on_response_complete(self) -> None:
            """It may ask again."""
            super().on_response_complete()
            if self.cycle is None or self.cycle.response_complete:
                self._fall_silent()

        def _fall_silent(self) -> None:
            self._speak()
            if self in opened:
                silent[self] = None
                self._timer = self.loop.call_later(header_s, self._close)

        def _speak(self) -> None:
            silent.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _close(self) -> None:
            if not self.transport.is_closing():
                self.transport.abort()

        def _gone(self) -> None:
            self._speak()
            opened.discard(self)

    return BoundedProtocol
