"""Surfaces: as large as the masks, closed, facing outward, at the right place, and read back by VTK."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MedicalSAM3Lib.errors import OutputError, SettingsError
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume
from MedicalSAM3Lib.surface import SUFFIXES, check_surface, surface_of, surfaces_of, write_surface
from Testing.lib.file_worlds import affine, affines, objects_of, rotation, segmentation_of

pytest.importorskip("vtkmodules", reason="needs the extra 'surface'")
pytest.importorskip("trimesh", reason="needs the extra 'surface'")

LEFT_HANDED = affine(np.diag([-1.0, 1.0, 1.0]) @ rotation(1), (0.7, 0.8, 2.5), (-120.0, 40.0, 300.0))


def ball(radius: float) -> np.ndarray:
    size = int(radius) + 2
    k, j, i = np.ogrid[-size : size + 1, -size : size + 1, -size : size + 1]
    return np.asarray(k * k + j * j + i * i <= radius * radius)


def enclosed(points: np.ndarray, triangles: np.ndarray) -> float:
    """Signed volume, by Gauss' theorem from the middle of the points."""
    a, b, c = (points[triangles[:, corner]] - points.mean(0) for corner in range(3))
    return float(np.linalg.det(np.stack([a, b, c], 1)).sum() / 6)


def is_closed(triangles: np.ndarray) -> bool:
    """Whether each edge is walked once in each direction: no hole, no sheet, and all triangles face one way."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    there = {(int(a), int(b)) for a, b in edges}
    return len(there) == len(edges) and all((b, a) in there for a, b in there)


def voxel_mm3(ijk_to_lps: np.ndarray) -> float:
    return abs(float(np.linalg.det(ijk_to_lps[:3, :3])))


WORLDS = {
    "a voxel": np.ones((1, 1, 1), bool),
    "a slice": np.ones((1, 20, 20), bool),
    "a vessel of one voxel": np.ones((1, 1, 30), bool),
    "a box": np.ones((6, 20, 30), bool),
    "a small ball": ball(3),
    "a ball": ball(12),
    "a shell": ball(9) & ~np.pad(ball(4), 5),
    "two that touch at a corner": np.kron(np.eye(2), np.ones((2, 4, 4))).astype(bool),
}


@pytest.mark.parametrize("ijk_to_lps", [np.eye(4), LEFT_HANDED], ids=["plain", "oblique and mirrored"])
@pytest.mark.parametrize("world", WORLDS)
def test_a_surface_is_closed_faces_outward_and_encloses_what_the_mask_does(world: str, ijk_to_lps: np.ndarray) -> None:
    mask = WORLDS[world]
    points, triangles = surface_of(mask, (0, 0, 0), ijk_to_lps)
    assert is_closed(triangles)
    assert enclosed(points, triangles) == pytest.approx(mask.sum() * voxel_mm3(ijk_to_lps), rel=2e-3)


@pytest.mark.parametrize("radius", [8.0, 15.0])
def test_a_ball_is_as_large_and_as_round_as_the_ball_that_was_drawn(radius: float) -> None:
    points, triangles = surface_of(ball(radius), (0, 0, 0), np.eye(4))
    assert enclosed(points, triangles) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    from_middle = np.linalg.norm(points - (ball(radius).shape[0] - 1) / 2, axis=1)
    assert np.abs(from_middle - radius).max() < 0.6  # of a voxel
    assert from_middle.std() < 0.15  # without the steps: of the voxels' own corners it is 0.3


def test_a_box_keeps_its_sides() -> None:
    points, _ = surface_of(np.ones((10, 20, 30), bool), (3, 4, 5), np.diag([0.5, 0.5, 1.0, 1.0]))
    assert points.min(0) == pytest.approx([2.25, 1.75, 2.5], abs=0.4)
    assert points.max(0) == pytest.approx([17.25, 11.75, 12.5], abs=0.4)


@settings(max_examples=25, deadline=None)
@given(affines(), st.integers(0, 1000), st.sampled_from([0.1, 0.5, 0.9]))
def test_any_mask_on_any_grid_has_a_closed_surface_of_its_volume(
    ijk_to_lps: np.ndarray, seed: int, part: float
) -> None:
    mask = np.random.default_rng(seed).random((5, 6, 7)) < part
    mask[2, 3, 3] = True
    corner = (7, -3, 11)
    points, triangles = surface_of(mask, corner, ijk_to_lps)
    assert is_closed(triangles)
    assert enclosed(points, triangles) == pytest.approx(mask.sum() * voxel_mm3(ijk_to_lps), rel=0.02)
    # It lies around the mask's voxels.
    back = np.linalg.solve(ijk_to_lps, np.c_[points, np.ones(len(points))].T)[:3].T
    filled = np.argwhere(mask)[:, ::-1] + corner[::-1]
    assert (back.min(0) < filled.min(0)).all()
    assert (back.max(0) > filled.max(0)).all()
    assert np.abs(back.min(0) - filled.min(0)).max() < 4


def small_world() -> Segmentation:
    """Two blocks, one of them at the volume's border, on a grid that is flipped; the third concept is not there."""
    layer = np.zeros((8, 20, 20), np.uint16)
    layer[:, 2:9, 2:9], layer[2:5, 12:18, 12:18] = 1, 2
    findings = (
        Finding("left kidney", "found", layer=0, label=1, colour=(185, 102, 83)),
        Finding('größe/x"', "found", layer=0, label=2, colour=(18, 10, 200)),
        Finding("spleen", "not_found", reason="absent"),
    )
    return Segmentation((layer,), affine(np.diag([-1.0, 1.0, 1.0]), (0.7, 0.7, 2.0), (10, 20, 30)), findings)


