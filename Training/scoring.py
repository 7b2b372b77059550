"""What a finished model is worth: the shipped pipeline on slices and volumes that training never saw.

Nothing here looks into the network. A held-out slice is asked as a volume of one slice in its place, or with its
held-out neighbours as a volume of a few; the unseen patient is asked as a whole. A concept that is missed counts
Dice 0; one that is absent and not found has no Dice and is counted by ``Rejections``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.presence import Mode
from MedicalSAM3Lib.structures import Segmentation, Volume
from Training.cases import AXES, SIDES, groups_of, part_of, read_case, runs_of
from Training.manifest import Manifest, ManifestRow
from Training.phrases import PhraseBank

LARGE = (
    "liver", "spleen", "kidney", "stomach", "urinary_bladder", "colon", "aorta", "heart", "lung",
    "back_muscle", "psoas_muscle", "gluteal_muscle", "vertebra", "sacrum", "hip_bone", "femur",
)  # fmt: skip
"""Large organs, muscles and bones: the set over which the published mean is taken, fixed before training."""


@dataclass
class Overlap:
    """Voxels of one concept, summed over slices: prediction, reference and both."""

    predicted: int = 0
    reference: int = 0
    both: int = 0
    slices: int = 0

    def add(self, predicted: np.ndarray, reference: np.ndarray) -> None:
        """Count one more mask."""
        self.predicted += int(predicted.sum())
        self.reference += int(reference.sum())
        self.both += int((predicted & reference).sum())
        self.slices += 1

    @property
    def dice(self) -> float:
        """Dice over all voxels counted; NaN where the reference has none."""
        return 2 * self.both / (self.predicted + self.reference) if self.reference else float("nan")


@dataclass
class Rejections:
    """How often something that is not there was not found."""

    asked: int = 0
    rejected: int = 0

    def add(self, found: bool) -> None:
        """Count one more question."""
        self.asked += 1
        self.rejected += not found

    @property
    def rate(self) -> float:
        """Fraction not found; NaN if nothing was asked."""
        return self.rejected / self.asked if self.asked else float("nan")


@dataclass
class Scores:
    """Result of a split: Dice by concept, and what was turned down."""

    overlaps: dict[str, Overlap] = field(default_factory=lambda: defaultdict(Overlap))
    wrong: Rejections = field(default_factory=Rejections)
    nonsense: Rejections = field(default_factory=Rejections)

    def mean_dice(self, concepts: Iterable[str]) -> tuple[float, int]:
        """Mean over those of the concepts that have a reference, and how many these are."""
        values = [self.overlaps[name].dice for name in concepts if name in self.overlaps]
        values = [value for value in values if not np.isnan(value)]
        return (float(np.mean(values)) if values else float("nan")), len(values)


class Examiner:
    """Asks a model about the volumes of a manifest.

    Args:
        model: As ``load_model`` returns it.
        manifest: Rows of the split that is examined.
        nonsense: Phrases that no slice can answer, none of them used in training.
    """

    def __init__(self, model: LoadedModel, manifest: Manifest, nonsense: Sequence[str]) -> None:
        self._model = model
        self._manifest = manifest
        self._bank = PhraseBank(manifest.concepts())
        self._nonsense = tuple(nonsense)
        self._cache = FeatureCache()

    def slices(self, split: str) -> Scores:
        """Every slice of a split by itself."""
        return self._parts(split, "detect", lambda numbers: [(n, n + 1) for n in numbers])

    def runs(self, split: str, mode: Mode) -> Scores:
        """Every run of neighbouring slices of a split as a volume of its own."""
        return self._parts(split, mode, runs_of)

    def volume(self, volume_id: str, mode: Mode | None = None) -> Scores:
        """A whole volume at once, as a user asks it: in the model's own mode, unless another is named."""
        scores = Scores()
        rows = list(self._manifest.of_volume(volume_id))
        volume, masks = self._read(rows)
        self._ask(scores, volume, masks, rows, SegmentSettings(mode=mode or "auto"))
        return scores

    def _parts(self, split: str, mode: Mode, cut: Callable[[Sequence[int]], list[tuple[int, int]]]) -> Scores:
        """Ask about half-open ranges of the slices of a split; ``cut`` makes them of sorted numbers."""
        scores = Scores()
        for volume_id in self._manifest.volume_ids():
            rows = [row for row in self._manifest.of_volume(volume_id) if row.split == split]
            if not rows:
                continue
            volume, masks = self._read(rows)
            for axis in sorted({row.axis for row in rows}):
                along = [row for row in rows if row.axis == axis]
                for start, stop in cut(sorted({row.slice_index for row in along})):
                    inside = [row for row in along if start <= row.slice_index < stop]
                    settings = SegmentSettings(slices=(start, stop), axis=AXES[axis], mode=mode)
                    self._ask(scores, volume, masks, inside, settings)
        return scores

    def _ask(
        self,
        scores: Scores,
        volume: Volume,
        masks: dict[str, np.ndarray],
        rows: list[ManifestRow],
        settings: SegmentSettings,
    ) -> None:
        present = {row.concept for row in rows if row.label_state == "present"}
        unknown = {row.concept for row in rows if row.label_state == "unknown"}
        known = {row.concept for row in rows} - unknown
        chosen = part_of(volume, settings.slices, 0 if settings.axis == "auto" else int(settings.axis))
        for group in groups_of(sorted(known)):
            asked_nonsense = self._nonsense if not group[0].startswith(SIDES) else ()
            result = segment(
                volume,
                [*(self._bank.name(c) for c in group), *asked_nonsense],
                self._model,
                settings,
                cache=self._cache,
            )
            for concept, finding in zip(group, result.findings, strict=False):
                if concept in present:
                    predicted = result.mask_kji(finding)[chosen]
                    scores.overlaps[concept].add(predicted, masks[concept][chosen])
                else:
                    scores.wrong.add(finding.state == "found")
            self._count_nonsense(scores, result, len(group))

    @staticmethod
    def _count_nonsense(scores: Scores, result: Segmentation, first: int) -> None:
        for finding in result.findings[first:]:
            scores.nonsense.add(finding.state == "found")

    def _read(self, rows: list[ManifestRow]) -> tuple[Volume, dict[str, np.ndarray]]:
        volume, labels = read_case(self._manifest, rows)
        return volume, {concept: numbers > 0 for concept, numbers in labels.items()}
