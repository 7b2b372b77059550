"""Preview: the right slice, the right proportions, every answer named, and a file whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from MedicalSAM3Lib import preview, preview_tiles
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.structures import Finding, ObjectPart, Segmentation, Volume

AIR, TISSUE = -1000.0, 50.0


def body(shape: tuple[int, int, int] = (30, 40, 50), spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """A block of tissue in air; its array lies along Left, Posterior, Superior."""
    array = np.full(shape, AIR, np.float32)
    array[:, 5:-5, 5:-5] = TISSUE
    return Volume(array, np.diag([*spacing, 1.0]), "CT", name="phantom")


def found(volume: Volume, boxes: dict[str, tuple[slice, slice, slice]], *others: Finding) -> Segmentation:
    """A finding for each box."""
    layer = np.zeros(volume.shape_kji, np.uint16)
    findings = []
    for label, (phrase, box) in enumerate(boxes.items(), start=1):
        layer[box] = label
        findings.append(Finding(phrase, "found", presence=0.9, volume_ml=12.345, voxels=7, layer=0, label=label))
    return Segmentation((layer,), volume.ijk_to_lps, (*findings, *others))


def texts(figure: Figure) -> str:
    """All that is written in a figure."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text))


def test_the_slice_is_the_one_with_the_largest_area() -> None:
    mask = np.zeros((30, 40, 50), bool)
    mask[12, 10:14, 10:14] = mask[17, 10:20, 10:20] = True
    assert preview_tiles.choose_tiles([mask], (1.0, 1.0, 1.0), 2) == [preview_tiles.Tile(2, 17, 0)]


@pytest.mark.parametrize(
    ("box", "tile"),
    [
        ((slice(2, 28), slice(20, 23), slice(10, 40)), preview_tiles.Tile(1, 20, 0)),
        ((slice(2, 28), slice(10, 30), slice(24, 27)), preview_tiles.Tile(0, 24, 0)),
        ((slice(10, 20), slice(10, 20), slice(10, 20)), preview_tiles.Tile(2, 10, 0)),
    ],
)
def test_the_plane_is_the_one_that_shows_most(box: tuple[slice, slice, slice], tile: preview_tiles.Tile) -> None:
    mask = np.zeros((30, 40, 50), bool)
    mask[box] = True
    assert preview_tiles.choose_tiles([mask], (1.0, 1.0, 1.0), 2) == [tile]