def read(path: Path, reader_name: str) -> Any:
    """What one of VTK's readers makes of a file, and the reader."""
    from vtkmodules import vtkIOGeometry, vtkIOXML

    module = vtkIOXML if hasattr(vtkIOXML, reader_name) else vtkIOGeometry
    reader = getattr(module, reader_name)()
    reader.SetFileName(str(path))
    reader.Update()
    return reader, reader.GetOutput()


def arrays(polydata: Any) -> tuple[np.ndarray, np.ndarray]:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    points = vtk_to_numpy(polydata.GetPoints().GetData()).astype(float)
    return points, vtk_to_numpy(polydata.GetPolys().GetConnectivityArray()).reshape(-1, 3)


BLOCKS_MM3 = (8 * 7 * 7 * 0.98, 3 * 6 * 6 * 0.98)


def test_each_segment_has_an_stl_of_its_own_that_says_its_space(tmp_path: Path) -> None:
    written = write_surface(tmp_path / "out.stl", small_world())
    assert [path.name for path in written] == ["out_left_kidney.stl", "out_größe_x.stl"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    for path, volume, surface in zip(written, BLOCKS_MM3, surfaces_of(small_world()), strict=True):
        _, polydata = read(path, "vtkSTLReader")
        assert b"SPACE=LPS" in path.read_bytes()[:80]
        points, triangles = arrays(polydata)
        assert enclosed(points, triangles) == pytest.approx(volume, rel=2e-3)
        assert points.mean(0) == pytest.approx(surface.points_lps_mm.mean(0), abs=1e-3)


def test_one_concept_gives_the_stl_the_very_name_that_was_asked_for(tmp_path: Path) -> None:
    world = small_world()
    alone = Segmentation(world.layers, world.ijk_to_lps, world.findings[:1])
    assert write_surface(tmp_path / "kidney.STL", alone) == [tmp_path / "kidney.STL"]
    # Also found was one of two: whose surface it is must not depend on what became of the other.
    two = Segmentation(world.layers, world.ijk_to_lps, (world.findings[0], world.findings[2]))
    assert write_surface(tmp_path / "kidney.stl", two) == [tmp_path / "kidney_left_kidney.stl"]


def test_objects_have_surfaces_of_their_own_and_names_are_never_the_same(tmp_path: Path) -> None:
    volume = Volume(np.zeros((4, 5, 6), np.float32), np.eye(4))
    written = write_surface(tmp_path / "out.stl", objects_of(volume, overlap=True))
    assert [path.stem for path in written] == ["out_rib_1", "out_rib_2", "out_rib_3", "out_rib_4", "out_spine"]
    layers = segmentation_of(volume)
    twins = tuple(Finding(name, "found", layer=0, label=label) for label, name in ((1, "a/b"), (2, "A b")))
    written = write_surface(tmp_path / "twin.stl", Segmentation(layers.layers, np.eye(4), twins))
    assert [path.name for path in written] == ["twin_a_b.stl", "twin_A_b_2.stl"]


def test_an_obj_has_named_and_coloured_objects_and_says_its_space(tmp_path: Path) -> None:
    written = write_surface(tmp_path / "out.obj", small_world())
    assert [path.name for path in written] == ["out.obj", "out.mtl"]
    reader, polydata = read(written[0], "vtkOBJReader")
    assert "SPACE=LPS" in reader.GetComment()
    assert enclosed(*arrays(polydata)) == pytest.approx(sum(BLOCKS_MM3), rel=2e-3)
    text, colours = (path.read_text(encoding="utf-8") for path in written)
    assert "mtllib out.mtl\n" in text
    assert [line for line in text.splitlines() if line[:2] == "o "] == ["o left kidney", 'o größe/x"']
    assert "usemtl left_kidney\n" in text
    assert "newmtl left_kidney\n" in colours
    assert "Kd 0.72549020 0.40000000 0.32549020\n" in colours


def test_a_vtp_says_of_each_triangle_to_which_segment_it_belongs(tmp_path: Path) -> None:
    from vtkmodules.util.numpy_support import vtk_to_numpy

    world = small_world()
    (path,) = write_surface(tmp_path / "out.vtp", world)
    _, polydata = read(path, "vtkXMLPolyDataReader")
    fields = polydata.GetFieldData()
    assert fields.GetAbstractArray("SPACE").GetValue(0) == "LPS"
    names = fields.GetAbstractArray("SegmentName")
    assert [names.GetValue(number) for number in range(names.GetNumberOfValues())] == ["left kidney", 'größe/x"']
    points, triangles = arrays(polydata)
    owners = vtk_to_numpy(polydata.GetCellData().GetArray("SegmentId"))
    colours = vtk_to_numpy(polydata.GetCellData().GetArray("Color"))
    for number, (volume, finding) in enumerate(zip(BLOCKS_MM3, world.findings, strict=False)):
        assert enclosed(points, triangles[owners == number]) == pytest.approx(volume, rel=2e-3)
        assert {tuple(colour) for colour in colours[owners == number].tolist()} == {finding.colour}


def test_a_glb_stands_upright_in_metres(tmp_path: Path) -> None:
    (path,) = write_surface(tmp_path / "out.glb", small_world())
    _, blocks = read(path, "vtkGLTFReader")
    iterator, volumes, centres = blocks.NewIterator(), [], []
    while not iterator.IsDoneWithTraversal():
        points, triangles = arrays(iterator.GetCurrentDataObject())
        volumes.append(enclosed(points, triangles) * 1e9)
        centres.append((points.min(0) + points.max(0)) / 2)
        iterator.GoToNextItem()
    assert volumes == pytest.approx(BLOCKS_MM3, rel=2e-3)
    # Left, posterior, superior of the first block's middle: (10 - 5 x 0.7, 20 + 5 x 0.7, 30 + 3.5 x 2) mm.
    assert centres[0] == pytest.approx([0.0065, 0.037, -0.0235], abs=2e-4)
    content = path.read_bytes()
    told = json.loads(content[20 : 20 + struct.unpack("<I", content[12:16])[0]])
    assert [node["name"] for node in told["nodes"] if "mesh" in node] == ["left kidney", 'größe/x"']
    colour = told["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"]
    assert colour == pytest.approx([0.485, 0.133, 0.087, 1.0], abs=0.005)  # 185, 102, 83 as light


def test_nothing_found_is_refused_by_a_sentence(tmp_path: Path) -> None:
    world = small_world()
    empty = Segmentation((world.layers[0] * 0,), world.ijk_to_lps, world.findings[2:])
    for suffix in SUFFIXES:
        with pytest.raises(OutputError, match=f"found concept for a surface, got none: out{suffix} was not written"):
            write_surface(tmp_path / f"out{suffix}", empty)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_that_fails_leaves_what_was_there(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Segmentation(small_world().layers, np.eye(4), small_world().findings[:1])
    write_surface(tmp_path / f"out{suffix}", world)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OutputError, match="no space left on device"):
        write_surface(tmp_path / f"out{suffix}", world)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_made_is_said_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"ends in .stl or .obj or .vtp or .glb, got out.ply"):
        check_surface(tmp_path / "out.ply")
    picture = Volume(np.zeros((1, 4, 4), np.float32), np.eye(4), is_2d=True)
    with pytest.raises(OutputError, match="picture"):
        check_surface(tmp_path / "out.stl", picture)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(SettingsError, match=r"'trimesh' is missing; pip install 'medical-sam3\[surface\]'"):
        check_surface(tmp_path / "out.stl")
