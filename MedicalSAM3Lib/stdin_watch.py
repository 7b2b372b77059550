"""The end of a child process: it comes when whoever started it closes its standard input, or is gone itself.

A launcher may stand between the two, and a kill would meet only that, or leave half a model behind. This works through
a launcher, on each system, and gives the child time to tidy up.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

GRACE_S = 60.0


def end_with_stdin(grace_s: float = GRACE_S) -> None:
    """From the end of the standard input on, raise KeyboardInterrupt in the main thread; later end without a word."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may have it ignored
    threading.Thread(target=_watch, args=(grace_s,), name="stdin", daemon=True).start()


def _watch(grace_s: float) -> None:
    while os.read(0, 4096):
        continue
    if sys.platform == "win32":
        import _thread

        _thread.interrupt_main()
    else:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)  # a real signal also ends a wait for the network
    threading.Event().wait(grace_s)
    os._exit(1)
