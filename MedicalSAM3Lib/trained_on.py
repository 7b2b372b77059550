"""What a model was trained on, and what to tell where it is asked about anything else: it answers all the same."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

AXIS_NAMES = ("sagittal", "coronal", "axial")
PICTURES = ("GREY", "RGB")


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Kinds of images that training showed; empty where that is not recorded, as of imported weights.

    Attributes:
        modalities: DICOM codes, "GREY" or "RGB", as ``Volume.modality``.
        axes: Slices across these axes of the patient, as ``SliceStack.axis``.
    """

    modalities: tuple[str, ...] = ()
    axes: tuple[int, ...] = ()

    def notices(self, modality: str, axes: Collection[int], *, is_picture: bool) -> list[str]:
        """A sentence for each way in which an image is of a kind that training never showed.

        Args:
            modality: Of the image; "" where nobody knows, about which nothing can be told.
            axes: Along which its slices are looked at.
            is_picture: It has no slices, and so no axis.
        """
        told = []
        if self.modalities and modality and modality not in self.modalities:
            kind = "pictures" if modality in PICTURES else modality
            told.append(_never_saw(" and ".join(self.modalities), kind))
        strange = [axis for axis in axes if axis not in self.axes]
        if self.axes and strange and not is_picture:
            kind = " and ".join(AXIS_NAMES[axis] for axis in strange)
            told.append(_never_saw(" and ".join(AXIS_NAMES[axis] for axis in self.axes) + " slices", f"{kind} ones"))
        return told


def _never_saw(known: str, kind: str) -> str:
    return f"This model was trained on {known} and never saw {kind}: what it says of them may mean nothing."
