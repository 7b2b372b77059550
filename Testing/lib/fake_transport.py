"""A network that answers from memory and fails on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from MedicalSAM3Lib.download import RemoteFile

BLOCK = 500


class FakeTransport:
    """Serves one content under every name.

    Args:
        content: Bytes of the file.
        breaks_after: The connection breaks at this many bytes from the start of the file.
        ends_after: The server ends there, as if that were all.
        declared: SHA-256 that the server claims; the true one by default.
        fails: Errors by method name.
    """

    def __init__(
        self,
        content: bytes,
        *,
        breaks_after: int | None = None,
        ends_after: int | None = None,
        declared: str | None = None,
        fails: dict[str, Exception] | None = None,
    ) -> None:
        self.content, self.breaks_after, self.ends_after = content, breaks_after, ends_after
        self.declared = declared or hashlib.sha256(content).hexdigest()
        self.fails = fails or {}
        self.starts: list[int] = []
        self.tokens: list[str | None] = []

    def describe(self, repo: str, name: str, revision: str, token: str | None) -> RemoteFile:
        """Size and hash of the content."""
        self.tokens.append(token)
        if "describe" in self.fails:
            raise self.fails["describe"]
        return RemoteFile(f"memory://{repo}/{name}@{revision}", len(self.content), self.declared)

    def read(self, file: RemoteFile, start: int, token: str | None) -> Iterator[bytes]:
        """The content in small blocks, until it breaks or ends."""
        self.tokens.append(token)
        if "read" in self.fails:
            raise self.fails["read"]
        self.starts.append(start)
        end = min(len(self.content), *(at for at in (self.breaks_after, self.ends_after) if at is not None), 1 << 60)
        for at in range(start, end, BLOCK):
            yield self.content[at : min(at + BLOCK, end)]
        if self.breaks_after is not None:
            raise ConnectionError("played")
