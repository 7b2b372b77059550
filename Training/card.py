"""The model card of a model that this project trains: what it saw, what it can do, what it must not be used for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from MedicalSAM3Lib.presence import Mode
from Training.cases import SIDES
from Training.checkpoints import Meta
from Training.config import TrainConfig
from Training.manifest import Manifest
from Training.modes import ModeScores, mode_numbers, mode_tables
from Training.scoring import LARGE, Scores

_HEAD = """# Demonstration model of MedicalSAM3

**Not for any medical use.** This small network shows that the software works. It was trained on a handful of
volumes, it will be wrong on other people's images, and it must not inform any decision about a patient.

SAM3's architecture at small sizes (classes of `transformers`, Apache-2.0), trained from nothing by the recipes in
`Training/recipes`; no weights of another model went into it. Licence: Apache-2.0.
It answers on axial slices of CT and MR of the trunk, and only for the concepts listed below.
"""

_METHOD = """## How the numbers were made

Dice between the shipped pipeline (`medsam3 segment`, default settings) and the reference, over the voxels of all
slices of a set. **The references are pseudo-labels**: the output of another program (TotalSegmentator, and 3D Slicer's
sample segmentation for the chest), not drawn by a person. Held-out slices lie in slabs of the training volumes that
no training step saw, with a margin on both sides; they are of *the same people*. The unseen patient is another
person on another scanner, and chose nothing: no size, no epoch, no threshold. A concept that is missed counts 0.
"""


def make_card(
    config: TrainConfig,
    meta: Meta,
    manifest: Manifest,
    *,
    held_out: Scores,
    unseen: Scores,
    modes: Mapping[Mode, ModeScores] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Markdown of the card, and the same numbers for machines.

    Args:
        config: Of the run.
        meta: Of the checkpoint that was taken.
        manifest: What it was trained on.
        held_out: Scores of the test slices.
        unseen: Scores of the unseen patient.
        modes: Scores of each mode; None of a model without a tracker.
    """
    summary = {"held_out": _summary(held_out), "unseen": _summary(unseen)}
    numbers = summary if modes is None else {**summary, "modes": mode_numbers(modes)}
    parts = [
        _HEAD,
        _data_table(manifest),
        _METHOD,
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
    volumes: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    facts = {}
    for row in manifest.rows:
        volumes[row.volume_id][row.split].add(row.slice_index)
        facts[row.volume_id] = (row.modality, row.dataset, row.licence)
    lines = [
        "## Data\n",
        "| volume | kind | package | licence | training | validation | test | unseen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for volume_id, splits in volumes.items():
        counts = " | ".join(str(len(splits[name])) for name in ("train", "val", "test", "unseen"))
        lines.append(f"| {volume_id} | {' | '.join(facts[volume_id])} | {counts} |")
    return "\n".join(lines) + "\n\nNumbers are slices; one volume is one person.\n"


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
