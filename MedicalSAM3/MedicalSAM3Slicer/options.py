"""What a person chooses for a run, and how the engine is reached. Plain values: needs no Slicer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OVERLAPS = ("exclusive", "keep", "inside")
AGAIN = ("replace", "add")
KINDS = ("local", "remote")
DEVICES = ("", "cpu", "cuda:0", "cuda:1", "cuda:2", "cuda:3")
"""Where the local engine can be told to compute; "" is its choice. Which GPUs there are only the engine knows."""

MODES = ("auto", "detect", "track", "fuse")
SPEEDS = ("balanced", "fast", "exact")
"""Fields ``mode`` and ``speed`` of ``SegmentSettings``; the first is the default of the panel."""


@dataclass(frozen=True)
class RunOptions:
    """How to segment, and what to do with the masks.

    Attributes:
        settings: Fields of ``SegmentSettings`` as plain values, such as {"speed": "fast"}. Region, slices, overlap and
            instances come from the fields below.
        model: Name of an installed model, or "auto".
        modality: DICOM code; "" = what the scene knows of the volume.
        overlap: Who has a voxel. "exclusive": one segment; voxels of segments that are there stay theirs. "keep": all
            that want it. "inside": as "keep", and only voxels inside ``insideSegmentId`` or ``roiNode``.
        insideSegmentId: ID of a segment of the segmentation that gets the results.
        roiNode: A markups ROI (vtkMRMLMarkupsROINode): only inside it is looked, and nothing is kept outside.
        slices: Half-open range of slices in the volume's own numbering, None = all.
        again: A concept that is there already: "replace" it, or "add" a further segment.
        instances: A segment for each object of a concept.
        freeMemory: Let the engine forget the features of the volume after the run.
        show3D: Make surfaces of the segmentation after the run; that takes seconds.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str = "auto"
    modality: str = ""
    overlap: str = "exclusive"
    insideSegmentId: str = ""
    roiNode: Any = None
    slices: tuple[int, int] | None = None
    again: str = "replace"
    instances: bool = False
    freeMemory: bool = False
    show3D: bool = False


@dataclass(frozen=True)
class EngineSettings:
    """Which engine does the work.

    Attributes:
        kind: "local" (a server that the module starts on this computer) or "remote".
        url, token, certificate: Of the remote server; the certificate is a file (PEM), "" = the system's.
        python: Program of the Python that the local server runs in; "" = Slicer's own.
        model: Model that the local server keeps loaded; "" = its default.
        device: Where the local server computes: one of ``DEVICES``.
    """

    kind: str = "local"
    url: str = ""
    token: str = field(default="", repr=False)
    certificate: str = ""
    python: str = ""
    model: str = ""
    device: str = ""
