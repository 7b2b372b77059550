"""Segments into a real segmentation node. Needs the ``slicer-core`` wheel, not the application."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from MedicalSAM3.MedicalSAM3Slicer.outcome import Outcome

pytestmark = pytest.mark.slicer
slicer = pytest.importorskip("slicer")


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A scene with the logics that segmentations need; they register converters, so once a process."""
    home = tmp_path_factory.mktemp("home")
    colours = home / "share" / "ColorFiles"
    colours.mkdir(parents=True)
    (colours / "GenericColors.txt").write_text("# Color table file\n0 Background 0 0 0 0\n1 tissue 128 174 128 255\n")
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.SetHomeDirectory(str(home))
    application.SetTemporaryPath(str(home))
    application.SetShareDirectory("share")
    logics = []
    for name in ("ColorLogic", "TerminologiesModuleLogic", "SegmentationsModuleLogic"):
        logic = getattr(slicer, f"vtkSlicer{name}")()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.removesuffix("ModuleLogic").removesuffix("Logic") + "s", logic)
        logics.append(logic)
    return application, logics


@pytest.fixture
def scene_module(application: Any) -> ModuleType:
    slicer.mrmlScene.Clear(0)
    return importlib.import_module("MedicalSAM3.MedicalSAM3Slicer.scene")


def box(first: int, last: int) -> np.ndarray:
    mask = np.zeros((6, 7, 8), dtype=np.uint8)
    mask[1:4, 1:5, first:last] = 1
    return mask


def segmentation(*segments: tuple[str, np.ndarray]) -> Any:
    """A node with a segment per (phrase, mask), on one grid; names differ from phrases on purpose."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for phrase, mask in segments:
        segment_id = node.GetSegmentation().AddEmptySegment("", f"{phrase} named", (0.1, 0.2, 0.3))
        node.GetSegmentation().GetSegment(segment_id).SetTag("MedicalSAM3.Phrase", phrase)
        if mask.any():
            image = oriented(mask)
            logic = slicer.vtkSlicerSegmentationsModuleLogic
            logic.SetBinaryLabelmapToSegment(image, node, segment_id, logic.MODE_REPLACE)
    return node


def oriented(mask: np.ndarray) -> Any:
    from vtk.util.numpy_support import numpy_to_vtk

    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*mask.shape[::-1])
    image.SetSpacing(1.0, 1.0, 2.5)
    image.SetDirections([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    image.SetOrigin(5.0, -3.0, 11.0)
    image.GetPointData().SetScalars(numpy_to_vtk(mask.ravel(), deep=True))
    return image


def contents(node: Any) -> list[tuple[str, str, int]]:
    """(ID, name, voxels) of every segment."""
    from vtk.util.numpy_support import vtk_to_numpy

    found = []
    for segment_id in node.GetSegmentation().GetSegmentIDs():
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segment_id, image)
        voxels = 0 if image.IsEmpty() else int((vtk_to_numpy(image.GetPointData().GetScalars()) > 0).sum())
        found.append((segment_id, node.GetSegmentation().GetSegment(segment_id).GetName(), voxels))
    return found


FOUND, EMPTY = ("liver", box(1, 4)), ("brain tumor", box(0, 0))


@pytest.mark.parametrize("order", [(FOUND, EMPTY), (EMPTY, FOUND)])
def test_an_empty_result_never_takes_the_name_of_another(scene_module: ModuleType, order: tuple) -> None:
    target = segmentation()
    outcomes = [Outcome(phrase, "found") for phrase, _ in order]
    checked = scene_module.addSegments(target, segmentation(*order), outcomes)
    assert [(name, voxels) for _, name, voxels in contents(target)] == [("liver named", 36)]
    assert {outcome.phrase: outcome.state for outcome in checked} == {"liver": "found", "brain tumor": "failed"}


def test_every_object_of_a_concept_becomes_a_segment(scene_module: ModuleType) -> None:
    target = segmentation()
    source = segmentation(("rib", box(0, 2)), FOUND, ("rib", box(5, 6)))
    outcomes = [Outcome("rib", "found", objects=2), Outcome("liver", "found")]
    assert scene_module.addSegments(target, source, outcomes) == outcomes
    assert [(name, voxels) for _, name, voxels in contents(target)] == [
        ("rib named", 24),
        ("rib named", 12),
        ("liver named", 36),
    ]


def test_an_object_without_a_mask_does_not_go_unnoticed(scene_module: ModuleType) -> None:
    source = segmentation(("rib", box(0, 2)), ("rib", box(0, 0)))
    (checked,) = scene_module.addSegments(segmentation(), source, [Outcome("rib", "found", objects=2)])
    assert (checked.state, checked.reason) == ("failed", "the result holds only 1 of its 2 objects")


def test_nothing_found_adds_nothing(scene_module: ModuleType) -> None:
    target = segmentation()
    outcomes = [Outcome("liver", "not_found")]
    assert scene_module.addSegments(target, segmentation(FOUND), outcomes) == outcomes
    assert contents(target) == []


def test_earlier_segments_stay_as_they_were_even_under_an_overlap(scene_module: ModuleType) -> None:
    target = segmentation(("spleen", box(2, 6)), ("liver", box(5, 7)))
    before = contents(target)
    scene_module.addSegments(target, segmentation(FOUND), [Outcome("liver", "found")])
    after = contents(target)
    assert after[:2] == before
    assert [(name, voxels) for _, name, voxels in after[2:]] == [("liver named", 36)]


def test_tags_and_colour_come_along(scene_module: ModuleType, tmp_path: Path) -> None:
    source, target = segmentation(FOUND), segmentation()
    entry = "Terminology~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~~^^~^^"
    ((segment_id, _, _),) = contents(source)
    original = source.GetSegmentation().GetSegment(segment_id)
    original.SetTag(original.GetTerminologyEntryTagName(), entry)
    scene_module.addSegments(target, source, [Outcome("liver", "found")])
    ((new_id,),) = scene_module.segmentsByPhrase(target.GetSegmentation()).values()
    segment = target.GetSegmentation().GetSegment(new_id)
    assert segment.GetTerminology() == entry
    assert segment.GetColor() == pytest.approx((0.1, 0.2, 0.3))
