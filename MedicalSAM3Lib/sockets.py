"""Connections that ask for nothing must not keep others out: uvicorn's HTTP protocol with a limit and a time.

uvicorn itself waits for the first request of a connection for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


def bounded_protocol(most: int, header_s: float) -> type[H11Protocol]:
    """A protocol class for uvicorn's ``http=``.

    Args:
        most: Connections at a time. One more drives out the one that has not asked for anything the longest; where
            all are being answered, it is closed itself.
        header_s: Time (s) for a request to arrive up to the end of its headers.
    """
    return type("LimitedProtocol", (BoundedProtocol,), {"book": Book(most, header_s)})


@dataclass(slots=True)
class Book:
    """The open connections of one server; ``silent`` are those that wait for a request, the longest first."""

    most: int
    header_s: float
    opened: set[BoundedProtocol] = field(default_factory=set)
    silent: dict[BoundedProtocol, None] = field(default_factory=dict)


class BoundedProtocol(H11Protocol):
    """One connection."""

    book: ClassVar[Book]
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Count it, and start its clock."""
        super().connection_made(transport)
        if len(self.book.opened) >= self.book.most:
            oldest = next(iter(self.book.silent), self)
            oldest.transport.abort()
            if oldest is self:
                return
            oldest._leave()
        self.book.opened.add(self)
        self._fall_silent()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A request, or a part of one."""
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before and not self.cycle.response_complete:
            self._speak()

    def on_response_complete(self) -> None:
        """It may ask again; if it has asked already, uvicorn has begun the next answer by now."""
        super().on_response_complete()
        if self.cycle.response_complete:
            self._fall_silent()

    def _fall_silent(self) -> None:
        self._speak()
        if self in self.book.opened:
            self.book.silent[self] = None
            self._timer = self.loop.call_later(self.book.header_s, self.transport.abort)

    def _speak(self) -> None:
        self.book.silent.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        self._speak()
        self.book.opened.discard(self)
