"""Detect, track or fuse? The three modes beside each other, on volumes that training never saw.

Each run of neighbouring held-out slices is a volume of its own here: what lies around it was trained on, and an object
that is carried in from there would be carried in from the training set. The unseen patient is a volume as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.presence import Mode
from Training.cases import SIDES
from Training.manifest import Manifest
from Training.scoring import LARGE, Examiner, Scores

MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class ModeScores:
    """What a mode is worth on runs of held-out slices and on the unseen patient (nothing asked where there is none)."""

    held_out: Scores
    unseen: Scores

    @property
    def held_out_dice(self) -> float:
        """Mean Dice over all concepts of the held-out slices, a side of a paired organ not counted beside the organ."""
        return self.held_out.mean_dice(_whole(self.held_out))[0]


def compare_modes(
    model: LoadedModel, manifest: Manifest, unseen: str | None, split: str = "test"
) -> dict[Mode, ModeScores]:
    """Examine a model that has a tracker in every mode.

    Args:
        model: As users load it.
        manifest: With slices of the split.
        unseen: The volume of the unseen patient; None where there is none.
        split: Of the held-out slices.
    """
    examiner = Examiner(model, manifest, ())
    return {
        mode: ModeScores(examiner.runs(split, mode), examiner.volume(unseen, mode) if unseen else Scores())
        for mode in MODES
    }


def best_mode(scores: Mapping[Mode, ModeScores]) -> Mode:
    """Fuse, if its held-out Dice is at least that of both others, else the better of these; detect on a tie."""
    dice = {mode: scores[mode].held_out_dice for mode in MODES}
    if dice["fuse"] >= max(dice["detect"], dice["track"]):
        return "fuse"
    return "track" if dice["track"] > dice["detect"] else "detect"


def mode_tables(scores: Mapping[Mode, ModeScores]) -> str:
    """The comparison as Markdown: means first, then each concept."""
    columns = [(mode, of) for of in ("held_out", "unseen") for mode in MODES]
    every = [getattr(scores[mode], of) for mode, of in columns]
    lines = [
        "## Detect, track and fuse\n",
        "| | held-out: detect | track | fuse | unseen: detect | track | fuse |",
        "|---|---|---|---|---|---|---|",
        _row("mean Dice, large organs, muscles and bones", [_mean(one, LARGE) for one in every]),
        _row("mean Dice, all concepts", [_mean(one, _whole(one)) for one in every]),
        _row("absent organs not found", [_rejected(one) for one in every]),
    ]
    for name in sorted({name for one in every for name in one.overlaps}):
        cells = [f"{one.overlaps[name].dice:.2f}" if name in one.overlaps else "" for one in every]
        lines.append(_row(name.replace("_", " "), cells))
    return "\n".join(lines) + (
        "\n\nHeld-out: each run of neighbouring slices is asked as a volume of its own (2 to 5 slices), so that\n"
        "nothing is carried in from slices that were trained on. Unseen: the whole volume.\n"
        f"The mode `auto` of this model is **{best_mode(scores)}**: fuse only if its mean over all held-out concepts\n"
        "is at least that of both others.\n"
    )


def mode_numbers(scores: Mapping[Mode, ModeScores]) -> dict[str, Any]:
    """The same for machines."""
    return {
        mode: {
            name: {concept: round(one.dice, 4) for concept, one in sorted(of.overlaps.items())}
            for name, of in (("held_out", both.held_out), ("unseen", both.unseen))
        }
        for mode, both in scores.items()
    }


def _whole(scores: Scores) -> list[str]:
    return [name for name in scores.overlaps if not name.startswith(SIDES)]


def _mean(scores: Scores, concepts: tuple[str, ...] | list[str]) -> str:
    value, count = scores.mean_dice(concepts)
    return "-" if np.isnan(value) else f"{value:.3f} (n={count})"


def _rejected(scores: Scores) -> str:
    return f"{scores.wrong.rate:.3f} (n={scores.wrong.asked})" if scores.wrong.asked else "-"


def _row(title: str, cells: list[str]) -> str:
    return f"| {title} | {' | '.join(cells)} |"
