"""The one settings type. CLI flags, server requests, the Slicer panel and batch hashes are this."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.faults import fault_line

WINDOW_PRESETS_HU: dict[str, tuple[float, float]] = {
    "soft": (-160.0, 240.0),
    "lung": (-1350.0, 150.0),
    "bone": (-450.0, 1050.0),
}
"""Lower and upper end in Hounsfield units; level/width: soft 40/400, lung -600/1500, bone 300/1500."""


DEVICE_PATTERN = r"^(auto|cpu|mps|cuda(:\d+)?)$"


class SegmentSettings(BaseModel):
    """How to segment. Frozen, validated on construction, saved with every result."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    device: str = Field(default="auto", pattern=DEVICE_PATTERN)
    """Where to compute: "auto", "cpu", "mps", "cuda" or "cuda:N"."""
    speed: Literal["fast", "balanced", "exact"] = "balanced"
    """How exactly: "exact" computes in fp32; "balanced" in bf16 where the device is faster with it; "fast" also
    looks only at every k-th slice where they are closer than 3 mm (``thick``)."""
    window: str = "auto"
    """Intensities that the model sees: "auto" (the model's own), a preset of ``WINDOW_PRESETS_HU``, or "LO,HI"."""
    axis: Literal["auto", "0", "1", "2", "all"] = "auto"
    """Slices across 0 = left-right (sagittal), 1 = front-back (coronal), 2 = head-foot (axial) of the patient;
    "auto" lets the model and the volume's spacing decide; "all" looks along all three, and the views vote."""
    slices: tuple[int, int] | None = None
    """Half-open range of slices along the axis, in the input's own numbering; with "all" along the axis that "auto"
    would choose."""
    roi: tuple[int, int, int, int, int, int] | None = None
    """Half-open voxel box ``(i0, i1, j0, j1, k0, k1)`` of the input; outside nothing is found."""
    rule: Literal["union", "top1"] = "union"
    """What makes the mask of a slice: "union" of confident instances and the semantic map, or the paper's "top1"."""
    mode: Literal["auto", "detect", "track", "fuse"] = "auto"
    """What links slices: "detect" (every slice by itself), "track" (objects carried through the volume), "fuse"
    (both merged), or "auto": the one that the model's folder names, because it was the best on held-out data."""
    overlap: Literal["exclusive", "keep", "nested"] = "exclusive"
    """Who has a voxel: "exclusive" gives a voxel to its most confident concept, "keep" lets masks overlap, "nested"
    lets a concept overlap with its parts and wholes in the vocabulary and compete with all others."""
    instances: bool = False
    """Keep the objects of a concept apart as segments of their own."""
    verbatim: bool = False
    """Ask with the words as they were typed, and take the answer as it is: no phrase is brought into the words that the
    model was trained on, and "left" and "right" are not held to the patient's sides."""
    confidence_map: bool = False
    """Keep the confidence of every voxel beside the masks."""
    presence_threshold: float | None = Field(default=None, ge=0.0, le=1.0)
    """Overrides the model's calibrated threshold (0..1)."""
    memory_budget_gb: float | None = Field(default=None, gt=0.0)
    """Memory for the features of a volume in 10^9 bytes, None = from the machine; what exceeds it lies in a
    temporary file. Changes no result."""

    @field_validator("device", mode="before")
    @classmethod
    def _device_is_readable(cls, device: object) -> object:
        """The pattern is for the schema; a person is told in words."""
        if isinstance(device, str) and not re.search(DEVICE_PATTERN, device):
            raise ValueError(f"expected auto, cpu, mps, cuda or cuda:N, got {device!r}")
        return device

    @field_validator("window")
    @classmethod
    def _window_is_known(cls, window: str) -> str:
        if window == "auto" or window in WINDOW_PRESETS_HU:
            return window
        try:
            low, high = (float(end) for end in window.split(","))
        except ValueError:
            low, high = 0.0, 0.0
        if not low < high < float("inf") or low == float("-inf"):
            presets = ", ".join(["auto", *WINDOW_PRESETS_HU])
            raise ValueError(f"expected {presets} or LO,HI with LO < HI, got '{window}'")
        return window

    @field_validator("slices")
    @classmethod
    def _range_is_not_empty(cls, slices: tuple[int, int] | None) -> tuple[int, int] | None:
        if slices is not None and not 0 <= slices[0] < slices[1]:
            raise ValueError(f"expected A:B with 0 <= A < B, got {slices[0]}:{slices[1]}")
        return slices

    @field_validator("roi")
    @classmethod
    def _box_is_not_empty(cls, roi: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if roi is not None and not all(0 <= low < high for low, high in zip(roi[::2], roi[1::2], strict=True)):
            raise ValueError(f"expected i0,i1,j0,j1,k0,k1 with 0 <= start < end, got {roi}")
        return roi

    def digest(self) -> str:
        """SHA-256 over all settings that change the result; equal settings give equal digests."""
        return hashlib.sha256(self.model_dump_json(exclude={"device", "memory_budget_gb"}).encode()).hexdigest()


def make_settings(**values: object) -> SegmentSettings:
    """Build settings; a wrong value raises ``SettingsError`` with one readable line."""
    try:
        return SegmentSettings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(fault_line(error.errors()[0], "settings")) from error