@pytest.mark.parametrize(("shape", "spacing"), [((6, 40, 50), (1.0, 1.0, 1.0)), ((30, 40, 50), (1.0, 1.0, 5.0))])
def test_strips_and_thick_slices_are_no_picture(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    mask = np.zeros(shape, bool)
    mask[:, 20, 10:40] = True
    assert preview_tiles.choose_tiles([mask], spacing, 2)[0].axis == 2


def test_the_view_is_square_in_mm_and_holds_body_and_mask() -> None:
    picture = np.full((40, 50), AIR)
    picture[10:20, 10:20] = TISSUE
    mask = np.zeros((40, 50), bool)
    mask[12:14, 40:45] = True
    view = preview_tiles.square_view(picture, mask, (2.0, 1.0), -200.0)
    assert (view.bottom - view.top) * 2.0 == pytest.approx((view.right - view.left) * 1.0)
    assert view.left < 10 < 45 < view.right
    assert view.top < 10 < 20 < view.bottom


@pytest.mark.parametrize("thickness", [1, 2, 20])
def test_an_outline_never_loses_a_thin_mask(thickness: int) -> None:
    mask = np.zeros((40, 40), bool)
    mask[10 : 10 + thickness, 5:35] = True
    _, _, field = preview_tiles.outline_of(mask)
    assert field.max() > 0.5
    dot = np.zeros((40, 40), bool)
    dot[3, 3] = True
    columns, rows, field = preview_tiles.outline_of(dot)
    at = np.unravel_index(field.argmax(), field.shape)
    assert field.max() > 0.5
    assert (rows[at[0]], columns[at[1]]) == pytest.approx((3, 3), abs=0.6)


def test_every_answer_is_named(tmp_path: Path) -> None:
    volume = body()
    segmentation = found(
        volume,
        {"liver": np.s_[5:20, 10:30, 10:30]},
        Finding("brain", "not_found", presence=0.02),
        Finding("heart", "failed", reason="x"),
    )
    written = texts(preview.draw_preview(volume, segmentation))
    for part in ("liver", "12.3 ml", "Not found (presence): brain 0.02", "Failed: heart", "Research use", "phantom"):
        assert part in written
    assert "1 found" in written
    preview.write_preview(tmp_path / "x.png", volume, segmentation)
    with Image.open(tmp_path / "x.png") as image:
        assert min(image.size) > 700


def test_more_findings_than_tiles_are_still_named() -> None:
    volume = body()
    boxes = {f"part {n}": np.s_[2 * n : 2 * n + 2, 10:20, 10:20] for n in range(10)}
    figure = preview.draw_preview(volume, found(volume, boxes))
    assert len(figure.axes) == preview_tiles.MOST_TILES
    assert "Found, not drawn: part 8, part 9" in texts(figure)


@pytest.mark.parametrize("is_2d", [False, True])
def test_objects_share_a_tile_and_have_outlines_of_their_own(is_2d: bool) -> None:
    volume = body((1 if is_2d else 4, 40, 50))
    volume = Volume(volume.array, volume.ijk_to_lps, "CT", is_2d=is_2d)
    boxes = {"rib": np.s_[:, 10:20, 10:20], "also": np.s_[:, 10:20, 20:30], "heart": np.s_[:, 25:30, 10:20]}
    apart = found(volume, boxes)
    parts = tuple(ObjectPart(label, 7, 6.0, (0, 0), 0.9) for label in (1, 2))
    ribs = Finding("rib", "found", colour=(200, 90, 60), voxels=14, volume_ml=12.345, layer=0, label=1, objects=parts)
    segmentation = Segmentation(apart.layers, volume.ijk_to_lps, (ribs, apart.findings[2]))
    figure = preview.draw_preview(volume, segmentation)
    size = "14 px" if is_2d else "12.3 ml"
    assert f"2 objects \N{MIDDLE DOT} {size}" in texts(figure)
    assert len(figure.axes) == (1 if is_2d else 2)
    lines = [each for each in figure.axes[0].collections if each.get_edgecolor().size]
    assert len({tuple(each.get_edgecolor()[0][:3]) for each in lines}) == 3  # two ribs, one heart


def test_nothing_found_shows_the_middle_slice() -> None:
    volume = body()
    figure = preview.draw_preview(volume, found(volume, {}, Finding("liver", "not_found", presence=0.1)))
    assert len(figure.axes) == 1
    assert "axial 15" in texts(figure)


def test_slice_numbers_are_the_inputs_own() -> None:
    volume = body()
    flipped = Volume(volume.array, np.diag([1.0, 1.0, -1.0, 1.0]), "CT")
    figure = preview.draw_preview(flipped, found(flipped, {"liver": np.s_[4:5, 10:30, 10:30]}))
    assert "axial 4" in texts(figure)


def test_pixels_keep_their_proportions() -> None:
    volume = body(spacing=(1.0, 2.0, 1.0))
    axes = preview.draw_preview(volume, found(volume, {"liver": np.s_[4:5, 10:30, 10:30]})).axes[0]
    assert axes.get_aspect() == pytest.approx(2.0)


@pytest.mark.parametrize(("value", "limits"), [(TISSUE, (-160.0, 240.0)), (-850.0, (-1350.0, 150.0))])
def test_dark_findings_of_ct_get_the_lung_window(value: float, limits: tuple[float, float]) -> None:
    volume = body()
    volume.array[5:20, 10:30, 10:30] = value
    axes = preview.draw_preview(volume, found(volume, {"x": np.s_[5:20, 10:30, 10:30]})).axes[0]
    assert axes.images[0].get_clim() == limits


@pytest.mark.parametrize("colour", [False, True])
def test_a_picture_is_one_tile_with_all_names(tmp_path: Path, colour: bool) -> None:
    array = np.random.default_rng(0).uniform(0, 255, (1, 30, 60, 3) if colour else (1, 30, 60)).astype(np.float32)
    volume = Volume(array, np.eye(4), "RGB" if colour else "GREY", is_2d=True, name="photo")
    segmentation = found(volume, {"optic disc": np.s_[:, 5:10, 5:10], "$vessel$": np.s_[:, 15:20, 5:50]})
    figure = preview.draw_preview(volume, segmentation)
    assert len(figure.axes) == 1
    assert "optic disc \N{MIDDLE DOT} 7 px" in texts(figure)
    width, height = figure.axes[0].get_position().size * figure.get_size_inches()
    assert width / height == pytest.approx(2.0)
    preview.write_preview(tmp_path / "x.png", volume, segmentation)


def test_a_huge_picture_is_shrunk_without_losing_a_finding() -> None:
    picture = np.zeros((5000, 4097, 3), np.float32)
    mask = np.zeros((5000, 4097), bool)
    mask[4999, 4096] = mask[100, 200] = True
    small, (dots,), step = preview_tiles.shrink(picture, [mask])
    assert step == 3
    assert small.shape[:2] == dots.shape
    assert max(dots.shape) <= preview_tiles.MOST_SIDE
    assert np.argwhere(dots).tolist() == [[33, 66], [1666, 1365]]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (3, 1, 2)])
def test_degenerate_volumes_are_drawn(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    volume = Volume(np.zeros(shape, np.float32), np.eye(4))
    everything = {"x": np.s_[:, :, :]}
    preview.write_preview(tmp_path / "x.png", volume, found(volume, everything))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_phrases_beyond_the_font_and_beyond_the_width(tmp_path: Path) -> None:
    volume = body()
    boxes = {"肝臓": np.s_[4:9, 10:30, 10:30], "a very long phrase " * 9: np.s_[9:12, 10:30, 10:30]}
    absent = [Finding(f"absent concept number {n}", "not_found") for n in range(30)]
    segmentation = found(volume, boxes, *absent)
    preview.write_preview(tmp_path / "x.png", volume, segmentation)
    written = texts(preview.draw_preview(volume, segmentation))
    assert "absent concept number 29" in written
    assert "a very long phrase a very\N{HORIZONTAL ELLIPSIS}" in written


def test_a_failing_writer_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Figure, path: Path, **__: object) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OutputError, match="no space left"):
        preview.write_preview(tmp_path / "x.png", body(), found(body(), {}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match=r"ends in .png"):
        preview.write_preview(tmp_path / "x.jpg", body(), found(body(), {}))


def test_no_window_is_opened(tmp_path: Path) -> None:
    preview.write_preview(tmp_path / "x.png", body(), found(body(), {}))
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
