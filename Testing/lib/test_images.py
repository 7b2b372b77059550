"""Pictures: every kind of pixel comes out in the file's raster order, and what cannot be used is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from MedicalSAM3Lib import images
from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.files import read_volume

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7


@given(height=st.integers(1, 9), width=st.integers(1, 9), colour=st.booleans(), suffix=st.sampled_from(["png", "tif"]))
@settings(max_examples=25, deadline=None)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, colour: bool, suffix: str
) -> None:
    shape = (height, width, 3) if colour else (height, width)
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path_factory.mktemp("image") / f"x.{suffix}"
    Image.fromarray(array).save(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.array.dtype == np.float32
    assert volume.is_2d
    assert volume.modality == ("RGB" if colour else "GREY")
    np.testing.assert_array_equal(volume.ijk_to_lps, np.eye(4))


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24, 3), (200, 100, 50), np.uint8)).save(tmp_path / "x.JPG", quality=95)
    volume = read_volume(tmp_path / "x.JPG")
    np.testing.assert_allclose(volume.array[0], np.broadcast_to((200, 100, 50), (16, 24, 3)), atol=3)
    assert volume.name == "x"


def test_sixteen_bit_grey_is_kept(tmp_path: Path) -> None:
    array = GREY.astype(np.uint16) * 250
    Image.fromarray(array).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", array)
    for name in ("x.png", "x.tif"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], array)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_sixteen_bit_colour_becomes_0_to_255(tmp_path: Path, planar: str) -> None:
    array = COLOUR.astype(np.uint16) * 257
    data = array if planar == "contig" else np.moveaxis(array, -1, 0)
    tifffile.imwrite(tmp_path / "x.tif", data, photometric="rgb", planarconfig=planar)
    np.testing.assert_allclose(read_volume(tmp_path / "x.tif").array[0], COLOUR, atol=1e-3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_transparent_is_white(tmp_path: Path, suffix: str) -> None:
    array = np.zeros((1, 2, 4), np.uint8)
    array[0, 1] = (10, 20, 30, 255)
    Image.fromarray(array).save(tmp_path / f"x.{suffix}")
    assert read_volume(tmp_path / f"x.{suffix}").array[0].tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[0, 0], [60, 255]]], np.uint8), "LA").save(tmp_path / "x.png")
    assert read_volume(tmp_path / "x.png").array[0, 0].tolist() == [[255, 255, 255], [60, 60, 60]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palettes_become_their_colours(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.save(tmp_path / f"x.{suffix}")
    assert read_volume(tmp_path / f"x.{suffix}").array[0].tolist() == [[[9, 8, 7], [200, 100, 50]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_one_bit_becomes_0_and_255(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1").save(tmp_path / f"x.{suffix}")
    assert read_volume(tmp_path / f"x.{suffix}").array[0].tolist() == [[0, 255, 255]]


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg", "group4"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    image = Image.fromarray(np.full((32, 32, 3), 255, np.uint8))
    image = image.convert("1") if compression == "group4" else image
    image.save(tmp_path / "x.tif", compression=compression)
    assert (read_volume(tmp_path / "x.tif").array == 255).all()


def test_a_page_of_a_tiff_must_be_picked(tmp_path: Path) -> None:
    pages = np.stack([GREY, GREY + 1, GREY + 2])
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack")
    with pytest.raises(InputError, match=r"got 3 pages; pick one with frame= \(--frame\), 0 to 2"):
        read_volume(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_volume(tmp_path / "x.tif", frame=2).array[0], pages[2])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_a_page_of_a_compressed_tiff(tmp_path: Path, compression: str) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY + 1)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:], compression=compression)
    np.testing.assert_array_equal(read_volume(tmp_path / "x.tif", frame=1).array[0], GREY + 1)


def test_a_frame_of_an_imagej_stack(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 4 * 5, dtype=np.uint16).reshape(2, 3, 4, 5)
    tifffile.imwrite(tmp_path / "x.tif", stack, imagej=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "x.tif", frame=4).array[0], stack[1, 1])


def test_a_turned_photograph_stays_as_stored_and_says_so(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    Image.fromarray(COLOUR).save(tmp_path / "x.png", exif=exif)
    notices: list[str] = []
    np.testing.assert_array_equal(read_volume(tmp_path / "x.png", on_notice=notices.append).array[0], COLOUR)
    assert "as stored" in notices[0]


def big_png(path: Path, side: int) -> Path:
    """A PNG whose header promises many pixels."""
    Image.fromarray(GREY).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">2I", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("side", [10_001, 20_000])
def test_a_photograph_of_20000_pixels_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    with pytest.raises(InputError, match=r"at most 100 megapixels, got .*; scale it down"):
        read_volume(big_png(tmp_path / "x.png", side))


def test_a_tiff_of_20000_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", GREY)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(20_000)
    with pytest.raises(InputError, match="got 20000 x 20000"):
        read_volume(tmp_path / "x.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match="truncated, damaged") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_text_with_a_picture_name_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_text("hello")
    with pytest.raises(InputError, match="unknown kind"):
        read_volume(path)


@pytest.mark.parametrize(
    ("array", "settings_", "says"),
    [
        (np.zeros((3, 4, 3), np.float32), {"photometric": "rgb"}, "8 or 16 bit, got float32"),
        (np.zeros((3, 4, 5), np.uint8), {"photometric": "rgb", "planarconfig": "contig"}, "got 5 values per pixel"),
    ],
)
def test_other_colours_are_refused(tmp_path: Path, array: np.ndarray, settings_: dict[str, Any], says: str) -> None:
    tifffile.imwrite(tmp_path / "x.tif", array, **settings_)
    with pytest.raises(InputError, match=says):
        read_volume(tmp_path / "x.tif")
