"""The segments of one case as a file ``.seg.nrrd``: taken from the scene at once, written in a thread.

Slicer's own writer works on the main thread and keeps it for a second; this is the writer of ``medsam3 batch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from slicer.i18n import tr as _

from MedicalSAM3Lib.layers import add_to_first_free
from MedicalSAM3Lib.seg_nrrd import SegmentLine, write_layers

from .grid import LABELMAP, Box, arrayOf, ijkToSegmentation, matrixOf, offset
from .placing import MODEL_TAG, PHRASE_TAG, SETTINGS_TAG
from .task import Progress, ThreadTask, UserError
from .volume_input import LPS_OF_RAS, ijkToRas

STATUS_TAG = "Segmentation.Status"


@dataclass(frozen=True)
class SegmentCopy:
    """A segment as it was in the scene.

    Attributes:
        name, colour, tags: As in the scene; the colour is RGB, 0..1; the code is among the tags.
        box: Half-open ``(k0, k1, j0, j1, i0, i1)`` in voxels of the volume.
        crop: Boolean, of the box's shape.
    """

    name: str
    colour: tuple[float, float, float]
    tags: dict[str, str]
    box: Box
    crop: np.ndarray


@dataclass(frozen=True)
class CaseCopy:
    """What is written of a case: the segments on the grid of its volume, as the volume's file has it."""

    shapeKji: tuple[int, int, int]
    ijkToLps: np.ndarray
    segments: tuple[SegmentCopy, ...]


class SaveTask(ThreadTask):
    """Writes a case; ``result`` is None.

    Args:
        case: What is written.
        write: Called in the thread with a function that writes the segmentation to a path; gives the files their
            names when that has returned.
        explain: Makes a sentence of what went wrong.
    """

    def __init__(
        self, case: CaseCopy, write: Callable[[Callable[[Path], None]], None], explain: Callable[[BaseException], str]
    ) -> None:
        super().__init__(self._save, explain)
        self._case, self._write = case, write

    def _save(self, task: ThreadTask) -> None:
        task.report(Progress(_("Saving the segmentation"), 1.0))

        def put(path: Path) -> None:
            writeCase(path, self._case)
            task.check()

        self._write(put)


def copyCase(volume: Any, segmentation: Any, segmentIds: Sequence[str]) -> CaseCopy:
    """What is written of a volume; of a segmentation only some segments. On the main thread: some milliseconds each.

    Raises:
        UserError: A segment is gone, or was moved off the volume's voxels.
    """
    segments = tuple(_copy(volume, segmentation, segmentId) for segmentId in segmentIds)
    shape = volume.GetImageData().GetDimensions()[::-1]
    return CaseCopy(shape, LPS_OF_RAS @ ijkToRas(volume), segments)


def writeCase(path: Path, case: CaseCopy) -> None:
    """Write a file that Slicer, and ``medsam3``, read as a segmentation. Of no segments it is valid, too.

    Raises:
        OSError: It cannot be written.
    """
    layers, places = _pack(case)
    lines = [
        SegmentLine(segment.name, segment.colour, *place, segment.tags)
        for segment, place in zip(case.segments, places, strict=True)
    ]
    write_layers(path, layers, case.ijkToLps, lines)


def _pack(case: CaseCopy) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Label maps, and of each segment its layer and label: segments that overlap lie in different layers."""
    whole = np.min_scalar_type(len(case.segments))
    layers, places = [np.zeros(case.shapeKji, whole)], []
    for label, segment in enumerate(case.segments, start=1):
        k0, k1, j0, j1, i0, i1 = segment.box
        box = slice(k0, k1), slice(j0, j1), slice(i0, i1)
        places.append((add_to_first_free(layers, box, segment.crop, label), label))
    return layers, places


def _copy(volume: Any, segmentation: Any, segmentId: str) -> SegmentCopy:
    segment = segmentation.GetSegmentation().GetSegment(segmentId)
    layer = segment.GetRepresentation(LABELMAP) if segment is not None else None
    shift = None if layer is None else offset(matrixOf(layer), ijkToSegmentation(volume, segmentation))
    if layer is None or shift is None:
        message = _("The segments of '{name}' were changed before they could be saved.")
        raise UserError(message.format(name=volume.GetName()))
    i0, i1, j0, j1, k0, k1 = layer.GetExtent()
    i, j, k = shift
    box = k0 - k, k1 + 1 - k, j0 - j, j1 + 1 - j, i0 - i, i1 + 1 - i
    crop = arrayOf(layer) == segment.GetLabelValue()
    return SegmentCopy(segment.GetName(), segment.GetColor(), _tags(segment), box, crop)


def _tags(segment: Any) -> dict[str, str]:
    tags = {}
    for name in (STATUS_TAG, PHRASE_TAG, MODEL_TAG, SETTINGS_TAG):
        value = vtk.reference("")
        if segment.GetTag(name, value):
            tags[name] = str(value)
    return {**tags, "TerminologyEntry": segment.GetTerminology()} if segment.GetTerminology() else tags
