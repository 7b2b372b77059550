"""Keep the chatter of C and C++ readers off the screen; their errors arrive as exceptions."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Send what is written to standard error meanwhile nowhere.

    MetaIO, libtiff and the JPEG libraries write to the file descriptor itself, past ``sys.stderr`` and past
    ITK's own switch. One reader at a time, or the second would save the first one's silence and restore that.
    """
    with _lock:
        try:
            saved = os.dup(2)
        except OSError:  # A program without a console, as on Windows: there is nothing to silence.
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)
