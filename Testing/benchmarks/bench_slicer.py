"""The module on a volume of 512 x 512 x 300: how long Slicer's main thread is kept, what is sent, what cancel takes.

    python -m Testing.benchmarks.bench_slicer

Needs slicer-core. The server is the real one, its engines know the answer: this measures the module, not the model.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from Testing.slicer import mrml
from Testing.slicer.engine_world import World, serving_world, until

SHAPE = (300, 512, 512)


def main() -> None:
    """Print the numbers."""
    from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic

    mrml.boot()
    array = np.random.default_rng(0).integers(-1000, -900, SHAPE).astype(np.int16)
    array[40:260, 100:400, 120:420] = 1  # a box as large as a liver's
    array[40:200, 410:500, 300:480] = 2
    volume = mrml.volume(array)
    with tempfile.TemporaryDirectory() as folder, serving_world(Path(folder)) as world:
        logic = MedicalSAM3Logic(EngineSettings("remote", world.url))
        first = run(logic, volume, ["liver"])
        sent = world.sent()
        print(f"first concept   {first['total']:6.2f} s, {sent} pieces sent")
        print(f"  start()       {first['start']:6.3f} s of the main thread")
        print(f"  longest poll  {first['longest']:6.3f} s before results")
        print(f"  insertion     {first['insert']:6.3f} s")
        second = run(logic, volume, ["spleen"])
        print(f"second concept  {second['total']:6.2f} s, {world.sent() - sent} pieces sent")
        print(f"  insertion     {second['insert']:6.3f} s beside the first, exclusive")
        cancelled(logic, volume, world)
        logic.close()


def run(logic: Any, volume: Any, concepts: list[str]) -> dict[str, float]:
    """Seconds of a run by part; the last poll is the insertion."""
    began = time.perf_counter()
    task = logic.start(volume, concepts)
    started = time.perf_counter() - began
    polls = []
    while task.isRunning:
        before = time.perf_counter()
        task.poll()
        polls.append(time.perf_counter() - before)
        time.sleep(0.02)
    assert task.state == "done", task.error
    total = time.perf_counter() - began
    return {"total": total, "start": started, "longest": max(polls[:-1]), "insert": polls[-1]}


def cancelled(logic: Any, volume: Any, world: World) -> None:
    """Cancel a run that an engine holds."""
    world.engines.at_once = False
    task = logic.start(volume, ["liver"])
    job_id = world.order().job_id
    began = time.perf_counter()
    task.cancel()
    print(f"cancel          {time.perf_counter() - began:6.3f} s until the panel is free")
    until(lambda: job_id in world.engines.cancelled)
    print(f"                {time.perf_counter() - began:6.3f} s until the engine is told")


if __name__ == "__main__":
    main()
