"""Write the report of an evaluation: one HTML file that needs nothing else, the table, and the numbers"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MedicalSAM3Lib.atomic import replacing
from MedicalSAM3Lib.resources import resource
from Training import evaluation_summary as summary
from Training.bootstrap import Interval
from Training.case_rows import CaseRow
from Training.panels import choose_panels, panel_of
from Training.protocols import PROTOCOLS
from Training.report_charts import COLOURS, as_data, draw_panel, draw_radar, draw_reliability
from Training.table3 import TableRow, average, by_part, table, to_csv

if TYPE_CHECKING:
    from Training.evaluate import Options, Scorer

FEWEST_SPOKES, MOST_SPOKES = 3, 18
METRICS = {"dice": "Dice", "iou": "IoU"}
"""Of the radar charts."""

FEW_PATIENTS = 10
"""With fewer, an interval of means of drawn patients is too narrow, and the report says so."""


def write_report(
    out: Path, rows: Sequence[CaseRow], facts: Mapping[str, Any], scorers: Mapping[str, Scorer], options: Options
) -> dict[str, Any]:
    """Write ``report.html`` and ``table3.csv``; returns the numbers.

    Args:
        out: A folder.
        rows: All of them.
        facts: What was evaluated, for the end of the report.
        scorers: By role; asked again for what the panels show.
        options: Of the evaluation.

    Raises:
        OutputError: The folder cannot be written to.
    """
    seed, roles = options.seed, list(scorers)
    names = [protocol.name for protocol in PROTOCOLS if any(row.protocol == protocol.name for row in rows)]
    main = names[-1]
    lines = table([row for row in rows if row.protocol == "paper"], seed)
    numbers = _numbers(rows, names, roles, seed)
    presence = {role: summary.presence_of(rows, main, role) for role in roles}
    asked = [row for row in rows if (row.role, row.protocol) == ("baseline", main) and summary.in_own_words(row)]
    theirs = {(row.case, row.concept): row for row in asked}
    panels = [(what, panel_of(row, theirs.get((row.case, row.concept)), scorers, options))
              for what, row in choose_panels(rows, main)]  # fmt: skip
    pictures = {
        "radars": [as_data(figure, vector=True) for figure in radars(lines, rows, names, roles, seed)],
        "reliability": [
            as_data(draw_reliability(given, truth, f"Presence, {_who(role)}", COLOURS[role]), vector=True)
            for role, (given, truth, _) in presence.items()
        ],
        "panels": [
            {"what": what, "title": panel.title, "picture": as_data(draw_panel(panel), vector=False)}
            for what, panel in panels
        ],
    }
    html = _render(
        numbers=numbers, parts=[(part, own, average(own)) for part, own in by_part(lines).items()], pictures=pictures,
        facts=facts, roles=roles, protocols=[p for p in PROTOCOLS if p.name in names], main=main, options=options,
        few=FEW_PATIENTS,
    )  # fmt: skip
    with replacing(out / "report.html", out / "table3.csv") as (report, csv):
        report.write_text(html, encoding="utf-8")
        csv.write_text(to_csv(lines), encoding="utf-8")
    return _plain({**facts, **numbers})


def _numbers(rows: Sequence[CaseRow], names: Sequence[str], roles: Sequence[str], seed: int) -> dict[str, Any]:
    """Everything that the report says, by protocol and role; presence by the last protocol."""
    return {
        "protocols": {name: {role: summary.of_protocol(rows, name, role, seed) for role in roles} for name in names},
        "tests": {name: summary.against_baseline(rows, name, seed) for name in names},
        "concepts": {name: summary.by_concept(rows, name, "ours", seed) for name in names},
        "baseline_dice": {name: _dice_of(summary.by_concept(rows, name, "baseline", seed)) for name in names},
        "words": {role: summary.in_words(rows, role, seed) for role in ("ours", "baseline")},
        "nonsense": {role: summary.nonsense_rejected(rows, role) for role in roles},
        "calibration": {role: [one for name in names for one in summary.calibration_of(rows, name, role)]
                        for role in roles},
        "no_number": {role: summary.presence_of(rows, names[-1], role)[2] for role in roles},
        "patients": len({row.patient for row in rows}),
        "cases": {name: len({row.case for row in rows if row.protocol == name}) for name in names},
        "questions": len(rows),
    }  # fmt: skip


def _render(**content: Any) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    filters = {"number": number, "interval": interval, "who": _who, "p": p_value, "words": _words, "signed": signed}
    environment.filters |= filters
    return environment.from_string(resource("evaluation_report.html").read_text(encoding="utf-8")).render(**content)


def number(value: float | None, digits: int = 1) -> str:
    """A number, or a dash where there is none."""
    return "\N{EN DASH}" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference with its sign, a dash where there is none; what rounds to nothing has no sign."""
    if math.isnan(value):
        return number(value)
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def interval(one: Interval | None, digits: int = 1) -> str:
    """The 95 % interval in brackets, nothing where there is none."""
    if one is None or math.isnan(one.low):
        return ""
    low, high = (round(end, digits) + 0.0 for end in (one.low, one.high))  # + 0.0 takes the sign off a zero
    return f"{low:.{digits}f} to {high:.{digits}f}"


