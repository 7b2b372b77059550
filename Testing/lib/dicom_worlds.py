"""Small worlds for the tests of DICOM results: a series at any place of a patient, with a known segmentation of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.structures import Codes, Finding, Segmentation, Volume
from Testing.lib.file_worlds import counting, write_dicom

SHAPE = (5, 8, 9)
"""A slice of whole bytes of bits: of others GDCM, in SimpleITK, drops the last bits of a BINARY object."""
SPACING_MM = (0.75, 0.5, 2.5)
"""Along a row, along a column, between slices."""

PATIENT = {
    "PatientName": "Müller^Jürgen",
    "PatientID": "secret-id",
    "PatientBirthDate": "19500102",
    "StudyDate": "20240506",
    "FrameOfReferenceUID": "1.2.3.9",
    "SpecificCharacterSet": "ISO_IR 100",
}


def series_at(
    folder: Path,
    axes: np.ndarray,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shape: tuple[int, int, int] = SHAPE,
    **values: Any,
) -> Volume:
    """Write a series of ``shape`` whose columns ``axes`` say where rows, columns and slices run to, and read it.

    Slices lie in files in random order. ``shift`` is what each slice lies off the one before, besides: a gantry tilt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(1).permutation(shape[0])
    for k, pixels in enumerate(counting(shape).astype(np.int16)):
        position = np.array((-31.5, 12.25, 107.0)) + k * (axes[:, 2] * SPACING_MM[2] + shift)
        place = {
            "ImageOrientationPatient": [f"{cosine:.9g}" for cosine in (*axes[:, 0], *axes[:, 1])],
            "ImagePositionPatient": [f"{mm:.9g}" for mm in position],
            "PixelSpacing": [SPACING_MM[1], SPACING_MM[0]],
        }
        write_dicom(folder / f"{names[k]}", pixels, **{**PATIENT, **place, "InstanceNumber": int(names[k]), **values})
    return read_volume(folder, on_notice=lambda line: None)


def ball_with_hole(shape: tuple[int, int, int]) -> np.ndarray:
    """A hollow body with an island in its hole, and a voxel that touches it by a corner: nothing of it is symmetric."""
    mask = np.zeros(shape, bool)
    mask[1:4, 1:6, 1:8] = True
    mask[1:3, 2:5, 2:7] = False
    mask[1:3, 3, 4] = True
    mask[1:4, 0, 0] = True
    mask[1, 5, 7] = False
    return mask


def known_segmentation(volume: Volume, *, overlap: bool = False) -> Segmentation:
    """A hollow liver, and a left kidney (in a layer of its own where they overlap) in a corner; a spleen not found."""
    liver = ball_with_hole(volume.shape_kji)
    kidney = np.zeros_like(liver)
    kidney[2:, 5:, 6:] = True
    if not overlap:
        kidney &= ~liver
    layers = (liver.astype(np.uint16), kidney.astype(np.uint16))
    if not overlap:
        layers = (np.where(kidney, 2, liver).astype(np.uint16),)
    codes = Codes("SCT^123037004^Anatomical Structure", "SCT^64033007^Kidney", "SCT^7771000^Left")
    findings = (
        Finding("Leberzyste 肝", "found", presence=0.9, confidence=0.8, voxels=int(liver.sum()), colour=(221, 130, 101),
                review_slices=(2, 4), layer=0, label=1),
        Finding("left kidney", "found", "left_kidney", presence=0.7, confidence=0.6, voxels=int(kidney.sum()),
                colour=(185, 102, 83), codes=codes, layer=int(overlap), label=2 - int(overlap)),
        Finding("spleen", "not_found", presence=0.1, reason="absent"),
    )  # fmt: skip
    return Segmentation(layers, volume.ijk_to_lps, findings)


def masks_of(segmentation: Segmentation) -> list[np.ndarray]:
    """Mask of each found concept, in order."""
    return [segmentation.mask_kji(finding) for finding in segmentation.findings if finding.state == "found"]
