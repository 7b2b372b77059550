"""What came of each concept, put into words. Needs no Slicer but for its translations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _


@dataclass(frozen=True)
class Outcome:
    """The answer to one asked concept.

    Attributes:
        phrase: As it was typed.
        state: "found", "not_found" or "failed".
        reason: Why, when it was not found.
        presence: Probability (0..1) that it is in the volume, None if unknown.
        confidence: Mean score (0..1) of the voxels of the mask, None unless found.
        volumeMl, voxels: Size of the segments as they were added; 0 unless found.
        objects: How many objects were kept apart; 0 when they were not.
        sliceRange: First and last slice of the mask, in the volume's own numbering; None unless found.
        reviewSlices: Slices that a person should look at, in the same numbering.
        axis: Axis (0 = i, 1 = j, 2 = k) of the volume along which slices are numbered; None if unknown.
        segmentIds: IDs of its segments; empty unless found.
        frame: Frame of a sequence, from 0; None elsewhere.
    """

    phrase: str
    state: str
    reason: str = ""
    presence: float | None = None
    confidence: float | None = None
    volumeMl: float = 0.0
    voxels: int = 0
    objects: int = 0
    sliceRange: tuple[int, int] | None = None
    reviewSlices: tuple[int, ...] = ()
    axis: int | None = None
    segmentIds: tuple[str, ...] = ()
    frame: int | None = None


def outcomeOf(finding: Mapping[str, Any], axis: int | None = None, frame: int | None = None) -> Outcome:
    """The outcome that a finding of the engine stands for."""
    span = finding.get("slice_range")
    return Outcome(
        phrase=finding["phrase"],
        state=finding["state"],
        reason=finding.get("reason") or "",
        presence=finding.get("presence"),
        confidence=finding.get("confidence"),
        volumeMl=float(finding.get("volume_ml") or 0.0),
        voxels=int(finding.get("voxels") or 0),
        objects=len(finding.get("objects") or ()),
        sliceRange=None if span is None else (int(span[0]), int(span[1])),
        reviewSlices=tuple(int(number) for number in finding.get("review_slices") or ()),
        axis=axis,
        frame=frame,
    )


def stateText(outcome: Outcome) -> str:
    """Its state in words: found, not found, failed."""
    return {"found": _("found"), "not_found": _("not found"), "failed": _("failed")}[outcome.state]


def describe(outcome: Outcome) -> str:
    """One line for the panel."""
    parts = [stateText(outcome)]
    if outcome.state == "found":
        if outcome.objects > 1:
            parts.append(_("{count} objects").format(count=outcome.objects))
        parts.append(_("{volume:.1f} ml").format(volume=outcome.volumeMl))
    if outcome.presence is not None:
        parts.append(_("presence {presence:.2f}").format(presence=outcome.presence))
    line = f"{outcome.phrase}: {', '.join(parts)}"
    return f"{line} ({outcome.reason})" if outcome.reason and outcome.state != "found" else line
