"""The module on a volume of 512 x 512 x 300: how long Slicer's main thread is kept, what is sent, what cancel takes.

    python -m Testing.benchmarks.bench_slicer

Needs slicer-core and PySide6. The server is the real one, its engines know the answer: this measures the module, not
the model.
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
STEPS = {"NoneType": "between cases", "LoadTask": "loading", "Run": "segmenting", "SaveTask": "saving"}
"""What a batch does, by the task that it waits for. Segmenting ends with the insertion, saving with the table."""


def main() -> None:
    """Print the numbers."""
    from MedicalSAM3.MedicalSAM3Slicer.logic import EngineSettings, MedicalSAM3Logic

    mrml.boot()
    opened()
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
        print(f"  longest poll  {first['longest']:6.3f} s before results, {first['worked']:.3f} s of it work")
        print(f"  insertion     {first['insert']:6.3f} s")
        second = run(logic, volume, ["spleen"])
        print(f"second concept  {second['total']:6.2f} s, {world.sent() - sent} pieces sent")
        print(f"  insertion     {second['insert']:6.3f} s beside the first, exclusive")
        through_the_panel(world.url)
        from_a_folder(world.url, array, Path(folder))
        surfaces(volume)
        cancelled(volume, world)
        logic.close()


def opened() -> None:
    """The module's file is executed and its panel opened, in the harness; a second time without imports."""
    from Testing.slicer.harness.application import Module, boot

    boot()
    for words in ("opening", "opening again"):
        began, worked = time.perf_counter(), time.thread_time()
        module = Module()
        module.open()
        print(f"{words:15} {time.perf_counter() - began:6.3f} s, {time.thread_time() - worked:.3f} s of it work")
        module.close()


def through_the_panel(url: str) -> None:
    """The longest turn of the event loop while a concept is typed and segmented, in the harness."""
    import slicer

    from Testing.slicer.harness.application import Module
    from Testing.slicer.harness.using import use

    module = Module()
    panel = module.open()
    use(panel, url)
    while panel.ticker.isBusy():  # the words are learnt, as they are before a person has typed
        slicer.app.processEvents()
    typed = time.perf_counter()
    panel.concepts.setText("liver, spleen")
    print(f"letters typed   {time.perf_counter() - typed:6.3f} s")
    panel.ui.againBox.setCurrentIndex(1)
    panel.ui.segmentButton.click()
    turns = []
    while panel.run.isRunning():
        began, worked = time.perf_counter(), time.thread_time()
        slicer.app.processEvents()
        turns.append((time.perf_counter() - began, time.thread_time() - worked))
        time.sleep(0.005)
    longest, worked = max(turns[:-1])
    print(f"longest turn    {longest:6.3f} s of the event loop before results, {worked:.3f} s of it work")
    print(f"last turn       {turns[-1][0]:6.3f} s with two insertions and the table")
    module.close()


def from_a_folder(url: str, array: np.ndarray, folder: Path) -> None:
    """An image of a folder in a batch that saves: the longest turn of the event loop in each of its stages."""
    import slicer

    from Testing.slicer.harness.application import Module
    from Testing.slicer.harness.using import use

    image, results = mrml.written(folder / "images" / "ct.nii.gz", array), folder / "results"
    results.mkdir()
    module = Module()
    panel = module.open()
    use(panel, url)
    while panel.ticker.isBusy():
        slicer.app.processEvents()
    panel.concepts.setText("liver, spleen")
    panel.ui.batchResultsEdit.text = str(results)
    part = panel.batch
    part.entries = panel.logic.lookThrough(image.parent).wait()
    part.onBatch()
    batch = part.batch
    turns: dict[str, tuple[float, float]] = {}
    began = time.perf_counter()
    while batch.isRunning:
        step = STEPS[type(batch._step).__name__]
        turn, worked = time.perf_counter(), time.thread_time()
        slicer.app.processEvents()
        took = time.perf_counter() - turn, time.thread_time() - worked
        what = step if STEPS[type(batch._step).__name__] == step else f"{step}, its end"
        turns[what] = max(turns.get(what, (0.0, 0.0)), took)
        time.sleep(0.005)
    assert batch.entries[0].state == "done", batch.entries[0].error
    print(f"from a folder   {time.perf_counter() - began:6.2f} s for loading, segmenting, saving")
    for what, (longest, worked) in turns.items():
        print(f"  {what:20} {longest:6.3f} s the longest turn of the event loop, {worked:.3f} s of it work")
    module.close()


def surfaces(volume: Any) -> None:
    """What has been made without anybody asking for it: label maps only."""
    from MedicalSAM3.MedicalSAM3Slicer.segmentation_node import segmentationOf

    inner = segmentationOf(volume).GetSegmentation()
    made = [inner.GetContainedRepresentationNames()] if inner.ContainsRepresentation("Closed surface") else []
    print(f"surfaces        {len(made)} made before Show 3D was pressed")


def run(logic: Any, volume: Any, concepts: list[str]) -> dict[str, float]:
    """Seconds of a run by part; the last poll is the insertion. "worked": what the longest poll did beside waiting."""
    began = time.perf_counter()
    task = logic.start(volume, concepts)
    started = time.perf_counter() - began
    polls = []
    while task.isRunning:
        before, worked = time.perf_counter(), time.thread_time()
        task.poll()
        polls.append((time.perf_counter() - before, time.thread_time() - worked))
        time.sleep(0.02)
    assert task.state == "done", task.error
    total = time.perf_counter() - began
    longest, worked = max(polls[:-1])
    return {"total": total, "start": started, "longest": longest, "worked": worked, "insert": polls[-1][0]}


def cancelled(volume: Any, world: World) -> None:
    """Press Cancel in the panel while an engine works."""
    import slicer

    from Testing.slicer.harness.application import Module
    from Testing.slicer.harness.using import use, wait_for

    world.engines.at_once = False
    module = Module()
    panel = module.open()
    use(panel, world.url)
    panel.ui.inputSelector.setCurrentNode(volume)
    panel.concepts.setText("left kidney")
    panel.ui.segmentButton.click()
    wait_for(lambda: world.engines.running)
    job_id = world.order().job_id
    began = time.perf_counter()
    panel.ui.segmentButton.click()
    slicer.app.processEvents()
    assert not panel.run.isRunning()
    assert panel.ui.segmentButton.enabled
    print(f"cancel          {time.perf_counter() - began:6.3f} s until the panel is free")
    until(lambda: job_id in world.engines.cancelled)
    print(f"                {time.perf_counter() - began:6.3f} s until the engine is told")
    module.close()


if __name__ == "__main__":
    main()
