"""Read pictures: PNG, JPEG, TIFF, BMP, GIF and PPM, grey or colour, 8 or 16 bit, as a volume of one slice.

Pixels lie in the file's own raster order, so that a mask fits the file pixel for pixel: an EXIF
orientation, by which viewers turn photographs, is not applied but reported. Transparency is laid over
white, palettes become RGB. Pictures carry no trustworthy size: one pixel counts as 1 mm.

Grey values stay as stored (1-bit becomes 0 and 255); colour becomes 0..255.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.guards import pick_frame, require_memory
from MedicalSAM3Lib.quiet import quiet
from MedicalSAM3Lib.structures import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")

MOST_PIXELS = 100_000_000
"""10,000 x 10,000: a colour picture of this size takes 1.2 GB as float32, and the model sees far less."""

EXIF_ORIENTATION = 274

MIN_IS_BLACK, RGB = 1, 2
"""TIFF photometric interpretations that need no conversion."""

OnNotice = Callable[[str], None]


def read_image(path: Path, frame: int | None, notice: OnNotice) -> Volume:
    """Read a picture.

    Args:
        path: A file that ends in one of ``SUFFIXES``.
        frame: Which page of a TIFF, 0-based.
        notice: Called with what a viewer would show differently.

    Raises:
        InputError: Damaged, too large, of an unknown kind, or a page must be picked.
    """
    notices: list[str] = []
    try:
        with quiet():
            if path.suffix.lower() in (".tif", ".tiff"):
                array = _read_tiff(path, frame)
            else:
                array = _read_with_pillow(path, frame, notices)
    except InputError:
        raise
    # Both libraries raise many types on damaged files: OSError, ValueError, SyntaxError, struct.error, ...
    except Exception as error:
        raise InputError(
            f"Expected a complete picture, got one that is truncated, damaged or of an unknown kind ({path.name}); "
            "save it again as PNG."
        ) from error
    # Not before: what a notice writes to the screen would have gone the way of the noise.
    for line in notices:
        notice(line)
    modality = "RGB" if array.ndim == 3 else "GREY"
    return Volume(array[None].astype(np.float32), np.eye(4), modality, is_2d=True, name=path.stem)


def _read_with_pillow(path: Path, frame: int | None, notices: list[str]) -> np.ndarray:
    """Grey ``(H, W)`` as stored, or colour ``(H, W, 3)`` uint8."""
    from PIL import Image

    with warnings.catch_warnings():
        # Pillow warns, and later refuses, by limits of its own; ours says what to do.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image: Image.Image = Image.open(path)
        except Image.DecompressionBombError as error:
            raise _too_large("more") from error
    with image:
        _check_size(image.height, image.width, len(image.getbands()))
        image.seek(pick_frame(frame, getattr(image, "n_frames", 1), "pages"))
        if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
            notices.append("The photograph is marked to be shown turned; the mask lies on its pixels as stored.")
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")
        elif image.mode == "1":
            image = image.convert("L")
        elif image.mode not in ("L", "F") and not image.mode.startswith("I"):
            image = image.convert("RGB")
        return np.asarray(image)


def _read_tiff(path: Path, frame: int | None) -> np.ndarray:
    """One page: grey ``(H, W)`` as stored, or colour ``(H, W, 3)`` scaled to 0..255."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series, page = tiff.series[0], tiff.series[0].keyframe
        samples = series.shape[series.axes.index("S")] if "S" in series.axes else 1
        num_pages = int(np.prod(series.shape, dtype=object)) // (page.imagelength * page.imagewidth * samples)
        _check_size(page.imagelength, page.imagewidth, samples)
        index = pick_frame(frame, num_pages, "pages")
        require_memory(series.shape, series.dtype.itemsize)
        # tifffile decodes LZW, JPEG and fax only with a large extra package; Pillow has them built in.
        if page.photometric not in (MIN_IS_BLACK, RGB) or not _decodes(series):
            return _read_with_pillow(path, index, [])
        array = series.asarray()
    if samples == 1:
        return _stretch_bits(array.reshape(num_pages, page.imagelength, page.imagewidth)[index])
    # Samples last in each page, wherever the file keeps them (planar or interleaved).
    array = np.moveaxis(array, series.axes.index("S"), -1)
    return _colour(array.reshape(num_pages, page.imagelength, page.imagewidth, samples)[index])


def _decodes(series: object) -> bool:
    """Whether tifffile can decode a series with what is installed."""
    try:
        next(iter(series.keyframe.segments()))  # type: ignore[attr-defined]
    except ValueError:
        return False
    return True


def _stretch_bits(grey: np.ndarray) -> np.ndarray:
    return grey * np.uint8(255) if grey.dtype == bool else grey


def _colour(array: np.ndarray) -> np.ndarray:
    """RGB in 0..255 of ``(H, W, 2..4)`` in any integer type; alpha is laid over white."""
    if not np.issubdtype(array.dtype, np.unsignedinteger):
        raise InputError(f"Expected a colour TIFF of 8 or 16 bit, got {array.dtype}; save it as 8 bit.")
    scaled = array.astype(np.float32) * np.float32(255.0 / np.iinfo(array.dtype).max)
    if scaled.shape[-1] in (2, 4):
        alpha = scaled[..., -1:] / 255.0
        scaled = scaled[..., :-1] * alpha + 255.0 * (1.0 - alpha)
    if scaled.shape[-1] not in (1, 3):
        raise InputError(f"Expected a grey or RGB TIFF, got {scaled.shape[-1]} values per pixel; save it as RGB.")
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def _check_size(height: int, width: int, channels: int) -> None:
    if height * width > MOST_PIXELS:
        raise _too_large(f"{width} x {height}")
    require_memory((height, width, channels), 1)


def _too_large(size: str) -> InputError:
    return InputError(
        f"Expected a picture of at most {MOST_PIXELS // 1_000_000} megapixels, got {size}; "
        "scale it down, or cut out the part of interest."
    )
