"""What the rows of an evaluation say, in numbers: means with intervals, presence, words, objects"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from Training.bootstrap import Interval, clustered_mean
from Training.calibration import expected_calibration_error
from Training.case_rows import CaseRow
from Training.metrics import presence_counts
from Training.robustness import KINDS, READINGS
from Training.table3 import compare, scored

OVERLAP = ("dice", "iou", "nsd")


def of_protocol(rows: Sequence[CaseRow], protocol: str, role: str, seed: int) -> dict[str, Any]:
    """The headline numbers of a protocol and a model.

    The paper's means are over what is present. The deployment's count what was found although it is absent as 0. What
    is absent and was not found has no value in either, and is counted beside them.

    Returns:
        ``metrics`` {name: Interval} (in per cent, HD95 in mm), ``outcomes`` {outcome: count}, ``specificity``,
        ``sensitivity``, ``present``, ``absent``.
    """
    every = [row for row in rows if row.protocol == protocol and row.role == role and in_own_words(row)]
    counted = [row for row in every if row.is_present or protocol == "deployment"]
    metrics = {name: _mean(counted, name, seed, 100.0) for name in OVERLAP}
    metrics["hd95_mm"] = _mean(counted, "hd95_mm", seed)
    metrics |= {name: _mean(counted, name, seed, 100.0) for name in ("f1", "panoptic_quality")}
    # An answer that failed is right for nothing, and so no rejection of what is absent.
    found = [row.outcome == "overlap" if row.is_present else row.outcome != "both_empty" for row in every]
    counts = presence_counts(found, [row.is_present for row in every])
    return {
        "metrics": metrics,
        "outcomes": dict(Counter(row.outcome for row in every)),
        "specificity": 100.0 * counts.specificity,
        "sensitivity": 100.0 * counts.sensitivity,
        "present": counts.present,
        "absent": counts.absent,
    }


def in_own_words(row: CaseRow) -> bool:
    """Whether a row asks for a concept by its name, as users do."""
    return row.kind == "canonical" and row.reading == "vocabulary"


def by_concept(rows: Sequence[CaseRow], protocol: str, role: str, seed: int) -> list[dict[str, Any]]:
    """Means of each concept that is present somewhere, the best first."""
    here = [row for row in rows if row.protocol == protocol and row.role == role and in_own_words(row)]
    lines = []
    for concept in sorted({row.concept for row in here if row.is_present}):
        own = [row for row in here if row.concept == concept]
        present = [row for row in own if row.is_present]
        lines.append(
            {name: _mean(present, name, seed, 100.0) for name in OVERLAP}
            | {"concept": concept, "hd95_mm": _mean(present, "hd95_mm", seed)}
            | {"missed": sum(row.outcome in ("missed", "failed") for row in present)}
            | {"false_positives": sum(row.outcome == "false_positive" for row in own)}
            | {"absent": len(own) - len(present), "present": len(present)}
        )
    return sorted(lines, key=lambda line: -line["dice"].mean)


def presence_of(rows: Sequence[CaseRow], protocol: str, role: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Presence and truth of all questions in own words, and how many answers were no number."""
    here = [row for row in rows if row.protocol == protocol and row.role == role and in_own_words(row)]
    defined = [row for row in here if not np.isnan(row.presence)]
    presence = np.array([row.presence for row in defined], float)
    return presence, np.array([row.is_present for row in defined], bool), len(here) - len(defined)


def calibration_of(rows: Sequence[CaseRow], protocol: str, role: str) -> list[dict[str, Any]]:
    """Calibration error over ten bins: of all questions (``modality`` ""), and of each modality of several."""
    names = sorted({row.modality for row in rows})
    lines = []
    for name in ["", *(names if len(names) > 1 else ())]:
        own = [row for row in rows if name in ("", row.modality)]
        presence, is_present, _ = presence_of(own, protocol, role)
        if len(presence):
            error = expected_calibration_error(presence, is_present)
            lines.append({"protocol": protocol, "modality": name, "count": len(presence), "ece": error})
    return lines


def in_words(rows: Sequence[CaseRow], role: str, seed: int) -> list[dict[str, Any]]:
    """For each kind of phrase and each reading: Dice, and the loss against the name on the same questions."""
    here = [row for row in rows if row.role == role and row.protocol == "deployment" and row.is_present]
    lines = []
    for kind in ("canonical", *KINDS):
        for reading in READINGS:
            own = [row for row in here if (row.kind, row.reading) == (kind, reading)]
            named = [row for row in here if in_own_words(row)]
            if own:
                lines.append(
                    {"kind": kind, "reading": reading, "count": len(own), "dice": _mean(own, "dice", seed, 100.0)}
                    | {"change": compare(own, named, seed).difference, "example": own[0].phrase}
                    | {"found": 100.0 * np.mean([row.outcome == "overlap" for row in own])}
                )
    return lines


def nonsense_rejected(rows: Sequence[CaseRow], role: str) -> tuple[int, int]:
    """How many words that are no anatomy were not found, of how many."""
    here = [row for row in rows if row.role == role and row.kind == "nonsense"]
    return sum(row.outcome == "both_empty" for row in here), len(here)


def against_baseline(rows: Sequence[CaseRow], protocol: str, seed: int) -> Any:
    """The paired test of Dice in a protocol; None without a baseline."""
    here = [row for row in rows if row.protocol == protocol and in_own_words(row)]
    baseline = scored(here, "baseline")
    return compare(scored(here, "ours"), baseline, seed) if baseline else None


def _mean(rows: Sequence[CaseRow], name: str, seed: int, factor: float = 1.0) -> Interval:
    return clustered_mean([factor * getattr(row, name) for row in rows], [row.patient for row in rows], seed)
