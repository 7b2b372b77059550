"""Draw the preview figure: each finding outlined and named on the slice where it is largest.

One tile a finding, cut along the plane that shows it best, in true proportions. Its neighbours in that slice
are drawn thinner. Objects that were kept apart have outlines of their own. What was asked for but not found stands
below. A picture (2D) is one tile with all findings.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.atomic import check_writable, replacing
from MedicalSAM3Lib.geometry import (
    Canonical,
    canonical_of,
    choose_axis,
    input_slice_index,
    pixel_mm,
    slices_along,
)
from MedicalSAM3Lib.preview_texts import (
    BACKGROUND,
    EDGE_INCHES,
    LINE_INCHES,
    footer_lines,
    legible,
    mark,
    name_rows,
    write_footer,
    write_header,
    write_names,
    write_title,
)
from MedicalSAM3Lib.preview_tiles import (
    LUNG_HU,
    MOST_TILES,
    Tile,
    View,
    choose_tiles,
    middle_tile,
    outline_of,
    shrink,
    square_view,
)
from MedicalSAM3Lib.segments import Rgb, labels_by_shade
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume, mask_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TILE_INCHES = 3.0
LARGE_TILE_INCHES = 6.5
TITLE_INCHES = 0.42
HEADER_INCHES = 0.4
FOOTER_INCHES = 0.42
DOTS_PER_INCH = 130

PLANES = ("sagittal", "coronal", "axial")
SIDES = (("A", "P", "H", "F"), ("R", "L", "H", "F"), ("R", "L", "A", "P"))
"""Patient's side at the left, right, top and bottom of a sagittal, coronal and axial picture."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a tile is cut from: canonical views of the image and of the label layers, and what was found."""

    volume: Volume
    canonical: Canonical
    image: np.ndarray
    layers: tuple[np.ndarray, ...]
    found: tuple[Finding, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Along canonical i, j, k."""
        return self.canonical.spacing_mm(self.volume.spacing_mm)

    def outlines(self) -> list[tuple[int, Rgb, tuple[int, ...]]]:
        """What is outlined: the place in ``found``, the colour, and the labels."""
        return [
            (number, colour, labels)
            for number, finding in enumerate(self.found)
            for colour, labels in labels_by_shade(finding).items()
        ]

    def slice_masks(self, tile: Tile) -> list[np.ndarray]:
        """Boolean ``(H, W)`` of each outline. Masks of whole volumes, many at a time, would not fit."""
        slices = [slices_along(layer, tile.axis)[tile.index] for layer in self.layers]
        return [mask_of(slices[self.found[number].layer], labels) for number, _, labels in self.outlines()]


def write_preview(path: str | Path, volume: Volume, segmentation: Segmentation) -> None:
    """Write the preview figure as a PNG.

    Args:
        path: A name that ends in ``.png``.
        volume: The image.
        segmentation: On the volume's grid.

    Raises:
        OutputError: It cannot be written; nothing is left behind then.
    """
    path = Path(path)
    check_writable(path, (".png",))
    figure = draw_preview(volume, segmentation)
    with replacing(path) as (partial,), warnings.catch_warnings():
        # A phrase may hold letters that the font lacks; a box in its place is good enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(partial, dpi=DOTS_PER_INCH, facecolor=BACKGROUND)


def draw_preview(volume: Volume, segmentation: Segmentation) -> Figure:
    """Draw the figure, without a window and without matplotlib's global state."""
    from matplotlib.figure import Figure

    scene = scene_of(volume, segmentation)
    found = scene.found
    tiles = tiles_of(scene)
    columns = {1: 1, 2: 2, 3: 3, 5: 3, 6: 3}.get(len(tiles), 4)
    rows = -(-len(tiles) // columns)
    tile_width, tile_height = _tile_inches(scene, tiles)
    width = columns * (tile_width + EDGE_INCHES) + EDGE_INCHES
    undrawn = () if volume.is_2d else found[MOST_TILES:]
    captions = footer_lines(segmentation.findings, undrawn, width)
    title = TITLE_INCHES
    if volume.is_2d:
        title += (len(name_rows(found, tile_width)) - 1) * LINE_INCHES
    height = HEADER_INCHES + rows * (tile_height + title) + FOOTER_INCHES + len(captions) * LINE_INCHES
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        left = EDGE_INCHES + column * (tile_width + EDGE_INCHES)
        bottom = height - HEADER_INCHES - (row + 1) * (tile_height + title)
        box = (left / width, bottom / height, tile_width / width, tile_height / height)
        draw_tile(figure.add_axes(box), tile, scene)
    write_header(figure, volume, segmentation.findings)
    write_footer(figure, captions)
    return figure


def scene_of(volume: Volume, segmentation: Segmentation) -> Scene:
    """All that tiles are cut from."""
    canonical = canonical_of(volume.ijk_to_lps)
    found = tuple(finding for finding in segmentation.findings if finding.state == "found")
    layers = tuple(canonical.to_canonical(layer) for layer in segmentation.layers)
    return Scene(volume, canonical, canonical.to_canonical(volume.array), layers, found)


def tiles_of(scene: Scene, most: int = MOST_TILES) -> list[Tile]:
    """What to draw: the best slice of each of the first findings, or one picture of all."""
    axis = choose_axis(scene.volume, preferred=2)
    k, j, i = scene.image.shape[:3]
    if scene.volume.is_2d or not scene.found:
        return [middle_tile((k, j, i), axis)]
    masks = (mask_of(scene.layers[finding.layer], finding.labels) for finding in scene.found)
    return choose_tiles(masks, scene.spacing_mm, axis, most)


def _tile_inches(scene: Scene, tiles: Sequence[Tile]) -> tuple[float, float]:
    """Width and height of a tile: square, but for a picture, which keeps its own proportions."""
    if not scene.volume.is_2d:
        side = LARGE_TILE_INCHES if len(tiles) == 1 else TILE_INCHES
        return side, side
    height, width = slices_along(scene.image, tiles[0].axis).shape[1:3]
    pixel = pixel_mm(scene.spacing_mm, tiles[0].axis)
    aspect = float(np.clip(height * pixel[0] / (width * pixel[1]), 0.4, 1.6))
    return LARGE_TILE_INCHES, LARGE_TILE_INCHES * aspect


def draw_tile(axes: Axes, tile: Tile, scene: Scene) -> None:
    """Image, outlines, marks and title of one tile."""
    picture, masks, step = shrink(slices_along(scene.image, tile.axis)[tile.index], scene.slice_masks(tile))
    row_mm, column_mm = pixel_mm(scene.spacing_mm, tile.axis)
    pixel = (row_mm * step, column_mm * step)
    main = np.zeros(picture.shape[:2], bool)
    for (number, _, _), mask in zip(scene.outlines(), masks, strict=True):
        main |= mask & (number == tile.finding)
    low, high = _window(scene.volume, picture[main])
    shown = picture / 255.0 if picture.ndim == 3 else picture
    axes.imshow(np.clip(shown, 0, 1) if picture.ndim == 3 else shown, cmap="gray", vmin=low, vmax=high,
                interpolation="bicubic", aspect=pixel[0] / pixel[1])  # fmt: skip
    for (number, colour, _), mask in zip(scene.outlines(), masks, strict=True):
        _draw_outline(axes, mask, legible(colour), is_main=tile.finding in (number, -1))
    axes.set(xticks=[], yticks=[], facecolor="black")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if scene.volume.is_2d:
        height, width = picture.shape[:2]
        _set_view(axes, View(-0.5, width - 0.5, height - 0.5, -0.5))
    else:
        background = low + 0.05 * (high - low)
        _set_view(axes, square_view(picture.mean(axis=2) if picture.ndim == 3 else picture, main, pixel, background))
        _write_marks(axes, tile, scene)
    if tile.finding >= 0:
        write_title(axes, scene.found[tile.finding])
    elif scene.found:
        write_names(axes, name_rows(scene.found, LARGE_TILE_INCHES))


def _window(volume: Volume, inside: np.ndarray) -> tuple[float, float]:
    """Values shown as black and white: the library's own rule, and the lung window for what is dark in CT.

    Args:
        volume: The image.
        inside: Stored values of the finding that the tile is for; empty if it is for none.
    """
    from MedicalSAM3Lib.preprocess import PreprocessSpec, modality_of, value_ranges

    modality = modality_of(volume.array, volume.modality)
    is_lung = modality == "CT" and inside.size > 0 and float(inside.mean()) < LUNG_HU
    return value_ranges(volume.array, modality, PreprocessSpec(image_size=1), "lung" if is_lung else "auto")[0]


def _draw_outline(axes: Axes, mask: np.ndarray, colour: tuple[float, ...], *, is_main: bool) -> None:
    from matplotlib.patheffects import Normal, Stroke

    if not mask.any():
        return
    field = outline_of(mask)
    if is_main:
        axes.contourf(*field, levels=[0.5, 2.0], colors=[colour], alpha=0.25)
    lines = axes.contour(*field, levels=[0.5], colors=[colour], linewidths=1.8 if is_main else 0.8,
                         alpha=1.0 if is_main else 0.75)  # fmt: skip
    if is_main:
        lines.set_path_effects([Stroke(linewidth=2.8, foreground="black", alpha=0.5), Normal()])


def _set_view(axes: Axes, view: View) -> None:
    axes.set_xlim(view.left, view.right)
    axes.set_ylim(view.bottom, view.top)


def _write_marks(axes: Axes, tile: Tile, scene: Scene) -> None:
    """The patient's sides at the edges, and where the slice lies, in the input's own numbering."""
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"), (0.5, 0.98, "center", "top"),
              (0.5, 0.02, "center", "bottom"))  # fmt: skip
    for side, (x, y, across, along) in zip(SIDES[tile.axis], places, strict=True):
        mark(axes, x, y, side, ha=across, va=along)
    numbers = input_slice_index(scene.canonical, tile.axis, scene.image.shape[2 - tile.axis])
    where = f"{PLANES[tile.axis]} {numbers[tile.index]}"
    mark(axes, 0.98, 0.02, where, ha="right", va="bottom")
