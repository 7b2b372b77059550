"""Surfaces as files: STL and VTP by VTK, OBJ and GLB by trimesh. Which frame and unit each has, ``surface`` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from MedicalSAM3Lib.atomic import replacing

if TYPE_CHECKING:
    from MedicalSAM3Lib.surface import Surface

SPACE = "SPACE=LPS"
"""As 3D Slicer looks for it in headers and comments."""

LPS_MM_TO_GLTF = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]) / 1000
"""To left, up and front in metres: no mirror, so that triangles keep facing outward."""


def write(path: Path, surfaces: Sequence[Surface], *, is_alone: bool) -> list[Path]:
    """Write surfaces in the format that the suffix names; all files appear whole or none does.

    Args:
        path: A name that ends in one of ``surface.SUFFIXES``.
        surfaces: At least one.
        is_alone: Whether no more than this one surface was asked for: an STL has the given name then, and not that of
            its segment added.

    Returns:
        The files.

    Raises:
        OutputError: They cannot be written.
    """
    suffix = path.suffix.lower()
    paths = [path]
    if suffix == ".stl" and not is_alone:
        paths = [path.with_name(f"{path.stem}_{name}{path.suffix}") for name in _file_names(surfaces)]
    elif suffix == ".obj":
        paths.append(path.with_suffix(".mtl"))
    with replacing(*paths) as partial:
        WRITERS[suffix](partial, surfaces, paths)
    return paths


def _file_names(surfaces: Sequence[Surface]) -> list[str]:
    """A name for the file of each surface: letters, digits and "_" only, none twice."""
    names: list[str] = []
    for surface in surfaces:
        base = name = "_".join("".join(c if c.isalnum() else " " for c in surface.name).split()) or "segment"
        number = 1
        while name.casefold() in (known.casefold() for known in names):
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names


def _write_stl(files: Sequence[Path], surfaces: Sequence[Surface], paths: Sequence[Path]) -> None:
    from vtkmodules.vtkIOGeometry import vtkSTLWriter

    for file, surface in zip(files, surfaces, strict=True):
        writer = vtkSTLWriter()
        writer.SetFileTypeToBinary()
        writer.SetHeader(f"MedicalSAM3. {SPACE}")
        _run(writer, file, _polydata(surface.points_lps_mm, surface.triangles))


def _write_vtp(files: Sequence[Path], surfaces: Sequence[Surface], paths: Sequence[Path]) -> None:
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkCommonCore import vtkStringArray
    from vtkmodules.vtkIOXML import vtkXMLPolyDataWriter

    starts = np.cumsum([0, *(len(surface.points_lps_mm) for surface in surfaces)])
    together = _polydata(
        np.concatenate([surface.points_lps_mm for surface in surfaces]),
        np.concatenate([surface.triangles + start for surface, start in zip(surfaces, starts, strict=False)]),
    )
    counts = [len(surface.triangles) for surface in surfaces]
    of_triangles = {
        "SegmentId": np.repeat(np.arange(len(surfaces), dtype=np.int32), counts),
        "Color": np.repeat(np.array([surface.colour for surface in surfaces], np.uint8), counts, axis=0),
    }
    for name, values in of_triangles.items():
        array = numpy_to_vtk(values, deep=True)
        array.SetName(name)
        together.GetCellData().AddArray(array)
    of_file = {"SPACE": ["LPS"], "SegmentName": [surface.name for surface in surfaces]}
    for name, texts in of_file.items():
        array = vtkStringArray()
        array.SetName(name)
        for text in texts:
            array.InsertNextValue(text)
        together.GetFieldData().AddArray(array)
    _run(vtkXMLPolyDataWriter(), files[0], together)


def _write_obj(files: Sequence[Path], surfaces: Sequence[Surface], paths: Sequence[Path]) -> None:
    from trimesh import Scene
    from trimesh.exchange.obj import export_obj
    from trimesh.visual.material import SimpleMaterial

    scene = Scene()
    for surface, name in zip(surfaces, _file_names(surfaces), strict=True):
        mesh = _mesh(surface.points_lps_mm, surface, SimpleMaterial(diffuse=[*surface.colour, 255], name=name))
        mesh.metadata["name"] = " ".join(surface.name.split())
        scene.add_geometry(mesh)
    header = f"MedicalSAM3. {SPACE}"
    text, others = export_obj(scene, mtl_name=paths[1].name, return_texture=True, header=header, digits=4)
    files[0].write_text(text, encoding="utf-8")
    files[1].write_bytes(others[paths[1].name])


def _write_glb(files: Sequence[Path], surfaces: Sequence[Surface], paths: Sequence[Path]) -> None:
    from trimesh import Scene
    from trimesh.exchange.gltf import export_glb
    from trimesh.visual.material import PBRMaterial

    scene = Scene()
    for surface in surfaces:
        colour = [*_linear(np.array(surface.colour) / 255), 1.0]
        material = PBRMaterial(name=surface.name, baseColorFactor=colour, metallicFactor=0.0, roughnessFactor=0.7)
        mesh = _mesh(surface.points_lps_mm @ LPS_MM_TO_GLTF.T, surface, material)
        scene.add_geometry(mesh, node_name=surface.name, geom_name=surface.name)
    files[0].write_bytes(export_glb(scene, include_normals=True))


WRITERS: dict[str, Callable[[Sequence[Path], Sequence[Surface], Sequence[Path]], None]] = {
    ".stl": _write_stl,
    ".vtp": _write_vtp,
    ".obj": _write_obj,
    ".glb": _write_glb,
}
"""By suffix; each takes the files to write, what to write, and the names that the files will have."""


def _polydata(points: np.ndarray, triangles: np.ndarray) -> Any:
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray
    from vtkmodules.vtkCommonCore import vtkPoints
    from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkPolyData

    vtk_points, cells, polydata = vtkPoints(), vtkCellArray(), vtkPolyData()
    vtk_points.SetData(numpy_to_vtk(points.astype(np.float32), deep=True))
    cells.SetData(3, numpy_to_vtkIdTypeArray(np.ascontiguousarray(triangles.ravel(), np.int64), deep=True))
    polydata.SetPoints(vtk_points)
    polydata.SetPolys(cells)
    return polydata


def _run(writer: Any, file: Path, polydata: Any) -> None:
    writer.SetInputData(polydata)
    writer.SetFileName(str(file))
    if not writer.Write() or writer.GetErrorCode():
        raise RuntimeError("VTK could not write the file")


def _mesh(points: np.ndarray, surface: Surface, material: Any) -> Any:
    from trimesh import Trimesh
    from trimesh.visual import TextureVisuals

    return Trimesh(points, surface.triangles, visual=TextureVisuals(material=material), process=False)


def _linear(colour: np.ndarray) -> np.ndarray:
    """sRGB, 0..1, as the light that glTF counts in."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
