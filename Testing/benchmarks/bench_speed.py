"""``--speed``: what each choice takes, and what it costs in Dice, on one volume."""

from __future__ import annotations

from collections.abc import Iterator

from MedicalSAM3Lib.runtime import pick_runtime
from Testing.benchmarks.measuring import in_fresh_process
from Testing.benchmarks.sides import measure
from Testing.benchmarks.tables import Table, format_name, number, ratio
from Testing.benchmarks.worlds import MISSING, CaseName, Options, load_case

SPEEDS = ("fast", "balanced", "exact")
COLUMNS = ("Speed", "Format", "Time (s)", "Of exact", "Mean Dice")


def run(options: Options) -> Iterator[Table]:
    """One table; on the bundled CT where the larger volume is not there."""
    name: CaseName = "trained"
    notes: tuple[str, ...] = ()
    case = load_case(name)
    if case is None:
        name, notes, case = "sample", (MISSING,), load_case("sample")
    every = [options.settings(speed=speed) for speed in SPEEDS]
    measured = [in_fresh_process(measure, "ours", options.model, name, settings) for settings in every]
    rows = tuple(
        (
            settings.speed,
            format_name(pick_runtime(settings).dtype),
            number(one.seconds),
            ratio(one.seconds, measured[-1].seconds),
            number(one.dice, 3),
        )
        for settings, one in zip(every, measured, strict=True)
    )
    yield Table(f"--speed on {case.title if case else name}, mode detect", COLUMNS, rows, notes)
