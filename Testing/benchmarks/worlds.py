"""What the benchmarks run on: volumes whose truth is known, noise where the truth does not matter, and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from MedicalSAM3Lib.architecture import Architecture, full_size
from MedicalSAM3Lib.config import SegmentSettings, make_settings
from MedicalSAM3Lib.demo import read_reference, sample_path
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import PresenceSpec
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.text import load_tokenizer
from Testing.lib.checkpoint_worlds import small_architecture

MANIFEST = Path("data/tiny/manifest.parquet")
TRAINED_VOLUME, TRAINED_SLICES = "abdomen-ct-a", 100
MISSING = f"The volume of {TRAINED_SLICES} slices is not there, its rows are left out; `make demo-data` fetches it."

CaseName = Literal["sample", "trained"]
Size = Literal["full", "small"]

CONCEPTS = (
    *("liver", "spleen", "left kidney", "right kidney", "stomach", "pancreas", "gallbladder", "aorta"),
    *("inferior vena cava", "portal vein", "duodenum", "left adrenal gland", "right adrenal gland", "vertebra"),
    *("left psoas muscle", "urinary bladder"),
)
"""What is asked where the answer does not matter."""

MOST_CONCEPTS = 8


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured: a model by name or path, where, in which format, which size stands for the full one, and for
    how many seconds a server is under load."""

    model: str = "tiny"
    device: str = "auto"
    speed: str = "balanced"
    size: Size = "full"
    seconds: float = 120.0

    def settings(self, **values: object) -> SegmentSettings:
        """Settings of a run; ``values`` win."""
        return make_settings(**{"device": self.device, "speed": self.speed, **values})


@dataclass(frozen=True, slots=True)
class Case:
    """A volume and the masks ``(K, J, I)`` of its largest structures, by phrase: chosen by size, not by success."""

    title: str
    volume: Volume
    masks_kji: Mapping[str, np.ndarray]

    @property
    def concepts(self) -> list[str]:
        """What to ask."""
        return list(self.masks_kji)


def load_case(name: CaseName) -> Case | None:
    """The bundled CT, or a volume like those that the bundled model learnt from; None where that is not there."""
    return _sample() if name == "sample" else _trained()


def noise(num_slices: int, side: int) -> Volume:
    """Noise in the range of soft tissue: what the slices show changes no cost while the gate is open."""
    array = np.random.default_rng(0).normal(50.0, 60.0, (num_slices, side, side)).astype(np.float32)
    return Volume(array, np.eye(4), modality="CT")


def repeated(volume: Volume, num_slices: int) -> Volume:
    """A volume of more slices, or fewer: up, down and up again, so that neighbours stay neighbours."""
    there_and_back = np.concatenate([volume.array, volume.array[::-1]])
    times = -(-num_slices // len(there_and_back))
    return replace(volume, array=np.concatenate([there_and_back] * times)[:num_slices])


def random_model(size: Size) -> LoadedModel:
    """SAM3 with its tracker and random weights: at its published size, or a few megabytes small."""
    architecture: Architecture = full_size() if size == "full" else small_architecture()
    torch.manual_seed(0)
    net = architecture.build()
    spec = PreprocessSpec(image_size=net.image_size)
    tokenizer = load_tokenizer(resource("tokenizer"))
    # Any hash will do for the feature cache: all runs of a process have these weights.
    return LoadedModel(net, tokenizer, spec, PresenceSpec(), size, "0" * 64, True, "", resource("models"))


def _sample() -> Case:
    volume = read_volume(sample_path())
    reference = read_reference(volume)
    masks = {phrase: reference.labels_kji == label for label, phrase in reference.phrases.items()}
    return Case(f"the bundled CT, {len(volume.array)} slices", volume, _largest(masks))


def _trained() -> Case | None:
    if not MANIFEST.is_file():
        return None
    from Training.manifest import read_manifest
    from Training.scoring import SIDES

    manifest = read_manifest(MANIFEST)
    rows = manifest.of_volume(TRAINED_VOLUME)
    volume = read_volume(manifest.path(rows[0].image))
    first = (len(volume.array) - TRAINED_SLICES) // 2
    part = slice(first, first + TRAINED_SLICES)
    origin = volume.ijk_to_lps.copy()
    origin[:3, 3] += first * origin[:3, 2]
    # A side and the whole organ would compete for the same voxels.
    paths = {row.phrase: row.mask for row in rows if row.mask and not row.concept.startswith(SIDES)}
    masks = {phrase: read_volume(manifest.path(path)).array[part] > 0.5 for phrase, path in paths.items()}
    title = f"a CT that the model learnt from, {TRAINED_SLICES} slices"
    return Case(title, replace(volume, array=volume.array[part], ijk_to_lps=origin), _largest(masks))


def _largest(masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    sizes = {phrase: int(mask.sum()) for phrase, mask in masks.items()}
    return {phrase: masks[phrase] for phrase in sorted(sizes, key=sizes.__getitem__, reverse=True)[:MOST_CONCEPTS]}
