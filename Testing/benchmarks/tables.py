"""Tables of results, on the terminal and as Markdown. Every ratio in them is of numbers of one run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table as RichTable

from MedicalSAM3Lib.runtime import Runtime

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Table:
    """A result: a row is one text per column; notes stand below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"expected {len(self.columns)} texts a row, got {wrong[0]}")


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; a dash where there is none."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def ratio(value: float | None, to: float | None) -> str:
    """How many times ``to`` a value is; a dash where that cannot be said."""
    return NOTHING if value is None or not to else number(value / to)


def markdown(table: Table) -> str:
    """A table as Markdown: title, header, rows, notes."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows]
    body = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
    return "\n\n".join([f"**{table.title}**", body, *table.notes]) + "\n"


def show(table: Table, console: Console) -> None:
    """Print a table; all columns but the first to the right."""
    shown = RichTable(title=table.title, title_justify="left", caption="\n".join(table.notes), caption_justify="left")
    for position, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if position == 0 else "right")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
    console.print()


def machine_facts(runtime: Runtime) -> str:
    """One line on what the numbers were taken on: nothing in it names a machine or a path."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = "CPU"
    if runtime.device.type == "cuda":
        where = torch.cuda.get_device_name(runtime.device)
    elif runtime.device.type != "cpu":
        where = runtime.device.type.upper()
    return (
        f"{where}, {cores} cores, {torch.get_num_threads()} threads, {format_name(runtime.dtype)} unless a row says "
        f"otherwise, PyTorch {torch.__version__.split('+')[0]}."
    )


def format_name(dtype: torch.dtype) -> str:
    """Name of a number format: "bfloat16"."""
    return str(dtype).removeprefix("torch.")
