"""``medsam3 doctor``: the examination of this machine, or what a run on it would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from MedicalSAM3Lib import cli_options as options
from MedicalSAM3Lib.cli_segment import Source
from MedicalSAM3Lib.errors import RunError, SettingsError

if TYPE_CHECKING:
    from MedicalSAM3Lib.config import SegmentSettings
    from MedicalSAM3Lib.estimate import Estimate

VolumePath = Annotated[
    Path | None,
    typer.Option("--volume", metavar="INPUT", help="Predict time and memory of a run on this image, before it."),
]
AskedConcepts = Annotated[
    list[str] | None,
    typer.Option("--concept", "-c", metavar="TEXT", help="What that run will ask for. Repeat it for more concepts."),
]


def doctor(
    context: typer.Context,
    volume: VolumePath = None,
    concept: AskedConcepts = None,
    model: options.ModelName = "auto",
    device: options.Device = "auto",
    speed: options.Speed = "balanced",
    axis: options.Axis = "auto",
    mode: options.Mode = "auto",
    slices: options.Slices = None,
    roi: options.Roi = None,
    overlap: options.Overlap = "exclusive",
    memory_budget: options.MemoryBudget = None,
    series: options.Series = None,
    frame: options.Frame = None,
) -> None:
    """Show versions, devices, memory and models, and what would run where.

    With --volume and -c: what that run will take on this machine, from a few slices of it. Exit code 3 when something
    keeps it from working.
    """
    if volume is None:
        _refuse_what_needs_a_volume(context)
        from MedicalSAM3Lib.doctor import examine, show

        raise typer.Exit(show(examine()))
    from MedicalSAM3Lib.config import make_settings

    settings = make_settings(
        device=device,
        speed=speed,
        axis=axis,
        mode=mode,
        slices=options.parse_numbers("slices", slices, ":", "A:B"),
        roi=options.parse_numbers("roi", roi, ",", "I0,I1,J0,J1,K0,K1"),
        overlap=overlap,
        memory_budget_gb=memory_budget,
    )
    raise typer.Exit(show_estimate(predict(Source(volume, series, frame), concept or [], model, settings)))


def _refuse_what_needs_a_volume(context: typer.Context) -> None:
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise SettingsError(f"{name}: expected --volume INPUT beside it, got none; name the image of the run.")


def predict(source: Source, concepts: Sequence[str], model: str, settings: SegmentSettings) -> Estimate:
    """Read, load, estimate.

    Raises:
        MedicalSAM3Error: As the run itself would; see ``errors``.
    """
    from MedicalSAM3Lib import cli_show, files, registry
    from MedicalSAM3Lib.interpret import check_concepts

    check_concepts(concepts)
    registry.resolve(model)
    with cli_show.waiting("Reading the image"):
        volume = files.read_volume(source.path, series=source.series, frame=source.frame)
    from MedicalSAM3Lib.estimate import estimate  # torch: only once all else is known to be good

    with cli_show.waiting("Loading the model"):
        loaded = registry.load_model(model, device=settings.device, speed=settings.speed)
    with cli_show.waiting("Trying a few slices"):
        return estimate(volume, concepts, loaded, settings)


def show_estimate(estimate: Estimate) -> int:
    """Print the estimate and the verdict on stdout; return 0, or 3 when the run would not go through."""
    table = Table("What", "Predicted")
    for name, value in estimate_rows(estimate):
        table.add_row(Text(name), Text(value))
    Console().print(table)
    print(verdict(estimate))
    return RunError.exit_code if estimate.problem else 0


def estimate_rows(estimate: Estimate) -> list[tuple[str, str]]:
    """Name and value of each line."""
    one = estimate
    rows = [
        ("slices", f"{one.slices}, {one.batch} at once"),
        ("concepts", f"{one.concepts}, in about {one.open_share:.0%} of slices each"),
        ("runs", f"on {one.device} in {one.dtype}"),
        *((f"time, {stage}", f"{seconds:.1f} s") for stage, seconds in one.stage_seconds.items()),
        ("time", f"{one.seconds:.1f} s; {one.most_seconds:.1f} s if every concept is on every slice"),
    ]
    if one.host_peak_mb is not None:
        rows.append(("memory at its peak", _size(one.host_peak_mb)))
    if one.device_peak_mb is not None:
        rows.append((f"memory of {one.device}", _size(one.device_peak_mb)))
    rows.append(("memory beyond now", f"{_size(one.host_more_mb)}, {_size(one.host_free_mb)} are free"))
    rows.append(
        ("features", f"{_size(1e3 * one.features_gb)}, {1 - one.in_memory_share:.0%} of them in a temporary file")
    )
    return rows


def verdict(estimate: Estimate) -> str:
    """One line: whether it fits, and how."""
    if estimate.problem:
        return f"The run {estimate.problem}."
    on_disk = 1 - estimate.in_memory_share
    if on_disk > 0:
        return f"The run fits; it will use the temporary file for {on_disk:.0%} of the features."
    return "The run fits."


def _size(megabytes: float) -> str:
    return f"{megabytes / 1e3:.2f} GB" if megabytes >= 1e3 else f"{megabytes:.0f} MB"
