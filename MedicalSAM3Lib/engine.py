"""The engine: the one process of the server that imports torch. It does one order at a time for one device.

    python -m MedicalSAM3Lib.engine --device cuda:0 --model auto

Its parent (``engines.py``) writes a JSON object a line to its standard input, and reads one a line from what was its
standard output. It ends when its input does, so it never outlives its parent, whatever it is doing.

    in      {"order": fields of Order} {"cancel": job id} {"drop": volumes or null, "ticket": n} {"stop": true}
    out     {"ready": fields of ModelFacts, "device": name} {"unready": sentence} {"answer": fields of Answer}
            {"freed": bytes, "ticket": n} {"beat": n}
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib.engine_port import Answer, Order

if TYPE_CHECKING:
    from MedicalSAM3Lib.engine_work import Workshop

BEAT_S = 2.0

NICENESS = 5
"""The front answers in between, also where this process keeps all cores busy."""

Send = Callable[[dict[str, Any]], None]


class Engine:
    """What hears the parent and what works, in two threads: a cancel is heard while an order is done.

    Args:
        make_workshop: Called once in the thread that works.
        send: Writes a message to the parent; may be called from both threads.
    """

    def __init__(self, make_workshop: Callable[[], Workshop], send: Send) -> None:
        self._make_workshop, self._send = make_workshop, send
        self._orders: queue.Queue[Order | None] = queue.Queue()
        self._cancelled: set[str] = set()
        self._workshop: Workshop | None = None

    def hear(self, message: dict[str, Any]) -> None:
        """Take a message of the parent."""
        if "order" in message:
            self._orders.put(order_from(message["order"]))
        elif "cancel" in message:
            self._cancelled.add(message["cancel"])
        elif "drop" in message:
            freed = self._workshop.drop_features(message["drop"]) if self._workshop else 0
            self._send({"freed": freed, "ticket": message["ticket"]})
        elif "stop" in message:
            self._orders.put(None)

    def work(self) -> int:
        """Warm up, then do orders until told to stop; return the exit code, not 0 where the device is lost."""
        workshop = self._make_workshop()
        try:
            facts = workshop.warm_up()
        except Exception as error:
            from MedicalSAM3Lib.engine_work import explain

            self._send({"unready": explain(error)["message"]})
        else:
            self._send({"ready": asdict(facts), "device": workshop.device})
        self._workshop = workshop
        while (order := self._orders.get()) is not None:
            self._do(workshop, order)
            if workshop.is_lost:
                return 1
        return 0

    def _do(self, workshop: Workshop, order: Order) -> None:
        def answer(one: Answer) -> None:
            self._send({"answer": asdict(one)})

        workshop.do(order, answer, lambda: order.job_id in self._cancelled)
        self._cancelled.discard(order.job_id)


def order_from(values: dict[str, Any]) -> Order:
    """An order from its JSON."""
    paths = {"volume": Path(values["volume"]), "out": Path(values["out"])}
    return Order(**{**values, **paths, "concepts": tuple(values["concepts"])})


def order_to(order: Order) -> dict[str, Any]:
    """An order as JSON."""
    return asdict(order) | {"volume": str(order.volume), "out": str(order.out), "concepts": list(order.concepts)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an engine until its input ends; return the exit code."""
    chosen = _parser().parse_args(arguments)
    with suppress(AttributeError, OSError):
        os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    send = _take_over_stdout()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    engine = Engine(lambda: _make_workshop(chosen), send)
    threading.Thread(target=_listen, args=(engine,), name="listen", daemon=True).start()
    threading.Thread(target=_beat, args=(send,), name="beat", daemon=True).start()
    return engine.work()


def _make_workshop(chosen: argparse.Namespace) -> Workshop:
    import torch

    from MedicalSAM3Lib.engine_work import Workshop

    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    return Workshop(chosen.device, chosen.model, chosen.memory_budget, chosen.models_kept)


def _take_over_stdout() -> Send:
    """Keep the way to the parent for messages alone: what a library prints goes to the log."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            try:
                pipe.write(json.dumps(message, allow_nan=False) + "\n")
            except OSError:  # the parent is gone, and nobody needs what this process does
                os._exit(0)

    return send


def _listen(engine: Engine, lines: Iterable[str] | None = None) -> None:
    for line in sys.stdin if lines is None else lines:
        engine.hear(json.loads(line))
    os._exit(0)  # the parent is gone: an order that runs is for nobody


def _beat(send: Send) -> None:
    number = 0
    while True:
        send({"beat": number})
        number += 1
        threading.Event().wait(BEAT_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="auto", help="which one 'auto' means")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: all cores")
    parser.add_argument("--memory-budget", type=float, default=None, help="of features, in 10^9 bytes")
    parser.add_argument("--models-kept", type=int, default=2, help="how many stay loaded")
    return parser


if __name__ == "__main__":
    # Not sys.exit: the thread that listens holds the input, for which an orderly end would wait.
    os._exit(main())
