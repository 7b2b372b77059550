"""What a run did to the scene, so that it can be taken back in one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import slicer

from .grid import LABELMAP

LOOKS = (
    "Visibility",
    "Visibility3D",
    "Visibility2DFill",
    "Visibility2DOutline",
    "Opacity3D",
    "Opacity2DFill",
    "Opacity2DOutline",
)
"""What the display node of a segmentation holds for each segment."""


@dataclass(frozen=True)
class KeptSegment:
    """A segment as it was before it was replaced: with its mask and its look."""

    segmentId: str
    segment: Any
    look: dict[str, Any] | None


@dataclass
class Change:
    """Of one segmentation node.

    Attributes:
        node: The segmentation node.
        nodes: Nodes that were added with it: itself where it is new, and those of a sequence.
        added: IDs of new segments.
        kept: Segments that were replaced.
        order: IDs of all segments as they stood before.
    """

    node: Any
    nodes: list[Any] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    kept: list[KeptSegment] = field(default_factory=list)
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.node is not None:
            self.order = tuple(self.node.GetSegmentation().GetSegmentIDs())

    def remove(self, segmentId: str) -> None:
        """Remove a segment and keep what is needed to bring it back."""
        self.kept.append(keep(self.node, segmentId))
        self.node.GetSegmentation().RemoveSegment(segmentId)

    def add(self, segmentId: str, segment: Any, index: int | None = None, look: Any = None) -> None:
        """Add a segment, at a place in the list and with the look of the one that it replaces."""
        putSegment(self.node, segmentId, segment, index, look)
        self.added.append(segmentId)

    def revert(self) -> bool:
        """Take it back; False where the node is gone, and all that was done with it."""
        mine = [node for node in self.nodes if isInScene(node)]
        if isInScene(self.node):
            self._restore()
            # Segments that somebody else put into a new node stay, and so does the node.
            mine = [node for node in mine if node is not self.node or not node.GetSegmentation().GetNumberOfSegments()]
        elif not mine:
            return False
        for node in mine:
            removeNode(node)
        return True

    def _restore(self) -> None:
        inner = self.node.GetSegmentation()
        for segmentId in self.added:
            if inner.GetSegment(segmentId) is not None:
                inner.RemoveSegment(segmentId)
        for kept in self.kept:
            putSegment(self.node, kept.segmentId, kept.segment, None, kept.look)
        there = [segmentId for segmentId in self.order if inner.GetSegment(segmentId) is not None]
        for index, segmentId in enumerate(there):
            inner.SetSegmentIndex(segmentId, index)


def revertAll(changes: Sequence[Change]) -> bool:
    """Take changes back, the latest first; whether there was anything to take back."""
    done = [change.revert() for change in reversed(changes)]  # each of them, whatever the others say
    return any(done)


def keep(node: Any, segmentId: str) -> KeptSegment:
    """Copy a segment of a node, its mask cut out of a layer that it may share with others."""
    inner = node.GetSegmentation()
    original, segment = inner.GetSegment(segmentId), slicer.vtkSegment()
    segment.DeepCopyMetadata(original)
    mask = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(segmentId, mask)
    segment.AddRepresentation(LABELMAP, mask)
    segment.SetLabelValue(1)
    display = node.GetDisplayNode()
    look = {name: getattr(display, f"GetSegment{name}")(segmentId) for name in LOOKS} if display else None
    return KeptSegment(segmentId, segment, look)


def putSegment(node: Any, segmentId: str, segment: Any, index: int | None, look: Any) -> None:
    """Add a segment; None for its index is the end of the list, for its look Slicer's default.

    Raises:
        RuntimeError: Slicer does not take it.
    """
    inner = node.GetSegmentation()
    if not inner.AddSegment(segment, segmentId):
        raise RuntimeError("the segmentation did not take a segment")
    if index is not None:
        inner.SetSegmentIndex(segmentId, index)
    if look is not None and node.GetDisplayNode() is not None:
        for name, value in look.items():
            getattr(node.GetDisplayNode(), f"SetSegment{name}")(segmentId, value)


def removeNode(node: Any) -> None:
    """Remove a node, what shows it and what would store it."""
    if node.IsA("vtkMRMLStorableNode") and node.GetStorageNode() is not None:
        slicer.mrmlScene.RemoveNode(node.GetStorageNode())
    if node.IsA("vtkMRMLDisplayableNode"):
        for number in reversed(range(node.GetNumberOfDisplayNodes())):
            slicer.mrmlScene.RemoveNode(node.GetNthDisplayNode(number))
    slicer.mrmlScene.RemoveNode(node)


def isInScene(node: Any) -> bool:
    """Whether a node is in the scene that is open now."""
    return node is not None and node.GetScene() is slicer.mrmlScene
