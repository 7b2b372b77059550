"""Masks of an answer as segments of a segmentation node, in one step or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from MedicalSAM3Lib.words import normalise

from .change import Change
from .engine_work import Answer, MaskResult, Question
from .grid import LABELMAP, imageOf, occupied, trim
from .outcome import Outcome, outcomeOf
from .region import RoiBox
from .terminology import termOf

PHRASE_TAG, MODEL_TAG, SETTINGS_TAG = "MedicalSAM3.Phrase", "MedicalSAM3.Model", "MedicalSAM3.Settings"
"""Tags of a segment: the concept as it was typed, which model found it, how it was asked."""


@dataclass(frozen=True)
class Rules:
    """What of the masks is kept: see ``RunOptions``."""

    overlap: str = "exclusive"
    insideSegmentId: str = ""
    roi: RoiBox | None = None
    again: str = "replace"


@dataclass(frozen=True)
class Place:
    """Where masks go. ``node`` is None where a new segmentation is made for them.

    Attributes:
        node: The segmentation node.
        ijkToFrame: ``(4, 4)``, voxel index of the volume to mm in the frame of the segmentation.
        ijkToWorld: The same to mm in the world.
    """

    node: Any
    ijkToFrame: np.ndarray
    ijkToWorld: np.ndarray


@dataclass(frozen=True)
class Piece:
    """A segment to be: its mask, after the rules, as an image, and how many voxels it has."""

    mask: MaskResult
    image: Any
    voxels: int


def cut(answer: Answer, question: Question, place: Place, rules: Rules) -> list[Piece]:
    """What the rules leave of the masks; what they leave nothing of is missing."""
    keepOut = _blockers(answer, question, place, rules)
    pieces = []
    for mask in answer.masks:
        kept = _kept(mask, keepOut, place, rules)
        if kept is None:
            pieces.append(Piece(mask, imageOf(mask.crop, mask.box, place.ijkToFrame), mask.voxels))
        elif (trimmed := trim(kept, mask.box)) is not None:
            crop, box = trimmed
            pieces.append(Piece(mask, imageOf(crop, box, place.ijkToFrame), int(np.count_nonzero(crop))))
    return pieces


def _kept(mask: MaskResult, keepOut: Sequence[str], place: Place, rules: Rules) -> np.ndarray | None:
    """The voxels of a mask's box that the rules leave it; None where they leave it whole, as they mostly do."""
    crop = mask.crop
    if keepOut and (taken := occupied(place.node, keepOut, mask.box, place.ijkToFrame)).any():
        crop = crop & ~taken
    if rules.overlap == "inside" and rules.insideSegmentId:
        crop = crop & occupied(place.node, [rules.insideSegmentId], mask.box, place.ijkToFrame)
    if rules.roi is not None:
        crop = crop & rules.roi.holds(mask.box, place.ijkToWorld)
    return None if crop is mask.crop else crop


def put(
    change: Change, pieces: Sequence[Piece], answer: Answer, question: Question, rules: Rules
) -> dict[int, list[str]]:
    """Add the pieces to ``change.node``; IDs of the new segments by place of their concept.

    A failure in the middle takes back what was added.
    """
    added: dict[int, list[str]] = {}
    try:
        for finding in dict.fromkeys(piece.mask.finding for piece in pieces):
            ours = [piece for piece in pieces if piece.mask.finding == finding]
            old = segmentsOf(change.node, question.concepts[finding]) if change.node else []
            added[finding] = (
                _replaceAll(change, old, ours, answer, question)
                if old and rules.again == "replace"
                else [_addOne(change, piece, answer, question, bool(old)) for piece in ours]
            )
    except BaseException:
        change.revert()
        raise
    return added


