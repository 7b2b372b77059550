"""Whether a run can start, and if so what its engine is asked and what is done with the masks. Asks no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slicer.i18n import tr as _

from .change import isInScene
from .engine_work import Question
from .grid import checkGrid
from .options import AGAIN, OVERLAPS, RunOptions
from .phrases import checkedConcepts
from .placing import Rules
from .region import readRoi
from .segmentation_node import segmentationOf
from .task import UserError
from .volume_input import ijkToRas, toWorld, whyNotVolume


def checkRun(
    volume: Any, concepts: Sequence[str] | str, segmentation: Any, options: RunOptions
) -> tuple[Question, Rules]:
    """What the engine is to be asked, and what is done with its masks.

    Raises:
        UserError: A run could not start.
    """
    if reason := whyNotVolume(volume):
        raise UserError(reason)
    if not isInScene(volume):
        raise UserError(_("Choose a volume of this scene; '{name}' was removed.").format(name=volume.GetName()))
    phrases = checkedConcepts(concepts)
    if options.overlap not in OVERLAPS or options.again not in AGAIN:
        raise UserError(_("Choose one of the offered ways to treat overlaps and repeated concepts."))
    ijkToWorld = toWorld(volume) @ ijkToRas(volume)
    roi = readRoi(options.roiNode)
    target = segmentation or segmentationOf(volume)
    if target is not None:
        checkGrid(target, volume)
    _checkInside(target, options)
    settings = {"overlap": "exclusive" if options.overlap == "exclusive" else "keep", **options.settings}
    if roi is not None:
        settings["roi"] = roi.voxelBox(ijkToWorld, volume.GetImageData().GetDimensions()[::-1])
    if options.slices is not None:
        settings["slices"] = tuple(options.slices)
    if options.instances:
        settings["instances"] = True
    rules = Rules(options.overlap, options.insideSegmentId, roi, options.again)
    return Question(tuple(phrases), settings, options.model), rules


def plainQuestion(phrases: Sequence[str], options: RunOptions) -> dict[str, Any]:
    """What is asked of every volume of a batch, as plain values for a file.

    Raises:
        UserError: The ROI cannot be used.
    """
    roi = readRoi(options.roiNode)
    return {
        "concepts": list(phrases),
        "model": options.model,
        "settings": dict(options.settings),
        "modality": options.modality,
        "overlap": options.overlap,
        "inside": options.insideSegmentId if options.overlap == "inside" else "",
        "roi": None if roi is None else [*roi.worldToBox.ravel().round(6).tolist(), *roi.halfMm.round(6).tolist()],
        "slices": None if options.slices is None else list(options.slices),
        "instances": options.instances,
    }


def _checkInside(target: Any, options: RunOptions) -> None:
    """Check that there is something to stay inside of."""
    if options.overlap != "inside":
        return
    segmentId = options.insideSegmentId
    if not segmentId and options.roiNode is None:
        raise UserError(_("Choose the segment or the ROI that the results are to stay inside of."))
    if segmentId and (target is None or target.GetSegmentation().GetSegment(segmentId) is None):
        raise UserError(_("The segment that the results are to stay inside of is not in the chosen segmentation."))
