"""The pixels of an enhanced DICOM object, each frame rescaled by its own slope and intercept.

Through pydicom: SimpleITK gives all frames the slope and intercept of one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.dicom_headers import group_value
from MedicalSAM3Lib.errors import InputError


def read_frames(path: Path, frames: Sequence[int]) -> Iterator[np.ndarray]:
    """float32 ``(J, I[, 3])`` of each frame asked for, 0-based, in the order asked; colours as RGB, 0..255.

    Raises:
        InputError: The pixels are missing, damaged, or compressed in a way that no installed package knows.
    """
    import pydicom
    from pydicom.pixels import iter_pixels

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = pydicom.dcmread(path)
            for frame, stored in zip(frames, iter_pixels(data, indices=list(frames)), strict=True):
                yield _rescaled(data, stored, frame)
        # Decoders raise what they like, and quote the file.
        except Exception:
            raise InputError(
                "Expected complete frames, got some that are truncated, damaged or compressed in an unknown way (a "
                "DICOM file); copy or export it again, or add decoders: pip install 'medical-sam3[dicom]'."
            ) from None


def _rescaled(data: Any, stored: np.ndarray, frame: int) -> np.ndarray:
    """Values of a frame; MONOCHROME1 with bright as high, as in files of one image."""
    values = stored.astype(np.float32)
    if values.ndim == 3:
        return values * np.float32(255.0 / (2 ** int(data.BitsStored) - 1))
    if data.PhotometricInterpretation == "MONOCHROME1":
        bits = int(data.BitsStored)
        lowest = -(2 ** (bits - 1)) if data.PixelRepresentation else 0
        values = 2 * lowest + 2**bits - 1 - values
    groups, shared = data.PerFrameFunctionalGroupsSequence[frame], data.SharedFunctionalGroupsSequence[0]
    slope, intercept = (
        group_value(groups, shared, "PixelValueTransformationSequence", name)
        for name in ("RescaleSlope", "RescaleIntercept")
    )
    return values * np.float32(1.0 if slope is None else slope) + np.float32(intercept or 0.0)
