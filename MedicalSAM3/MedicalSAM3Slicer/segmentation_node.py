"""The segmentation node that gets the results of a volume: found again, or made where it belongs."""

from __future__ import annotations

from typing import Any

import slicer
from slicer.i18n import tr as _

IMAGE_ROLE = "referenceImageGeometryRef"
"""Node reference of a segmentation to its image; export to DICOM SEG needs it."""

OURS = "MedicalSAM3"
"""Node attribute of segmentations that this module made."""


def segmentationOf(volume: Any) -> Any:
    """The segmentation that this module made for a volume, None where there is none (any more)."""
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(OURS) and node.GetNodeReferenceID(IMAGE_ROLE) == volume.GetID():
            return node
    return None


def newSegmentation(volume: Any) -> Any:
    """A segmentation in the scene, for a volume: its geometry, its image, its transforms, its study."""
    name = _("{volume} segmentation").format(volume=volume.GetName())
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    node.SetAttribute(OURS, "1")
    node.CreateDefaultDisplayNodes()
    belongTo(node, volume)
    return node


def belongTo(node: Any, volume: Any) -> None:
    """Put a segmentation beside its volume, and give it the volume's grid."""
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    placeBeside(node, volume)


def placeBeside(node: Any, volume: Any) -> None:
    """Put a node into the study of a volume, where the subject hierarchy knows both."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if tree is None:
        return
    own, of = tree.GetItemByDataNode(node), tree.GetItemByDataNode(volume)
    if own and of:
        tree.SetItemParent(own, tree.GetItemParent(of))
