"""What is in the scene already: others stay to the byte, concepts are replaced or added, one step undoes all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer

from MedicalSAM3.MedicalSAM3Slicer.task import UserError
from Testing.slicer import mrml
from Testing.slicer.test_segment import SHAPE, array, masks


@pytest.fixture
def volume(scene: Any) -> Any:
    return mrml.volume(array())


@pytest.fixture
def drawn(volume: Any) -> Any:
    """A segmentation of the volume with two segments that a person drew, in one layer; one overlaps the liver."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    first, second = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first[2:5, 0:3, 1:6] = True
    second[0:1, 0:2, 6:8] = True
    mrml.addSegment(node, "mine", first)
    mrml.addSegment(node, "liver", second)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    return node


def drawnMask(node: Any) -> np.ndarray:
    """Where the first of them is."""
    return mrml.maskOf(node, node.GetSegmentation().GetNthSegmentID(0), SHAPE)


@pytest.mark.parametrize("overlap", ["exclusive", "keep"])
def test_other_segments_stay_to_the_byte(logic: Any, volume: Any, drawn: Any, overlap: str) -> None:
    before, mine = mrml.contents(drawn), drawnMask(drawn)
    result = logic.segment(volume, ["liver", "brain tumor", "spleen"], drawn, overlap=overlap)
    assert mrml.contents(drawn)[:2] == before
    assert [name for _, name, *_ in mrml.contents(drawn)[2:]] == ["liver", "spleen"]
    (new,) = result.outcomes[0].segmentIds
    expected = (array() == 1) & ~mine if overlap == "exclusive" else array() == 1
    assert np.array_equal(mrml.maskOf(drawn, new, SHAPE), expected)
    assert result.outcomes[0].voxels == expected.sum()


def test_what_others_have_all_of_is_said(logic: Any, volume: Any, drawn: Any) -> None:
    mrml.addSegment(drawn, "all", np.ones(SHAPE, bool))
    before = mrml.contents(drawn)
    (outcome,) = logic.segment(volume, ["spleen"], drawn).outcomes
    assert (outcome.state, outcome.segmentIds) == ("not_found", ())
    assert "belong to other segments" in outcome.reason
    assert mrml.contents(drawn) == before


def test_only_inside_a_segment(logic: Any, volume: Any, drawn: Any) -> None:
    inside, mine = drawn.GetSegmentation().GetNthSegmentID(0), drawnMask(drawn)
    result = logic.segment(volume, ["liver"], drawn, overlap="inside", insideSegmentId=inside)
    (new,) = result.outcomes[0].segmentIds
    assert np.array_equal(mrml.maskOf(drawn, new, SHAPE), (array() == 1) & mine)


def test_a_segment_on_another_grid_counts_where_it_lies(logic: Any, volume: Any, drawn: Any) -> None:
    finer = mrml.OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
    mrml.addSegment(drawn, "fine", np.ones((8, 20, 20), bool), finer)
    result = logic.segment(volume, ["spleen", "zorp"], drawn, overlap="exclusive")
    assert [outcome.state for outcome in result.outcomes] == ["not_found", "found"]


def test_inside_of_nothing_is_refused(logic: Any, volume: Any, drawn: Any) -> None:
    with pytest.raises(UserError, match="Choose the segment or the ROI"):
        logic.segment(volume, ["liver"], drawn, overlap="inside")
    with pytest.raises(UserError, match="is not in the chosen segmentation"):
        logic.segment(volume, ["liver"], drawn, overlap="inside", insideSegmentId="nowhere")


def test_again_replaces_in_its_place_and_keeps_what_the_user_chose(logic: Any, volume: Any) -> None:
    node = logic.segment(volume, ["liver", "spleen"]).segmentationNode
    liver, spleen = node.GetSegmentation().GetSegmentIDs()
    node.GetSegmentation().GetSegment(liver).SetName("my liver")
    node.GetSegmentation().GetSegment(liver).SetColor(0.25, 0.5, 0.75)
    node.GetDisplayNode().SetSegmentVisibility(liver, False)
    before = mrml.contents(node)
    grown = array()
    grown[5, :, 5] = 1
    slicer.util.updateVolumeFromArray(volume, grown)
    result = logic.segment(volume, ["LIVER"])
    assert result.outcomes[0].segmentIds == (liver,)
    after = mrml.contents(node)
    assert [row[:2] for row in after] == [(liver, "my liver"), (spleen, "spleen")]
    assert after[0][2] == before[0][2]
    assert after[1] == before[1]
    assert not node.GetDisplayNode().GetSegmentVisibility(liver)
    assert np.array_equal(mrml.maskOf(node, liver, SHAPE), grown == 1)
    assert logic.undo()
    assert mrml.contents(node) == before
    assert not node.GetDisplayNode().GetSegmentVisibility(liver)


