"""``python -m MedicalSAM3Lib.model_jobs download|verify|remove NAME``: work on models, as a child of the server.

A child, because converting a download loads torch, and because ending a child is the surest way to cancel one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from MedicalSAM3Lib.errors import MedicalSAM3Error

_PERIOD_S = 0.5


def main(arguments: Sequence[str]) -> int:
    """Do it, print a line of JSON for each step and one for the end, return 0."""
    action, name = arguments
    try:
        {"download": _download, "verify": _verify, "remove": _remove}[action](name)
        answer: dict[str, object] = {"ok": True}
    except MedicalSAM3Error as error:
        answer = {"ok": False, "code": error.code, "message": str(error)}
    except Exception as error:
        answer = {"ok": False, "code": "internal", "message": f"Unexpected error: {type(error).__name__}."}
    print(json.dumps(answer), flush=True)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