def p_value(p: float) -> str:
    """A probability, never as 0."""
    return "\N{EN DASH}" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _who(role: str) -> str:
    return {"ours": "this model", "baseline": "baseline"}[role]


def _words(name: str) -> str:
    return name.replace("_", " ")


def radars(
    lines: Sequence[TableRow], rows: Sequence[CaseRow], names: Sequence[str], roles: Sequence[str], seed: int
) -> list[Any]:
    """Figure 3, Dice and IoU: the data sets of each part, all of them if no part has three, else the concepts."""
    measured = [line for line in lines if line.dice]
    parts = {part: own for part, own in by_part(measured).items() if len(own) >= FEWEST_SPOKES}
    if not parts and len(measured) >= FEWEST_SPOKES:
        parts = {"all data sets": measured}
    charts = []
    for title, own in parts.items():
        for metric, name in METRICS.items():
            labels = [line.title for line in own]
            charts.append(draw_radar(labels, _series_of_sets(own, metric, roles), f"{name} (%), {title}"))
    if charts:
        return charts
    concepts = summary.by_concept(rows, names[0], "ours", seed)
    commonest = sorted(concepts, key=lambda line: (-line["present"], line["concept"]))[:MOST_SPOKES]
    chosen = sorted(line["concept"] for line in commonest)
    if len(chosen) < FEWEST_SPOKES:
        return []
    means = {role: {line["concept"]: line for line in summary.by_concept(rows, names[0], role, seed)} for role in roles}
    for metric, name in METRICS.items():
        series = {_who(role): (COLOURS[role], [means[role][one][metric].mean for one in chosen])
                  for role in reversed(roles)}  # fmt: skip
        charts.append(draw_radar([_words(one) for one in chosen], series, f"{name} (%), by concept"))
    return charts


def _series_of_sets(lines: Sequence[TableRow], metric: str, roles: Sequence[str]) -> dict[str, Any]:
    """Of each model its colour and values: the paper's two, where the paper has these sets, and those of this run."""
    series: dict[str, Any] = {}
    for key, who, colour in (("sam3", "SAM3, paper", "sam3"), ("ours", "Medical SAM3, paper", "paper")):
        values = [getattr(line.paper, f"{metric}_{key}") if line.paper else math.nan for line in lines]
        if not all(math.isnan(value) for value in values):
            series[who] = COLOURS[colour], values
    for role in reversed(roles):
        field = metric if role == "ours" else f"baseline_{metric}"
        series[_who(role)] = COLOURS[role], [_mean_of(getattr(line, field)) for line in lines]
    return series


def _dice_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Interval]:
    return {line["concept"]: line["dice"] for line in lines}


def _mean_of(one: Interval | None) -> float:
    return one.mean if one else math.nan


def _plain(value: Any) -> Any:
    """For JSON: dataclasses as dictionaries, NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return value
