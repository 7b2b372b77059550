"""Segments into a segmentation node, by their phrase and never by their position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import slicer
import vtk

from .outcome import Outcome

PHRASE_TAG = "MedicalSAM3.Phrase"
"""Segment tag that the library writes: the concept as it was typed."""


def segmentsByPhrase(segmentation: slicer.vtkSegmentation) -> dict[str, list[str]]:
    """Phrase to segment IDs, of the segments that this project wrote: one for a concept, or one for each object."""
    found: dict[str, list[str]] = {}
    for segmentId in segmentation.GetSegmentIDs():
        phrase = vtk.reference("")
        if segmentation.GetSegment(segmentId).GetTag(PHRASE_TAG, phrase):
            found.setdefault(str(phrase), []).append(segmentId)
    return found


def addSegments(
    target: slicer.vtkMRMLSegmentationNode, source: slicer.vtkMRMLSegmentationNode, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """Copy the mask of each found concept, or of each of its objects, into a new segment of ``target``.

    All other segments stay as they are.

    Returns:
        The outcomes; one that was to be found but has no mask in ``source``, or fewer than it has objects, is "failed".
    """
    byPhrase = segmentsByPhrase(source.GetSegmentation())
    checked = []
    for outcome in outcomes:
        if outcome.state == "found":
            segmentIds = byPhrase.get(outcome.phrase, [])
            copied = sum(_copySegment(target, source, segmentId) for segmentId in segmentIds)
            if copied == 0:
                outcome = replace(outcome, state="failed", reason="the result holds no mask for it")
            elif copied < outcome.objects:
                reason = f"the result holds only {copied} of its {outcome.objects} objects"
                outcome = replace(outcome, state="failed", reason=reason)
        checked.append(outcome)
    return checked


def _copySegment(
    target: slicer.vtkMRMLSegmentationNode, source: slicer.vtkMRMLSegmentationNode, segmentId: str
) -> bool:
    mask = slicer.vtkOrientedImageData()
    source.GetBinaryLabelmapRepresentation(segmentId, mask)
    # An empty labelmap is imported without complaint and without effect: look before adding anything.
    if mask.IsEmpty() or mask.GetScalarRange()[1] == 0:
        return False
    original = source.GetSegmentation().GetSegment(segmentId)
    newId = target.GetSegmentation().AddEmptySegment("", original.GetName(), original.GetColor())
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetBinaryLabelmapToSegment(mask, target, newId, logic.MODE_REPLACE)
    segment = target.GetSegmentation().GetSegment(newId)
    for tag in (PHRASE_TAG, segment.GetTerminologyEntryTagName()):
        value = vtk.reference("")
        if original.GetTag(tag, value):
            segment.SetTag(tag, str(value))
    return True
