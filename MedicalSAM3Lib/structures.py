"""The typed values that pass between the stages. NumPy only: importing this loads no torch.

Axes and frames, here and everywhere:

    kji     array order of a volume: slice, row, column (``array[k, j, i]``)
    ijk     the same indices in the order of SimpleITK and Slicer
    LPS     patient frame in mm: +x Left, +y Posterior, +z Superior (DICOM, ITK)
    N S     slices of a stack, side of the square model input in pixels
    P Q     concepts (phrases), object queries
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from MedicalSAM3Lib.codes import Codes

State = Literal["found", "not_found", "failed"]


@dataclass(frozen=True, slots=True)
class DicomFrame:
    """Where a slice lies on disk: a DICOM file, and which of its frames, 0-based (0 in a file of one image)."""

    path: Path
    frame: int = 0


@dataclass(frozen=True, slots=True)
class Volume:
    """An image in patient space. A 2D image is a volume of one slice.

    Attributes:
        array: float32 ``(K, J, I)``, or ``(K, J, I, 3)`` for colour (0..255). All values finite.
        ijk_to_lps: float64 ``(4, 4)``, voxel index (i, j, k, 1) to mm in LPS.
        modality: DICOM code ("CT", "MR", "PT", ...), "RGB" or "GREY" for photographs, "" if unknown.
        is_2d: True for a photograph, a pathology tile or a single frame.
        name: A name for messages and files, without anything that identifies a patient.
        is_tilted: Each slice lies shifted within its plane against the one before (a gantry tilt of CT). ``ijk_to_lps``
            leaves that out, so results are true to their own slices only, and are written as DICOM.
        dicom: The source of each slice k, where it was DICOM: what is written as DICOM refers to it. Else ().
    """

    array: np.ndarray
    ijk_to_lps: np.ndarray
    modality: str = ""
    is_2d: bool = False
    name: str = "volume"
    is_tilted: bool = False
    dicom: tuple[DicomFrame, ...] = field(default=(), repr=False)

    @property
    def shape_kji(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns, without the colour axis."""
        k, j, i = self.array.shape[:3]
        return int(k), int(j), int(i)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j and k, in mm."""
        i, j, k = np.linalg.norm(self.ijk_to_lps[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.ijk_to_lps[:3, :3]))) / 1000.0


@dataclass(frozen=True, slots=True)
class Measures:
    """What is measured of a mask; ``measures`` says how. Diameters of a picture are in its own pixels' mm.

    Attributes:
        axial_long_mm: Longest diameter on an axial slice, as for RECIST.
        axial_short_mm: Longest diameter at right angles to it on the same slice.
        axial_slice: That slice, 0-based, along the input's own axis that is closest to head-foot.
        largest_mm: Largest diameter in 3D; None for a picture.
        centroid_lps_mm: Mean of the voxels' centres.
        intensity_mean, intensity_sd: Mean and (population) standard deviation of the voxels in the input's units, HU
            for CT; None for colour.
    """

    axial_long_mm: float
    axial_short_mm: float
    axial_slice: int
    largest_mm: float | None
    centroid_lps_mm: tuple[float, float, float]
    intensity_mean: float | None
    intensity_sd: float | None


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """One object of a found concept, kept apart from the others.

    Attributes:
        label: Its own in ``Segmentation.layers``; it lies in the layer of its finding.
        voxels, volume_ml: Its size.
        slice_range: Its first and last slice, as in ``Finding``.
        confidence: Mean score (0..1) of its voxels.
        measures: Its diameters, place and intensity.
    """

    label: int
    voxels: int
    volume_ml: float
    slice_range: tuple[int, int]
    confidence: float
    measures: Measures | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one asked concept. There is exactly one for each, whatever happened.

    Attributes:
        phrase: The concept as it was typed.
        asked: The words that the model was asked with ("" before that is known).
        concept_id: Its id in ``Resources/concepts.csv``, or "" for free text.
        state: "found", "not_found" or "failed"; ``reason`` says why when it is not "found".
        presence: Calibrated probability (0..1) that the concept is in the volume; None if failed.
        confidence: Mean score (0..1) of the voxels of the mask; None unless found.
        voxels, volume_ml: Size of the final mask, 0 unless found.
        slice_range: First and last slice of the mask, 0-based, inclusive, along ``axis`` of the input.
        review_slices: Slices that a person should look at, in the input's own numbering.
        instances: Number of separate objects, 0 unless found: of ``objects`` where they were kept apart, else of
            connected parts.
        colour: RGB, 0..255.
        layer, label: Where the mask lies in ``Segmentation.layers``; (-1, 0) unless found. Where objects were
            kept apart, the label is that of the first; ``labels`` are those of all.
        objects: One for each object, from head to foot; empty unless they were to be kept apart.
        measures: Diameters, place and intensity of the whole mask; None unless found.
    """

    phrase: str
    state: State
    concept_id: str = ""
    reason: str = ""
    presence: float | None = None
    confidence: float | None = None
    voxels: int = 0
    volume_ml: float = 0.0
    slice_range: tuple[int, int] | None = None
    review_slices: tuple[int, ...] = ()
    instances: int = 0
    colour: tuple[int, int, int] = (128, 174, 128)
    codes: Codes = field(default_factory=Codes)
    layer: int = -1
    label: int = 0
    objects: tuple[ObjectPart, ...] = ()
    asked: str = ""
    measures: Measures | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """All labels of its mask."""
        return tuple(part.label for part in self.objects) or (self.label,)


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Masks on the grid of the input, and a finding per asked concept.

    Attributes:
        layers: uint16 label maps ``(K, J, I)``. One layer when concepts exclude each other;
            overlapping masks lie in further layers, as in a ``.seg.nrrd``.
        ijk_to_lps: The input's own, unchanged.
        findings: In the order in which the concepts were asked.
        confidence: float32 ``(K, J, I)``, 0..1: how sure the model is of each voxel's mask, 0 outside all masks
            (of masks that overlap, the surer one); None unless it was asked for.
    """

    layers: tuple[np.ndarray, ...]
    ijk_to_lps: np.ndarray
    findings: tuple[Finding, ...]
    confidence: np.ndarray | None = None

    def mask_kji(self, finding: Finding) -> np.ndarray:
        """Boolean mask ``(K, J, I)`` of one finding; all False unless it was found."""
        if finding.layer < 0:
            return np.zeros(self.layers[0].shape, dtype=bool)
        return mask_of(self.layers[finding.layer], finding.labels)

    def object_mask_kji(self, finding: Finding, number: int) -> np.ndarray:
        """Boolean mask ``(K, J, I)`` of one object of a finding; they are numbered from 1, as in their names.

        Raises:
            IndexError: The finding has no such object, or its objects were not kept apart.
        """
        if not 1 <= number <= len(finding.objects):
            raise IndexError(f"expected an object from 1 to {len(finding.objects)}, got {number}")
        return self.layers[finding.layer] == finding.objects[number - 1].label


def mask_of(layer: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Where a label map, or a slice of one, has any of some labels."""
    return layer == labels[0] if len(labels) == 1 else np.isin(layer, labels)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run has done so far: ``done`` of ``total`` slices of ``stage``."""

    stage: str
    done: int
    total: int


OnProgress = Callable[[Progress], None]
"""Called at least once a slice batch. To cancel the run it raises ``errors.Cancelled``."""
