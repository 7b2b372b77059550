"""The model card of a model that this project trains: what it saw, what it can do, what it must not be used for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.presence import Mode
from Training.card_words import HeldOut, head_of, method_of
from Training.cases import SIDES
from Training.checkpoints import Meta
from Training.config import TrainConfig
from Training.manifest import Manifest
from Training.modes import ModeScores, mode_numbers, mode_tables
from Training.scoring import LARGE, Scores

MOST_LINES = 20
"""With more volumes than this the table of the data has a line for each data set."""


def make_card(
    config: TrainConfig,
    meta: Meta,
    manifest: Manifest,
    *,
    held_out: Scores,
    unseen: Scores | None,
    modes: Mapping[Mode, ModeScores] | None = None,
    split: HeldOut = "test",
) -> tuple[str, dict[str, Any]]:
    """Markdown of the card, and the same numbers for machines.

    Args:
        config: Of the run.
        meta: Of the checkpoint that was taken.
        manifest: What it was trained on.
        held_out: Scores of the held-out slices.
        unseen: Scores of the unseen patient; None where there is none.
        modes: Scores of each mode; None of a model without a tracker.
        split: The split of the held-out slices.
    """
    method = method_of(config, manifest, split, unseen=unseen is not None)
    unseen = unseen or Scores()
    summary = {"held_out": _summary(held_out), "unseen": _summary(unseen)}
    numbers = summary if modes is None else {**summary, "modes": mode_numbers(modes)}
    parts = [
        head_of(config, manifest),
        _data_table(manifest),
        method,
        _summary_table(summary),
        _concept_table(held_out, unseen),
        "It has a detector and no tracker.\n" if modes is None else mode_tables(modes),
        _training(config, meta),
        *_earlier(config),
        *_changes(config),
    ]
    return "\n".join(parts), numbers


def _summary(scores: Scores) -> dict[str, Any]:
    large, count = scores.mean_dice(LARGE)
    every, every_count = scores.mean_dice(name for name in scores.overlaps if not name.startswith(SIDES))
    sided, sided_count = scores.mean_dice(name for name in scores.overlaps if name.startswith(SIDES))
    return {
        "dice_large": _known(large),
        "concepts_large": count,
        "dice_all": _known(every),
        "concepts_all": every_count,
        "dice_sided": _known(sided),
        "concepts_sided": sided_count,
        "absent_rejected": _known(scores.wrong.rate),
        "absent_asked": scores.wrong.asked,
        "nonsense_rejected": _known(scores.nonsense.rate),
        "nonsense_asked": scores.nonsense.asked,
        "dice": {name: round(overlap.dice, 4) for name, overlap in sorted(scores.overlaps.items())},
    }


_TRAINED, _STARTED = "Trained for ", "The run started from the weights of"


def _training(config: TrainConfig, meta: Meta) -> str:
    if not config.losses.detector:
        clips = config.data.clips
        return (
            f"{_TRAINED}{meta.step} steps of the tracker alone, beside a detector that stayed as it was "
            f"({clips.per_step * meta.world_size} clips of {clips.length} slices a step, up to {clips.objects} objects "
            f"each), seed {config.run.seed}.\n"
        )
    warm, slices = config.warm_start, config.data.batch_slices * meta.world_size
    before = f"{warm.steps} steps of dense warm start ({warm.batch_slices} slices a step) and " if warm.steps else ""
    return (
        f"{_TRAINED}{before}{meta.step} steps of the full objective ({slices} slices a step), seed {config.run.seed}.\n"
    )


def _earlier(config: TrainConfig) -> list[str]:
    """What the weights had been through before, in the words of the card of the model that the run started from."""
    if not config.model.start_from:
        return []
    card = Path(config.model.start_from) / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    told = " ".join(line for line in lines if line.startswith((_TRAINED, _STARTED)))
    return [f"{_STARTED} an earlier one. Of that: {told}\n" if told else f"{_STARTED} another model.\n"]


def _changes(config: TrainConfig) -> list[str]:
    """A run that was resumed under other settings is not what its recipe alone gives; say so."""
    if not config.run.allow_changed:
        return []
    names = ", ".join(f"`{name}`" for name in config.run.allow_changed)
    return [f"The run was interrupted and went on with other values of {names}; those in the recipe are the last.\n"]


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _data_table(manifest: Manifest) -> str:
    by_set = len(manifest.volume_ids()) > MOST_LINES
    slices: dict[str, dict[str, set[tuple[str, int, int]]]] = defaultdict(lambda: defaultdict(set))
    facts: dict[str, list[set[str]]] = defaultdict(lambda: [set(), set(), set()])
    for row in manifest.rows:
        name = row.dataset if by_set else row.volume_id
        slices[name][row.split].add((row.volume_id, row.axis, row.slice_index))
        for known, fact in zip(facts[name], (row.modality, row.dataset, row.licence), strict=True):
            known.add(fact)
    lines = [
        "## Data\n",
        f"| {'data set' if by_set else 'volume'} | kind | package | licence | training | validation | test | unseen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, splits in slices.items():
        counts = " | ".join(str(len(splits[split])) for split in ("train", "val", "test", "unseen"))
        lines.append(f"| {name} | {' | '.join(', '.join(sorted(known)) for known in facts[name])} | {counts} |")
    people = len({row.patient for row in manifest.rows})
    told = "one volume is one person" if people == len(manifest.volume_ids()) else f"they are of {people:,} people"
    return "\n".join(lines) + f"\n\nNumbers are slices; {told}.\n"


def _summary_table(summary: dict[str, Any]) -> str:
    rows = [
        ("mean Dice, large organs, muscles and bones", "dice_large", "concepts_large"),
        ("mean Dice, all concepts", "dice_all", "concepts_all"),
        ("mean Dice, one side of paired organs", "dice_sided", "concepts_sided"),
        ("absent organs not found", "absent_rejected", "absent_asked"),
        ("nonsense phrases not found", "nonsense_rejected", "nonsense_asked"),
    ]
    lines = ["| | held-out slices | unseen patient |", "|---|---|---|"]
    for title, value, count in rows:
        cells = [_share(summary[of][value], summary[of][count]) for of in ("held_out", "unseen")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return (
        "\n".join(lines)
        + "\n\nHeld-out questions are asked slice by slice, those to the unseen patient of the volume (mode `auto`).\n"
    )


def _share(value: float | None, count: int) -> str:
    return "-" if value is None else f"{value:.3f} (n={count})"


def _concept_table(held_out: Scores, unseen: Scores) -> str:
    lines = ["## Dice by concept\n", "| concept | held-out slices | unseen patient |", "|---|---|---|"]
    for name in sorted({*held_out.overlaps, *unseen.overlaps}):
        cells = [_cell(scores, name) for scores in (held_out, unseen)]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(scores: Scores, name: str) -> str:
    return f"{scores.overlaps[name].dice:.2f}" if name in scores.overlaps else ""
