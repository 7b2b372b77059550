"""Small pictures, one for each found concept: a tile of the preview figure, at a size for tables."""

from __future__ import annotations

import warnings
from pathlib import Path

from MedicalSAM3Lib.preview import TILE_INCHES, draw_tile, scene_of, tiles_of
from MedicalSAM3Lib.preview_texts import BACKGROUND
from MedicalSAM3Lib.structures import Segmentation, Volume

SIDE = 300
"""Pixels."""


def write_thumbnails(folder: Path, volume: Volume, segmentation: Segmentation) -> None:
    """Write ``0.jpg``, ``1.jpg``... into a folder, by the place of the finding; of a picture (2D) each shows all."""
    from matplotlib.figure import Figure

    places = [place for place, finding in enumerate(segmentation.findings) if finding.state == "found"]
    if not places:
        return
    scene = scene_of(volume, segmentation)
    tiles = tiles_of(scene, len(places))
    if len(tiles) < len(places):
        tiles *= len(places)
    for place, tile in zip(places, tiles, strict=True):
        figure = Figure(figsize=(TILE_INCHES, TILE_INCHES), facecolor=BACKGROUND)
        draw_tile(figure.add_axes((0.0, 0.0, 1.0, 1.0)), tile, scene)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(folder / f"{place}.jpg", dpi=SIDE / TILE_INCHES, pil_kwargs={"quality": 80})
