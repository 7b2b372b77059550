"""An engine without a network, for tests of its supervisor: what it does with an order is its first concept."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

FACTS = {
    "name": "fake",
    "weights_hash": "0" * 64,
    "demonstration": True,
    "has_tracker": False,
}


def send(**message: Any) -> None:
    print(json.dumps(message), flush=True)


def answer(job_id: str, kind: str, **data: Any) -> None:
    send(answer={"job_id": job_id, "kind": kind, "data": data})


def main() -> None:
    device = sys.argv[1]
    if device == "broken":
        sys.exit(1)
    send(ready=FACTS, device=device)
    waiting = ""
    for line in sys.stdin:
        message = json.loads(line)
        if "order" in message:
            order = message["order"]
            job_id, word = order["job_id"], order["concepts"][0]
            if word == "die":
                answer(job_id, "progress", stage="features", done=1, total=2, fraction=0.1, seconds_left=None)
                print('{"answer": {"job_id"', end="", flush=True)
                os.abort()
            if word == "hang":
                while True:
                    time.sleep(60)
            if word == "wait":
                waiting = job_id
                continue
            answer(job_id, "done", pid=os.getpid(), device=device)
        elif message.get("cancel") == waiting:
            answer(waiting, "cancelled")
        elif "drop" in message:
            send(freed=100 if message["drop"] is None else len(message["drop"]), ticket=message["ticket"])


if __name__ == "__main__":
    main()
