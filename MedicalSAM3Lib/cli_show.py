"""What the command line shows: progress bars on stderr, where a terminal is; results on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from MedicalSAM3Lib.report import RESEARCH_NOTICE

if TYPE_CHECKING:
    from MedicalSAM3Lib.download import OnBytes
    from MedicalSAM3Lib.model_folder import LoadedModel
    from MedicalSAM3Lib.structures import Finding, Measures, OnProgress
    from MedicalSAM3Lib.structures import Progress as StageProgress

ROOM_FOR_MEASURES = 100
"""Columns of a window."""

_STATE_STYLES = {"found": "green", "not_found": "yellow", "failed": "red"}


class _StageBars:
    """One bar a stage: made when the stage first reports, complete when the next one begins."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: StageProgress) -> None:
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total)
        self._bars.update(self._tasks[progress.stage], completed=progress.done, total=progress.total)


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[OnProgress]:
    """Yield a progress callable that draws, per stage, the slices done and the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("slices"))
    with _bars(*columns, TimeRemainingColumn(), quiet=quiet) as bars:
        yield _StageBars(bars)


@contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show a spinner during a step that cannot say how far it is; it leaves no line behind."""
    with _bars(SpinnerColumn("line"), TextColumn("{task.description}"), quiet=quiet, transient=True) as bars:
        bars.add_task(what, total=None)
        yield


@contextmanager
def byte_bar(what: str, *, quiet: bool = False) -> Iterator[OnBytes]:
    """Yield a callable that draws the bytes done and the time left, from its first call on."""
    with ExitStack() as stack:
        tasks: list[tuple[Progress, TaskID]] = []

        def on_bytes(done: int, total: int) -> None:
            if not tasks:  # not before: a question may be asked first, which a moving bar would overwrite
                columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
                bars = stack.enter_context(_bars(*columns, TimeRemainingColumn(), quiet=quiet))
                tasks.append((bars, bars.add_task(what, total=total)))
            bars, task = tasks[0]
            bars.update(task, completed=done, total=total)

        yield on_bytes


@contextmanager
def case_bar(total: int, *, quiet: bool = False) -> Iterator[Callable[[bool], None]]:
    """Yield a callable that draws the cases done, their pace and the time left; False for one that took no work."""
    columns = (TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with _bars(*columns, TimeRemainingColumn(), quiet=quiet) as bars:
        task, start, worked = bars.add_task("cases", total=total, pace=""), time.monotonic(), 0

        def advance(took_work: bool) -> None:
            nonlocal worked
            worked += took_work
            hours = (time.monotonic() - start) / 3600.0
            bars.update(task, advance=1, pace=f"{worked / hours:.0f} cases/h" if worked and hours else "")

        yield advance


def _bars(*columns: ProgressColumn, quiet: bool = False, transient: bool = False) -> Progress:
    """Bars on stderr, for a person who watches: in a file or a pipe they would only be noise."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=transient, disable=quiet or not console.is_terminal)


def show_findings(findings: Sequence[Finding], *, is_2d: bool = False, dice: Mapping[str, float] | None = None) -> None:
    """Print ``findings_table`` on stdout, with the measures where the window has room for them, then ``reasons``."""
    console = Console()
    with_measures = console.width >= ROOM_FOR_MEASURES
    console.print(findings_table(findings, is_2d=is_2d, dice=dice, with_measures=with_measures))
    show_lines(reasons(findings))


def reasons(findings: Iterable[Finding]) -> list[str]:
    """Why a concept has no mask, a line each: a column for that would be a word wide in a window of 80 characters."""
    words = {"not_found": "was not found", "failed": "failed"}
    return [f"'{one.phrase}' {words[one.state]}. {one.reason}" for one in findings if one.reason]


def show_lines(lines: Iterable[str]) -> None:
    """Print lines on stdout as they stand: not cut at the window's width, and brackets are no markup."""
    for line in lines:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)


def model_notices(model: LoadedModel) -> list[str]:
    """What must be known beside every result of this model, one line each."""
    notices = [model.notice] if model.notice else []
    if model.is_demonstration and "demonstration" not in model.notice.lower():
        notices.insert(0, f"'{model.name}' is a demonstration model: its results show how this works, no more.")
    return [*notices, RESEARCH_NOTICE]


def findings_table(
    findings: Sequence[Finding],
    *,
    is_2d: bool = False,
    dice: Mapping[str, float] | None = None,
    with_measures: bool = False,
) -> Table:
    """Draw one row a finding, in the order asked.

    Args:
        findings: As in ``Segmentation.findings``.
        is_2d: Show pixels in place of millilitres and slices, which a photograph does not have.
        dice: Dice by phrase for a column of its own; a phrase that is not there, or NaN, is left blank.
        with_measures: Show also diameters, except of pictures, and intensity.
    """
    with_objects = any(finding.objects for finding in findings)
    headings = {
        "Presence": True,
        "Confidence": True,
        "Pixels" if is_2d else "Volume\n(ml)": True,
        "Slices": not is_2d,
        "Objects": with_objects,
        "Axial\n(mm)": with_measures and not is_2d,
        "Intensity": with_measures,
        "Dice": dice is not None,
    }
    table = Table("Concept")
    table.add_column("State", no_wrap=True)
    for heading, is_shown in headings.items():
        if is_shown:
            table.add_column(heading, justify="right", no_wrap=True)
    for finding in findings:
        table.add_row(*_cells(finding, is_2d, with_objects, with_measures, dice))
    return table


def _cells(
    finding: Finding, is_2d: bool, with_objects: bool, with_measures: bool, dice: Mapping[str, float] | None
) -> list[Text]:
    found = finding.state == "found"
    size = str(finding.voxels) if is_2d else f"{finding.volume_ml:.1f}"
    slices = "{}-{}".format(*finding.slice_range) if finding.slice_range else ""
    cells = [finding.phrase, finding.state.replace("_", " "), _number(finding.presence), _number(finding.confidence)]
    cells.append(size if found else "")
    if not is_2d:
        cells.append(slices)
    if with_objects:
        cells.append(str(finding.instances) if found else "")
    if with_measures:
        cells += _measures(finding.measures)[is_2d:]
    if dice is not None:
        cells.append(_number(dice.get(finding.phrase)))
    # Text, not str: a phrase is shown as it was typed, also where it holds rich's markup.
    texts = [Text(cell) for cell in cells]
    texts[1].stylize(_STATE_STYLES[finding.state])
    return texts


def _measures(measures: Measures | None) -> tuple[str, str]:
    """Axial diameters, and mean and standard deviation of the intensity, which colours do not have."""
    if measures is None:
        return "", ""
    diameters = f"{measures.axial_long_mm:.0f} x {measures.axial_short_mm:.0f}"
    if measures.intensity_mean is None:
        return diameters, ""
    return diameters, f"{measures.intensity_mean:.4g} ± {measures.intensity_sd:.3g}"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.2f}"
