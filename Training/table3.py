"""The paper's Table 3 with our columns beside its own"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from MedicalSAM3Lib.resources import ResourceError, resource
from Training.bootstrap import Interval, PairedTest, clustered_mean, paired_test
from Training.case_rows import CaseRow
from Training.metrics import mean_of

HEADER = ["dataset", "title", "part", "dice_sam3", "dice_ours", "iou_sam3", "iou_ours"]


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A line of Table 3 in per cent; ``dataset`` is its name in ``Resources/datasets``."""

    dataset: str
    title: str
    part: str
    dice_sam3: float
    dice_ours: float
    iou_sam3: float
    iou_ours: float


@dataclass(frozen=True, slots=True)
class TableRow:
    """A data set: what the paper has of it, and what was measured here (per cent), each None where there is nothing."""

    dataset: str
    title: str
    part: str
    paper: PaperRow | None
    dice: Interval | None
    iou: Interval | None
    baseline_dice: Interval | None
    baseline_iou: Interval | None
    test: PairedTest | None


def paper_rows() -> list[PaperRow]:
    """The 17 data sets of Table 3.

    Raises:
        ResourceError: The file is missing or damaged.
    """
    path = resource("paper_table3.csv")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != HEADER:
            raise ResourceError(f"{path.name}: expected the columns {', '.join(HEADER)}, got {reader.fieldnames}.")
        texts = list(reader)
    return [PaperRow(**{k: v if k in HEADER[:3] else float(v) for k, v in line.items()}) for line in texts]  # type: ignore[arg-type]


def table(rows: Sequence[CaseRow], seed: int) -> list[TableRow]:
    """Table 3: the paper's data sets, then others that were measured.

    Args:
        rows: Of the paper's protocol.
        seed: Of the intervals.
    """
    known = {row.dataset: row for row in paper_rows()}
    others = sorted({row.dataset for row in rows} - set(known))
    lines = [_line(row.dataset, row.title, row.part, row, rows, seed) for row in known.values()]
    return lines + [_line(name, name, "not in the paper", None, rows, seed) for name in others]


def scored(rows: Sequence[CaseRow], role: str) -> list[CaseRow]:
    """Rows that the paper's means are over: what is present, in its own words."""
    return [row for row in rows if row.role == role and row.is_present and row.kind == "canonical"]


def _line(dataset: str, title: str, part: str, paper: PaperRow | None, rows: Sequence[CaseRow], seed: int) -> TableRow:
    here = [row for row in rows if row.dataset == dataset]
    ours, baseline = scored(here, "ours"), scored(here, "baseline")
    return TableRow(
        dataset, title, part, paper,
        dice=percent(ours, "dice", seed), iou=percent(ours, "iou", seed),
        baseline_dice=percent(baseline, "dice", seed), baseline_iou=percent(baseline, "iou", seed),
        test=compare(ours, baseline, seed) if baseline else None,
    )  # fmt: skip


def percent(rows: Sequence[CaseRow], metric: str, seed: int) -> Interval | None:
    """Mean of a metric in per cent, by patient; None without rows."""
    values = [100.0 * getattr(row, metric) for row in rows]
    return clustered_mean(values, [row.patient for row in rows], seed) if rows else None


def compare(ours: Sequence[CaseRow], baseline: Sequence[CaseRow], seed: int, metric: str = "dice") -> PairedTest:
    """The paired test of a metric in per cent, on the questions that both were asked."""
    theirs = {(row.case, row.concept): row for row in baseline}
    pairs = [(row, theirs[row.case, row.concept]) for row in ours if (row.case, row.concept) in theirs]
    mine = [100.0 * getattr(row, metric) for row, _ in pairs]
    other = [100.0 * getattr(row, metric) for _, row in pairs]
    return paired_test(mine, other, [row.patient for row, _ in pairs], seed)


def by_part(lines: Sequence[TableRow]) -> dict[str, list[TableRow]]:
    """The lines under their part, in their order."""
    parts: dict[str, list[TableRow]] = {}
    for line in lines:
        parts.setdefault(line.part, []).append(line)
    return parts


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over the data sets of a part, each counting the same (per cent).

    Attributes:
        paper: By column of the paper's; NaN of a part that the paper has not.
        here: By column of ours, over the sets that were measured; NaN without any.
        measured, sets: How many these are, of how many.
    """

    paper: dict[str, float]
    here: dict[str, float]
    measured: int
    sets: int


def average(lines: Sequence[TableRow]) -> Average:
    """The line "Avg." under a part of Table 3."""
    measured = [line for line in lines if line.dice]
    columns = "dice", "iou", "baseline_dice", "baseline_iou"
    return Average(
        paper={name: mean_of(getattr(line.paper, name) for line in lines if line.paper).value for name in HEADER[3:]},
        here={name: mean_of(one.mean for line in measured if (one := getattr(line, name))).value for name in columns},
        measured=len(measured),
        sets=len(lines),
    )


def to_csv(lines: Sequence[TableRow]) -> str:
    """The table for machines: the paper's columns, then ours; empty where there is nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEADER, "n", "patients", "dice_here", "dice_low", "dice_high", "iou_here",
                     "dice_baseline_here", "iou_baseline_here", "dice_difference", "p"])  # fmt: skip
    for line in lines:
        paper = [getattr(line.paper, name) if line.paper else "" for name in HEADER[3:]]
        dice = line.dice
        ours = [dice.count, dice.patients, _text(dice.mean), _text(dice.low), _text(dice.high)] if dice else [""] * 5
        means = [_text(one.mean) if one else "" for one in (line.iou, line.baseline_dice, line.baseline_iou)]
        test = [_text(line.test.difference.mean), _text(line.test.p, 4)] if line.test else ["", ""]
        writer.writerow([line.dataset, line.title, line.part, *paper, *ours, *means, *test])
    return text.getvalue()


def _text(value: float, digits: int = 1) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
