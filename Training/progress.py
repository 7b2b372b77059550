"""How far a run is: a line that moves where a person watches, a line now and then in a file"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("Training.train")

STEPS_PER_LINE = 20

Tell = Callable[[int, dict[str, Any]], None]


class StderrHandler(logging.Handler):
    """Writes to what stderr is at the moment: above the moving line while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr)


@contextmanager
def progress_line(total: int, first: int, *, is_main: bool) -> Iterator[Tell]:
    """Lend a function that tells of a step and its numbers; silent on ranks other than 0.

    Args:
        total: Steps of the run.
        first: Steps done already.
        is_main: Whether this is rank 0.
    """
    console = Console(stderr=True)
    if not is_main or not console.is_terminal:
        yield _say_now_and_then(total) if is_main else lambda *_: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=total, completed=first)

        def tell(step: int, numbers: dict[str, Any]) -> None:
            text = f"loss {numbers['loss']:.3f}  {numbers['slices_per_second']:.3g} slices/s"
            bar.update(task, completed=step + 1, description=text)

        yield tell


def _say_now_and_then(total: int) -> Tell:
    def tell(step: int, numbers: dict[str, Any]) -> None:
        if step % STEPS_PER_LINE == 0:
            line = "step %d/%d  loss %.3f  gradient %.3f  %.2f s (%.2f s waiting)"
            values = (numbers["loss"], numbers["grad_norm"], numbers["seconds"], numbers["wait_seconds"])
            logger.info(line, step, total, *values)

    return tell
