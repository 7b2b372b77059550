"""What a model's card and its notice say of the run: the demonstration's own words, or true ones for any other run"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from Training.adapters import slicerio_package, totalsegmentator_package
from Training.config import TrainConfig
from Training.manifest import Manifest

HeldOut = Literal["test", "val"]

DEMO_DATASETS = {slicerio_package.PACKAGE, totalsegmentator_package.PACKAGE}

_TITLE = "# Demonstration model of MedicalSAM3"

_DEMO = f"""{_TITLE}

**Not for any medical use.** This small network shows that the software works. It was trained on a handful of
volumes, it will be wrong on other people's images, and it must not inform any decision about a patient.

SAM3's architecture at small sizes (classes of `transformers`, Apache-2.0), trained from nothing by the recipes in
`Training/recipes`; no weights of another model went into it. Licence: Apache-2.0.
It answers on axial slices of CT and MR of the trunk, and only for the concepts listed below.
"""

_OTHER = """# Model trained with MedicalSAM3

**For research only, not a medical device.** {trained}; a person who can judge them must check all results.
It was examined as told below and in no other way. {origin}
The terms of the data sets below may bind whoever uses or passes on what was learned from them.
"""

_MEASURED = """## How the numbers were made

Dice between the shipped pipeline (`medsam3 segment`, default settings) and the reference, over the voxels of all
slices of a set."""

_DEMO_METHOD = f"""{_MEASURED} **The references are pseudo-labels**: the output of another program (TotalSegmentator, and 3D Slicer's
sample segmentation for the chest), not drawn by a person. Held-out slices lie in slabs of the training volumes that
no training step saw, with a margin on both sides; they are of *the same people*. The unseen patient is another
person on another scanner, and chose nothing: no size, no epoch, no threshold. A concept that is missed counts 0.
"""  # noqa: E501

_HELD_OUT: dict[HeldOut, str] = {
    "test": "Held-out slices are those of the split 'test': no training step saw them and they chose nothing.",
    "val": "**There is no split 'test'.** Held-out slices are those of the split 'val', which also chose the\n"
    "checkpoint and calibrated presence: expect less of other images.",
}

_UNSEEN = {
    True: "The unseen patient is a whole volume of the split 'unseen', and chose nothing either.",
    False: "**Not examined: an unseen patient.** The manifest has no split 'unseen', so nothing is known about other\n"
    "people's images and other scanners.",
}

_NUMBERS = dict(enumerate(["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]))


def is_demonstration(config: TrainConfig, manifest: Manifest) -> bool:
    """Whether the network, or the model that it started from, began from nothing and saw the demo's data alone."""
    card = Path(config.model.start_from) / "README.md"
    began_small = not config.model.start_from or (
        card.is_file() and card.read_text(encoding="utf-8").startswith(_TITLE)
    )
    return began_small and {row.dataset for row in manifest.rows} <= DEMO_DATASETS


def notice_of(config: TrainConfig, manifest: Manifest) -> str:
    """The sentence that is shown beside every result."""
    if is_demonstration(config, manifest):
        return f"Demonstration model, {_seen(manifest, 'volume')}: not for any medical use."
    return f"{_trained(config, manifest)}: for research only."


def head_of(config: TrainConfig, manifest: Manifest) -> str:
    """The beginning of the card."""
    if is_demonstration(config, manifest):
        return _DEMO
    started = config.model.start_from
    origin = (
        f"The licence of {Path(started).name}, from which it started, goes on to hold."
        if started
        else "It has SAM3's architecture (classes of `transformers`, Apache-2.0), and no weights of another model."
    )
    return _OTHER.format(trained=_trained(config, manifest), origin=origin)


def method_of(config: TrainConfig, manifest: Manifest, held_out: HeldOut, *, unseen: bool) -> str:
    """How the numbers of the card were made, and what was not examined."""
    if is_demonstration(config, manifest) and unseen and held_out == "test":
        return _DEMO_METHOD
    parts = _MEASURED, _HELD_OUT[held_out], _UNSEEN[unseen], "A concept that is missed counts 0."
    return "\n".join(parts) + "\n"


def _trained(config: TrainConfig, manifest: Manifest) -> str:
    how = f"Fine-tuned from {Path(config.model.start_from).name}" if config.model.start_from else "From nothing"
    sets = len({row.dataset for row in manifest.rows if row.split == "train"})
    return f"{how}, {_seen(manifest, 'image')} of {_count(sets, 'data set')}"


def _seen(manifest: Manifest, unit: str) -> str:
    return f"trained on {_count(len({row.volume_id for row in manifest.rows if row.split == 'train'}), unit)}"


def _count(number: int, unit: str) -> str:
    return f"{_NUMBERS.get(number, f'{number:,}')} {unit}{'' if number == 1 else 's'}"
