"""Polygons beside the image: LabelMe JSON, VOC and ImageScope XML, lines of coordinates."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import Case, CaseFiles, Index
from Training.adapters.decode import Masks
from Training.adapters.indexing import pair_files
from Training.adapters.knowledge import known_slices
from Training.adapters.reading import is_picture, read_image
from Training.dataset_layouts import ArrayOptions, PolygonsLayout
from Training.dataset_spec import INSIDE, DatasetSpec

Polygon = tuple[str, np.ndarray]
"""A label and its corners ``(N, 2)`` as (x, y) in pixels."""


def index(source: Path, layout: PolygonsLayout, spec: DatasetSpec) -> Index:
    """All cases of a tree, by their names alone."""
    return pair_files(source, spec, layout.image, layout.mask, layout.negative)


def read(source: Path, layout: PolygonsLayout, spec: DatasetSpec, files: CaseFiles) -> Case:
    """The pixels of one case; every polygon is an object.

    Raises:
        InputError: A file cannot be read, or was drawn on a picture of another size.
    """
    path = source / files.image
    image = read_image(path, ArrayOptions())
    if not image.is_2d:
        raise InputError(f"Expected a picture under polygons, got a volume: {files.image}.")
    masks = Masks(spec, image.shape_kji)
    for file in files.masks:
        try:
            for label, corners in read_polygons(source / file.path, layout, image.shape_kji[1:]):
                masks.add_object(file.label or label, fill(corners, image.shape_kji[1:])[None])
        except InputError as error:
            raise InputError(f"{file.path}: {error}") from error
    image_file = path if is_picture(path) else None
    return masks.case(image, image_file, known_slices(spec, files, masks))


def fill(corners_xy: np.ndarray, shape_ji: tuple[int, int]) -> np.ndarray:
    """Pixels of a picture inside a polygon, its border among them; what lies outside the picture is cut off."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (shape_ji[1], shape_ji[0]))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners_xy], fill=1)
    return np.asarray(canvas)


def read_polygons(path: Path, layout: PolygonsLayout, shape_ji: tuple[int, int]) -> list[Polygon]:
    """Polygons of a file with their labels; those of fewer than three corners have no inside and are none.

    Raises:
        InputError: It cannot be read, or says that its picture has another size.
    """
    try:
        if layout.form == "labelme":
            found = list(_labelme(path, layout.shapes, shape_ji))
        elif layout.form == "voc":
            found = list(_voc(ElementTree.parse(path).getroot(), shape_ji))
        elif layout.form == "imagescope":
            found = list(_imagescope(ElementTree.parse(path).getroot()))
        else:
            found = [(INSIDE, np.loadtxt(path, ndmin=2, delimiter=_delimiter(path))[:, :2])]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, IndexError, ElementTree.ParseError) as error:
        raise InputError(f"Expected polygons ({layout.form}), cannot read them; copy the file again.") from error
    return [(label, corners) for label, corners in found if len(corners) >= 3]


def _labelme(path: Path, shapes: tuple[str, ...], shape_ji: tuple[int, int]) -> Iterator[Polygon]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    _check_size(content.get("imageHeight"), content.get("imageWidth"), shape_ji)
    for shape in content["shapes"]:
        if shape.get("shape_type", "polygon") in shapes:
            corners = np.asarray(shape["points"], float).reshape(-1, 2)
            if shape.get("shape_type") == "rectangle" and len(corners) == 2:
                (left, top), (right, bottom) = corners
                corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            yield str(shape["label"]), corners


def _voc(root: ElementTree.Element, shape_ji: tuple[int, int]) -> Iterator[Polygon]:
    size = root.find("size")
    if size is not None:
        _check_size(size.findtext("height"), size.findtext("width"), shape_ji)
    for item in root.iter("object"):
        polygon = item.find("polygon")
        if polygon is None:
            continue
        numbers = sorted({int(child.tag[1:]) for child in polygon if child.tag[1:].isdigit()})
        corners = [[float(polygon.findtext(f"{axis}{n}") or "nan") for axis in "xy"] for n in numbers]
        if not np.isfinite(corners).all():
            raise ValueError("a corner without x or y")
        yield (item.findtext("name") or "").strip(), np.asarray(corners, float).reshape(-1, 2)


def _imagescope(root: ElementTree.Element) -> Iterator[Polygon]:
    """Regions; those of an annotation layer have its name, or "inside" where it has none."""
    for annotation in root.iter("Annotation"):
        name = (annotation.get("Name") or "").strip() or INSIDE
        for region in annotation.iter("Region"):
            vertices = [(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")]
            if region.get("NegativeROA", "0") != "1":
                yield name, np.asarray(vertices, float).reshape(-1, 2)


def _check_size(height: object, width: object, shape_ji: tuple[int, int]) -> None:
    if height and width and (int(str(height)), int(str(width))) != shape_ji:
        raise InputError(f"Expected polygons drawn on {shape_ji}, as the image, got {height} x {width}.")


def _delimiter(path: Path) -> str | None:
    with path.open(encoding="utf-8") as file:
        return "," if "," in file.readline() else None
