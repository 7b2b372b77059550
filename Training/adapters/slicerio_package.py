"""One chest CT with ribs, spine and lungs from the ``slicerio`` wheel (MIT; 3D Slicer's sample CTChest)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Training.adapters.labelled import LabelledVolume, held_out_slabs
from Training.adapters.totalsegmentator_package import NOT_IN_A_THORAX

PACKAGE = "slicerio"
VERSION = "1.4.0"
SHA256 = "ae3432ee06386bfe3b2e8d2d07940411fcbaefab8ed89a3853ee9c5ac19e296b"
LICENCE = "MIT"

_LABELS = {
    "rib": (1,),
    "vertebra": (2, 3, 4),
    "right_lung": (5,),
    "left_lung": (6,),
    "lung": (5, 6),
}


def volumes(root: Path) -> list[LabelledVolume]:
    """The chest CT, from the unpacked wheel."""
    folder = root / "slicerio" / "data"
    image = sitk.ReadImage(str(folder / "CTChest4.nrrd"))
    labels = sitk.Resample(
        sitk.ReadImage(str(folder / "Segmentation.seg.nrrd")), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0
    )
    array = sitk.GetArrayFromImage(labels)
    count = image.GetSize()[2]
    return [
        LabelledVolume(
            dataset=PACKAGE, volume_id="chest-ct-e", patient="e", modality="CT", licence=LICENCE, image=image,
            masks_kji={concept: np.isin(array, numbers) for concept, numbers in _LABELS.items()},
            known_slices=(0, count - 1), absent=NOT_IN_A_THORAX,
            splits=held_out_slabs(count, period=17, slab=2),
        )
    ]  # fmt: skip