def outcomesOf(
    answer: Answer, question: Question, pieces: Sequence[Piece], added: Mapping[int, Sequence[str]], voxelMl: float
) -> tuple[Outcome, ...]:
    """One outcome for each concept: the engine's finding, with the size of what was added."""
    outcomes = []
    for number, finding in enumerate(answer.findings):
        outcome, ours = outcomeOf(finding, answer.axis), [piece for piece in pieces if piece.mask.finding == number]
        if outcome.state == "found" and not ours:
            reason = _("All its voxels belong to other segments, or lie outside what was chosen.")
            outcome = Outcome(outcome.phrase, "not_found", reason, outcome.presence)
        elif outcome.state == "found":
            voxels = sum(piece.voxels for piece in ours)
            size = {"voxels": voxels, "volumeMl": voxels * voxelMl, "segmentIds": tuple(added[number])}
            outcome = replace(outcome, **size, objects=len(ours) if outcome.objects else 0)
        outcomes.append(outcome)
    assert len(outcomes) == len(question.concepts)
    return tuple(outcomes)


def segmentsOf(node: Any, phrase: str) -> list[str]:
    """IDs of the segments that this module made for a concept, however it was typed then."""
    inner, found = node.GetSegmentation(), []
    for segmentId in inner.GetSegmentIDs():
        tag = vtk.reference("")
        if inner.GetSegment(segmentId).GetTag(PHRASE_TAG, tag) and normalise(str(tag)) == normalise(phrase):
            found.append(segmentId)
    return found


def _blockers(answer: Answer, question: Question, place: Place, rules: Rules) -> list[str]:
    """Segments whose voxels stay theirs: all but those of the concepts that were found now."""
    if place.node is None or rules.overlap != "exclusive":
        return []
    ours = {
        segmentId
        for finding in {mask.finding for mask in answer.masks}
        for segmentId in segmentsOf(place.node, question.concepts[finding])
    }
    return [segmentId for segmentId in place.node.GetSegmentation().GetSegmentIDs() if segmentId not in ours]


def _replaceAll(
    change: Change, old: list[str], pieces: Sequence[Piece], answer: Answer, question: Question
) -> list[str]:
    """Put pieces where earlier segments of the concept were; one for one keeps ID, name, colour and look."""
    inner = change.node.GetSegmentation()
    index = inner.GetSegmentIndex(old[0])
    for segmentId in old:
        change.remove(segmentId)
    if len(old) == len(pieces) == 1:
        before = change.kept[-1]
        segment = _segment(pieces[0], answer, question)
        segment.SetName(before.segment.GetName())
        segment.SetColor(before.segment.GetColor())
        change.add(old[0], segment, index, before.look)
        return list(old)
    return [_addOne(change, piece, answer, question, False, index + number) for number, piece in enumerate(pieces)]


def _addOne(
    change: Change, piece: Piece, answer: Answer, question: Question, isFurther: bool, index: int | None = None
) -> str:
    inner, segment = change.node.GetSegmentation(), _segment(piece, answer, question)
    if isFurther:
        names = {inner.GetSegment(segmentId).GetName() for segmentId in inner.GetSegmentIDs()}
        numbers = (f"{piece.mask.name} ({number})" for number in range(2, len(names) + 3))
        segment.SetName(next(name for name in numbers if name not in names))
    segmentId = inner.GenerateUniqueSegmentID(piece.mask.name)
    change.add(segmentId, segment, index)
    return str(segmentId)


def _segment(piece: Piece, answer: Answer, question: Question) -> Any:
    """A vtkSegment with its mask, name, colour, code and tags."""
    phrase = question.concepts[piece.mask.finding]
    term = termOf(phrase, piece.mask.codes)
    hasOwnColour = term is not None and term.colour is not None and piece.mask.name == phrase
    colour = term.colour if term is not None and hasOwnColour else piece.mask.colour
    segment = slicer.vtkSegment()
    segment.SetName(piece.mask.name)
    segment.SetColor(*(channel / 255 for channel in colour))
    if term is not None:
        segment.SetTerminology(term.entry)
    segment.SetTag(PHRASE_TAG, _tagText(phrase))
    segment.SetTag(MODEL_TAG, _tagText(answer.model))
    segment.SetTag(SETTINGS_TAG, _tagText(json.dumps(dict(question.settings), separators=(",", ":"))))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.InProgress)
    segment.AddRepresentation(LABELMAP, piece.image)
    return segment


def _tagText(text: str) -> str:
    """A bar ends a tag in the file of a segmentation."""
    return text.replace("|", " ")
