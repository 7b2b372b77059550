"""Coded terminology of a concept, as DICOM and Slicer write it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Codes:
    """Coded terminology of a concept, each ``scheme^value^meaning`` or empty when unknown."""

    category: str = ""
    type: str = ""
    modifier: str = ""
