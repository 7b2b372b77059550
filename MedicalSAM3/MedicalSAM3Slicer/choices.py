"""What a person chose for a run, kept in the scene: in the module's parameter node. No address or token is there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import slicer

from .options import AGAIN, MODES, OVERLAPS, SPEEDS

MODULE = "MedicalSAM3"
NODE_CLASS = "vtkMRMLScriptedModuleNode"
VOLUME, SEGMENTATION, ROI = "InputVolume", "Segmentation", "ROI"
"""References of the node to others: they follow when a scene is loaded into one where the IDs are taken."""

_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RANGE = re.compile(r"(\d{1,9}) (\d{1,9})")
_YES, _NO = "true", "false"


@dataclass(frozen=True)
class Choices:
    """All that a run is made of, but for the engine. The defaults are those of an empty scene.

    Attributes:
        volume, segmentation, roi: Nodes of the scene, or None.
        concepts: The text as it was typed.
        again: "replace", "add", or "" = ask each time.
        insideSegmentId: ID of a segment, "" for none.
        slices: Half-open range, None = all.
        model: Name of a model, "auto", or "" = the user's own choice.
        overlap, mode, speed, instances, eachFrame, freeMemory: As in ``RunOptions`` and ``SegmentSettings``.
    """

    volume: Any = None
    segmentation: Any = None
    roi: Any = None
    concepts: str = ""
    again: str = ""
    overlap: str = OVERLAPS[0]
    insideSegmentId: str = ""
    slices: tuple[int, int] | None = None
    mode: str = MODES[0]
    speed: str = SPEEDS[0]
    model: str = ""
    instances: bool = False
    eachFrame: bool = False
    freeMemory: bool = False


def parameterNode() -> Any:
    """The parameter node of the module: found in the scene, or made as Slicer's scripted modules make theirs."""
    scene = slicer.mrmlScene
    node = scene.GetSingletonNode(MODULE, NODE_CLASS)
    if node is None:
        node = scene.CreateNodeByClass(NODE_CLASS)
        node.UnRegister(None)  # the scene holds it, and Python
        node.SetSingletonTag(MODULE)
        node.SetName(scene.GenerateUniqueName(MODULE))
        node = scene.AddNode(node)
    if node.GetAttribute("ModuleName") != MODULE:  # a scene that was closed has taken it
        node.SetAttribute("ModuleName", MODULE)
    return node


def readChoices(node: Any) -> Choices:
    """What a parameter node holds. A value that this module never writes, as anybody's scene may have, is ignored."""

    def one(name: str, allowed: tuple[str, ...], default: str) -> str:
        value = node.GetParameter(name)
        return value if value in allowed else default

    bounds, model = _RANGE.fullmatch(node.GetParameter("Slices")), node.GetParameter("Model")
    slices = (int(bounds[1]), int(bounds[2])) if bounds else None
    return Choices(
        volume=node.GetNodeReference(VOLUME),
        segmentation=node.GetNodeReference(SEGMENTATION),
        roi=node.GetNodeReference(ROI),
        concepts=node.GetParameter("Concepts"),
        again=one("Again", AGAIN, ""),
        overlap=one("Overlap", OVERLAPS, OVERLAPS[0]),
        insideSegmentId=node.GetParameter("InsideSegmentID"),
        slices=slices if slices is None or slices[0] < slices[1] else None,
        mode=one("Mode", MODES, MODES[0]),
        speed=one("Speed", SPEEDS, SPEEDS[0]),
        model=model if _MODEL.fullmatch(model) else "",
        instances=node.GetParameter("Instances") == _YES,
        eachFrame=node.GetParameter("EachFrame") == _YES,
        freeMemory=node.GetParameter("FreeMemory") == _YES,
    )


def writeChoices(node: Any, choices: Choices) -> None:
    """Put choices into a parameter node; those who observe it hear of it once, and only where something changed."""
    texts = {
        "Concepts": choices.concepts,
        "Again": choices.again,
        "Overlap": choices.overlap,
        "InsideSegmentID": choices.insideSegmentId,
        "Slices": "" if choices.slices is None else "{} {}".format(*choices.slices),
        "Mode": choices.mode,
        "Speed": choices.speed,
        "Model": choices.model,
        "Instances": _YES if choices.instances else _NO,
        "EachFrame": _YES if choices.eachFrame else _NO,
        "FreeMemory": _YES if choices.freeMemory else _NO,
    }
    nodes = {VOLUME: choices.volume, SEGMENTATION: choices.segmentation, ROI: choices.roi}
    modified = node.StartModify()
    for name, text in texts.items():
        if node.GetParameter(name) != text:
            node.SetParameter(name, text)
    for role, other in nodes.items():
        nodeId = other.GetID() if other is not None else None
        if node.GetNodeReferenceID(role) != nodeId:
            node.SetNodeReferenceID(role, nodeId)
    node.EndModify(modified)
