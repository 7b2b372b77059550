"""A TCP proxy that drops connections: the seam at which tests play a bad network."""

from __future__ import annotations

import random
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class FlakyProxy(socketserver.ThreadingTCPServer):
    """Passes bytes between a client and a server, and cuts some connections in the middle.

    Attributes:
        cut_share: Share of connections (0..1) that are cut, after up to ``most_bytes`` of either direction.
        cuts: How many were.
        is_down: All connections are refused.
    """

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    def __init__(self, target: tuple[str, int], cut_share: float, most_bytes: int = 3000, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.cut_share, self.most_bytes = target, cut_share, most_bytes
        self.cuts, self.is_down = 0, False
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bytes_until_cut(self) -> int | None:
        """How much the next connection may carry; None = all."""
        with self._lock:
            if self._random.random() >= self.cut_share:
                return None
            self.cuts += 1
            return self._random.randrange(self.most_bytes)


class _Handler(socketserver.BaseRequestHandler):
    server: FlakyProxy

    def handle(self) -> None:
        if self.server.is_down:
            return
        left = self.server.bytes_until_cut()
        with suppress(OSError), socket.create_connection(self.server.target) as upstream:
            budget = _Budget(left)
            ways = [(self.request, upstream), (upstream, self.request)]
            threads = [threading.Thread(target=_pass, args=(*way, budget), daemon=True) for way in ways]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


class _Budget:
    def __init__(self, left: int | None) -> None:
        self.left = left

    def take(self, wanted: int) -> int:
        if self.left is None:
            return wanted
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


def _pass(source: socket.socket, target: socket.socket, budget: _Budget) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            allowed = budget.take(len(data))
            target.sendall(data[:allowed])
            if allowed < len(data):
                for end in (source, target):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                return
        target.shutdown(socket.SHUT_WR)


@contextmanager
def flaky(target: tuple[str, int], cut_share: float, most_bytes: int = 3000) -> Iterator[FlakyProxy]:
    """Run a proxy in a thread."""
    with FlakyProxy(target, cut_share, most_bytes) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