def test_again_replaces_in_a_file_whose_segments_share_a_layer(logic: Any, volume: Any) -> None:
    node = logic.segment(volume, ["liver", "spleen"]).segmentationNode
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    logic.segment(volume, ["liver"])
    found = masks(node)
    assert np.array_equal(found["liver"], array() == 1)
    assert np.array_equal(found["spleen"], array() == 2)


def test_again_may_add(logic: Any, volume: Any) -> None:
    node = logic.segment(volume, ["liver"]).segmentationNode
    before = mrml.contents(node)
    logic.segment(volume, ["liver"], again="add")
    logic.segment(volume, ["liver"], again="add")
    after = mrml.contents(node)
    assert after[:1] == before
    assert [name for _, name, *_ in after] == ["liver", "liver (2)", "liver (3)"]


def test_objects_replace_objects(logic: Any, volume: Any) -> None:
    node = logic.segment(volume, ["rib", "liver"], instances=True).segmentationNode
    before = mrml.contents(node)
    logic.segment(volume, ["rib"])
    assert [name for _, name, *_ in mrml.contents(node)] == ["rib", "liver"]
    assert logic.undo()
    assert mrml.contents(node) == before


def test_undo_takes_back_a_run_and_no_more(logic: Any, volume: Any, drawn: Any) -> None:
    before, scene = mrml.contents(drawn), mrml.nodes()
    logic.segment(volume, ["liver", "spleen"], drawn)
    assert logic.canUndo()
    assert logic.undo()
    assert mrml.contents(drawn) == before
    assert not logic.undo()
    logic.segment(volume, ["liver"])
    assert mrml.nodes() != scene
    assert logic.undo()
    assert mrml.nodes() == scene


def test_undo_leaves_what_somebody_else_drew(logic: Any, volume: Any) -> None:
    node = logic.segment(volume, ["liver"]).segmentationNode
    mrml.addSegment(node, "later", array() == 4)
    assert logic.undo()
    assert [name for _, name, *_ in mrml.contents(node)] == ["later"]
    assert node.GetScene() is slicer.mrmlScene


def test_undo_after_the_scene_was_closed_does_nothing(logic: Any, volume: Any) -> None:
    logic.segment(volume, ["liver"])
    slicer.mrmlScene.Clear(0)
    assert not logic.undo()


def test_the_volumes_own_segmentation_is_found_again(logic: Any, volume: Any) -> None:
    first = logic.segment(volume, ["liver"]).segmentationNode
    other = mrml.volume(array(), mrml.FLIPPED, "MR")
    second = logic.segment(other, ["liver"]).segmentationNode
    assert second is not first
    assert logic.segment(volume, ["spleen"]).segmentationNode is first


def test_an_empty_segmentation_gets_the_volumes_geometry(logic: Any, volume: Any) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    logic.segment(volume, ["liver"], node)
    assert node.GetNodeReference("referenceImageGeometryRef") is volume
    assert np.array_equal(masks(node)["liver"], array() == 1)


def test_a_target_under_another_transform_gets_the_mask_where_the_volume_lies(
    logic: Any, volume: Any, drawn: Any
) -> None:
    volume.SetAndObserveTransformNodeID(mrml.transform(np.eye(4) + np.eye(4, k=3) * 7).GetID())
    with pytest.raises(UserError, match="belongs to another volume"):
        logic.segment(volume, ["spleen"], drawn)
    shift = mrml.OBLIQUE @ (np.eye(4) + 2 * np.outer([1, 0, 0, 0], [0, 0, 0, 1])) @ np.linalg.inv(mrml.OBLIQUE)
    volume.GetParentTransformNode().SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
    (outcome,) = logic.segment(volume, ["spleen"], drawn, overlap="keep").outcomes
    image = drawn.GetSegmentation().GetSegment(outcome.segmentIds[0]).GetRepresentation("Binary labelmap")
    corner = mrml.OBLIQUE @ [4 + 2, 2, 1, 1]
    own = slicer.util.arrayFromVTKMatrix(matrixOf(image)) @ [*image.GetExtent()[::2], 1]
    np.testing.assert_allclose(own, corner, atol=1e-4)


def matrixOf(image: Any) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return matrix
