"""The choices of a run in the scene: what is written is read, also from a file and beside other scenes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

import slicer

from MedicalSAM3.MedicalSAM3Slicer.choices import Choices, parameterNode, readChoices, writeChoices
from MedicalSAM3.MedicalSAM3Slicer.logic import MedicalSAM3Logic
from Testing.slicer import mrml
from Testing.slicer.test_many import roi
from Testing.slicer.test_segment import array

CHOSEN = Choices(
    concepts="liver, left kidney\nspleen", again="add", overlap="inside", insideSegmentId="Segment_1", slices=(2, 9),
    mode="fuse", speed="exact", model="medical-sam3", instances=True, eachFrame=True, freeMemory=True,
)  # fmt: skip


@pytest.fixture
def chosen(scene: Any) -> Choices:
    """Choices with nodes, none of which has its default."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mrml.addSegment(node, "Segment_1", array() == 1)
    return replace(CHOSEN, volume=mrml.volume(array()), segmentation=node, roi=roi([0, 0, 0], [1, 1, 1]))


def test_every_choice_is_kept(chosen: Choices) -> None:
    assert all(getattr(chosen, field.name) != field.default for field in fields(Choices))
    writeChoices(parameterNode(), chosen)
    assert readChoices(parameterNode()) == chosen
    writeChoices(parameterNode(), Choices())
    assert readChoices(parameterNode()) == Choices()


def test_a_new_scene_has_the_defaults_and_one_node(scene: Any) -> None:
    node = MedicalSAM3Logic().getParameterNode()
    assert readChoices(node) == Choices()
    assert parameterNode() is node
    assert (node.GetID(), node.GetAttribute("ModuleName")) == ("vtkMRMLScriptedModuleNodeMedicalSAM3", "MedicalSAM3")


def test_what_changed_is_told_once_and_what_did_not_is_not(chosen: Choices) -> None:
    node, heard = parameterNode(), []
    node.AddObserver("ModifiedEvent", lambda *_: heard.append(1))
    writeChoices(node, chosen)
    assert len(heard) == 1
    writeChoices(node, chosen)
    assert len(heard) == 1


def test_a_scene_that_closes_takes_the_choices_with_it(chosen: Choices) -> None:
    writeChoices(parameterNode(), chosen)
    slicer.mrmlScene.Clear(0)
    assert readChoices(parameterNode()) == Choices()
    assert parameterNode().GetAttribute("ModuleName") == "MedicalSAM3"


def save(scene: Any, file: Path) -> str:
    """Write a scene, without the files of its nodes; its text."""
    scene.SetURL(str(file))
    assert scene.Commit()
    return file.read_text(encoding="utf-8")


def test_a_file_of_a_scene_brings_them_back(chosen: Choices, scene: Any, tmp_path: Path) -> None:
    writeChoices(parameterNode(), chosen)
    save(scene, tmp_path / "scene.mrml")
    scene.Clear(0)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Connect()
    found = readChoices(parameterNode())
    nodes = {"volume": None, "segmentation": None, "roi": None}
    assert replace(found, **nodes) == CHOSEN
    assert (found.volume.GetName(), found.segmentation.GetName(), found.roi.GetName()) == ("CT", "mine", "R")


def test_references_follow_into_a_scene_that_has_such_nodes(chosen: Choices, scene: Any, tmp_path: Path) -> None:
    writeChoices(parameterNode(), chosen)
    chosen.volume.SetName("of the file")
    save(scene, tmp_path / "scene.mrml")
    scene.Clear(0)
    mrml.volume(array(), name="was there")
    assert readChoices(parameterNode()).volume is None
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Import()
    assert readChoices(parameterNode()).volume.GetName() == "of the file"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Overlap", "everything"), ("Again", "perhaps"), ("Mode", "x"), ("Speed", "9"), ("Slices", "9 2"),
        ("Slices", "1"), ("Slices", "a b"), ("Model", "../../etc"), ("Model", "A" * 99), ("Instances", "2"),
    ],
)  # fmt: skip
def test_a_value_that_nobody_wrote_is_left_out(scene: Any, name: str, value: str) -> None:
    parameterNode().SetParameter(name, value)
    assert readChoices(parameterNode()) == Choices()
