"""Small worlds for the tests of geometry and files: affines, volumes, segmentations, DICOM slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from MedicalSAM3Lib.structures import Codes, Finding, ObjectPart, Segmentation, Volume

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def rotation(seed: int) -> np.ndarray:
    """A random orthonormal 3x3 matrix; left-handed for about half of the seeds."""
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes


def affine(axes: np.ndarray, spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """Voxel index to LPS from axes (columns), spacing and origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes * spacing
    matrix[:3, 3] = origin
    return matrix


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Oblique, flipped, left-handed and anisotropic affines."""
    spacing = draw(st.tuples(*[st.floats(0.2, 8.0)] * 3))
    origin = draw(st.tuples(*[st.floats(-500.0, 500.0)] * 3))
    return affine(rotation(draw(st.integers(0, 10_000))), spacing, origin)


shapes_kji = st.tuples(*[st.integers(1, 6)] * 3)


def counting(shape: tuple[int, ...]) -> np.ndarray:
    """An array in which no two voxels are alike, so that no mix-up goes unseen."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def segmentation_of(volume: Volume, *, overlap: bool = False) -> Segmentation:
    """Two findings with masks, in one layer or, overlapping, in two; and one that was not found."""
    first = np.zeros(volume.shape_kji, np.uint16)
    first.reshape(-1)[: max(1, first.size // 2)] = 1
    second = np.zeros_like(first)
    second.reshape(-1)[first.size // 3 : first.size // 2 + 1] = 1
    layers: tuple[np.ndarray, ...] = (first, second)
    if not overlap:
        layers = (np.where(second > 0, 2, first).astype(np.uint16),)
    codes = Codes("SCT^123037004^Anatomical Structure", "SCT^64033007^Kidney", "SCT^7771000^Left")
    findings = (
        Finding("liver", "found", "liver", presence=0.9, confidence=0.8, colour=(221, 130, 101), layer=0, label=1),
        Finding("left kidney", "found", colour=(185, 102, 83), codes=codes, layer=int(overlap), label=2 - int(overlap)),
        Finding("spleen", "not_found", presence=0.1, reason="absent"),
    )
    return Segmentation(layers, volume.ijk_to_lps, findings)


def objects_of(volume: Volume, *, overlap: bool = False) -> Segmentation:
    """Four ribs that were kept apart and a spine in one piece, in one layer or, overlapping, in two; 40 voxels."""
    layer = np.zeros(volume.shape_kji, np.uint16)
    layer.reshape(-1)[:20] = np.repeat((1, 2, 3, 4), 5)
    spine = np.zeros_like(layer)
    spine.reshape(-1)[18 if overlap else 20 : 40] = 5
    layers = (layer, spine) if overlap else (layer + spine,)
    parts = tuple(ObjectPart(label, 5, 0.05, (0, 0), 0.5 + label / 10) for label in (1, 2, 3, 4))
    codes = Codes("SCT^123037004^Anatomical Structure", "SCT^113197003^Rib")
    whole = (ObjectPart(5, int((spine == 5).sum()), 0.2, (0, 1), 0.9),)
    findings = (
        Finding("rib", "found", "rib", "", 0.9, 0.75, 20, 0.2, (0, 0), instances=4, colour=(200, 120, 60), codes=codes,
                layer=0, label=1, objects=parts),
        Finding("spine", "found", layer=int(overlap), label=5, instances=1, objects=whole),
        Finding("liver", "not_found", reason="absent"),
    )  # fmt: skip
    return Segmentation(layers, volume.ijk_to_lps, findings)


def write_dicom(path: Path, pixels: np.ndarray, **values: Any) -> Path:
    """Write one CT slice of int16 ``(J, I)``, with header values replaced (or left out, where None)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    header: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "PatientName": "Secret^Name",
        "PatientID": "secret-id",
        "SeriesDescription": "secret description",
        "Modality": "CT",
        "SeriesNumber": 4,
        "InstanceNumber": 1,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "PixelSpacing": [0.5, 0.75],
        "SliceThickness": 2.0,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": [0, 0, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "PixelData": pixels.tobytes(),
        **values,
    }
    for name, value in header.items():
        if value is not None:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, heights_mm: list[float], **values: Any) -> np.ndarray:
    """Write a series with a slice at each height, under names in random order; ``(K, J, I)`` by height."""
    folder.mkdir(exist_ok=True, parents=True)
    names = np.random.default_rng(0).permutation(len(heights_mm))
    stack = counting((len(heights_mm), 3, 4)).astype(np.int16)
    for number, (height, pixels) in enumerate(zip(heights_mm, stack, strict=True)):
        position = {"ImagePositionPatient": [0, 0, height], "InstanceNumber": int(names[number])}
        write_dicom(folder / f"{values.get('SeriesNumber', 4)}-{names[number]}", pixels, **{**position, **values})
    return stack[np.argsort(heights_mm)]
