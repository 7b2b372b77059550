"""``python -m MedicalSAM3Lib.model_jobs ACTION NAME``: work on models, as a child of the server or the panel.

ACTION is download, verify, remove or import, the last one for the panel alone and with three more words.
A child, because converting a model loads torch, and because ending a child is the surest way to cancel one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from MedicalSAM3Lib.errors import MedicalSAM3Error, SettingsError

_PERIOD_S = 0.5


def main(arguments: Sequence[str]) -> int:
    """Do it, print a line of JSON for each step and one for the end, return 0."""
    action, *words = arguments
    return answer(lambda: ACTIONS[action](*words))


def answer(work: Callable[[], dict[str, Any] | None]) -> int:
    """Do some work and print what came of it as the last line: ``{"ok": true, ...}`` or what went wrong; return 0."""
    try:
        told: dict[str, Any] = {"ok": True, **(work() or {})}
    except MedicalSAM3Error as error:
        told = {"ok": False, "code": error.code, "message": str(error)}
    except ModuleNotFoundError as error:
        message = f"Expected the packages of medical-sam3 in this Python, {error.name} is missing; install them."
        told = {"ok": False, "code": "internal", "message": message}
    except MemoryError:
        message = "Expected more free memory than this machine has now; close other programs and try again."
        told = {"ok": False, "code": "memory", "message": message}
    except Exception as error:
        told = {"ok": False, "code": "internal", "message": f"Unexpected error: {type(error).__name__}."}
    print(json.dumps(told), flush=True)
    return 0


def _download(name: str) -> None:
    from MedicalSAM3Lib.registry import download_model

    last = 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _PERIOD_S:
            last = time.monotonic()
            print(json.dumps({"stage": "download", "done": done, "total": total}), flush=True)

    # The person who clicked has seen the licence; the server asked for that before this process began.
    download_model(name, lambda info: True, on_bytes=show)


def _verify(name: str) -> None:
    from MedicalSAM3Lib.registry import verify_model

    verify_model(name)


def _remove(name: str) -> None:
    from MedicalSAM3Lib.registry import remove_model

    remove_model(name)


def _import(name: str, source: str, base: str, licence: str) -> None:
    """For the panel, which ends it by its standard input; ``base`` and ``licence`` may be empty."""
    from MedicalSAM3Lib.registry import find_installed, import_model
    from MedicalSAM3Lib.stdin_watch import end_with_stdin

    end_with_stdin()
    if find_installed(name) is not None:
        raise SettingsError(f"A model '{name}' is installed already; choose another name, or remove that one first.")

    def show(stage: str) -> None:
        print(json.dumps({"stage": stage}), flush=True)

    import_model(source, name, base=base or None, licence=licence, on_stage=show)


ACTIONS: dict[str, Callable[..., None]] = {
    "download": _download, "verify": _verify, "remove": _remove, "import": _import,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
