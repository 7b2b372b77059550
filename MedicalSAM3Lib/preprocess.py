"""From stored intensities to the model's input, and back: the one windowing and the one resize.

Inference (``stack.py``) and the training loader call the same functions:

    value_ranges -> channel_of -> square_canvas(...).resize -> normalise       slices to model input
    square_canvas(...).restore                                                  mask logits to slices

Shapes: n slices, H W picture rows and columns, S side of the model input, s side of the model's masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.config import WINDOW_PRESETS_HU
from MedicalSAM3Lib.errors import SettingsError

Range = tuple[float, float]
Ranges = tuple[Range, Range, Range]

BODY_HU = -500.0
BODY_MARGIN_MM = 10.0

_EIGHT_BIT: Range = (0.0, 255.0)
_MOST_SAMPLES = 2_000_000
"""Percentiles of more values than this differ by less than one grey level from those of a subset."""


class PreprocessSpec(BaseModel):
    """How a model wants its slices: the content of ``preprocess.json``.

    Attributes:
        image_size: Side S of the model's square input in pixels.
        mean, std: Of the three channels, after scaling to 0..1.
        windows: Modality to one (low, high) for each of the three channels, in stored units (HU for CT).
        percentiles: Modality to the (low, high) percentiles of a volume that become 0 and 1.
        crop: "body" cuts CT pictures to the body's box; "none" keeps whole pictures.
        axis: Slice axis that the model was trained on; used where the volume allows it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(gt=0)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    windows: dict[str, Ranges] = {"CT": (WINDOW_PRESETS_HU["soft"],) * 3}
    percentiles: dict[str, Range] = {"default": (0.5, 99.5)}
    crop: Literal["body", "none"] = "none"
    axis: Literal[0, 1, 2] = 2


def modality_of(array: np.ndarray, modality: str) -> str:
    """Name the modality of an image whose file did not: NIfTI and NRRD carry none.

    Only CT has air near -1000, so values below -500 are taken as proof of CT.

    Args:
        array: Stored values ``(..., H, W)`` or colour ``(..., H, W, 3)``.
        modality: As the file says it, "" if it does not.
    """
    if modality:
        return modality
    return "CT" if array.min() < BODY_HU else ""


def value_ranges(array: np.ndarray, modality: str, spec: PreprocessSpec, window: str = "auto") -> Ranges:
    """Find, once for a whole volume, the stored values that become 0 and 1 in each of three channels.

    CT takes the model's windows; 8-bit photographs and colour are taken as they are; everything else is
    stretched between percentiles of its non-air voxels (those above the minimum, which is how scanners
    and skull-stripping write "nothing here").

    Args:
        array: Whole volume, grey ``(N, H, W)`` or colour ``(N, H, W, 3)``, any numeric type.
        modality: DICOM code, "GREY", "RGB" or "".
        window: As in ``SegmentSettings``; a user's window is repeated in all channels.

    Raises:
        SettingsError: The window cannot apply to this kind of image.
    """
    if window != "auto":
        return (_user_range(array, modality, window),) * 3
    modality = modality_of(array, modality)
    if array.ndim == 4 or (modality in ("RGB", "GREY") and array.min() >= 0 and array.max() <= 255):
        return (_EIGHT_BIT,) * 3
    if modality in spec.windows:
        return spec.windows[modality]
    ends = spec.percentiles.get(modality, spec.percentiles.get("default", (0.5, 99.5)))
    return (_percentile_range(array, ends),) * 3


def apply_window(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale stored values so that ``low`` and below become 0, ``high`` and above 1; float32, same shape."""
    if not low < high:
        raise ValueError(f"expected low < high, got {low} and {high}")
    scaled = (array.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def channel_of(slices: np.ndarray, channel: int, ranges: Ranges) -> np.ndarray:
    """Make one of the three channels of each picture: float32 ``(n, H, W)``, 0..1.

    Args:
        slices: Grey ``(n, H, W)`` or colour ``(n, H, W, 3)``, stored values.
        channel: 0, 1 or 2.
        ranges: ``value_ranges`` of the whole volume.
    """
    plane = slices[..., channel] if slices.ndim == 4 else slices
    return apply_window(plane, *ranges[channel])


def normalise(images: Tensor, spec: PreprocessSpec) -> Tensor:
    """Shift and scale the channels of ``(n, 3, S, S)`` images, 0..1, as the weights expect them."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return (images - mean) / std


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where a picture lies on the model's square input. The square is in mm: nothing looks stretched.

    Attributes:
        picture_hw: Rows and columns of the picture.
        inner_hw: Rows and columns that it takes on the square.
        top_left: First row and column that it takes there; the rest is padding.
        size: Side S of the square in pixels.
    """

    picture_hw: tuple[int, int]
    inner_hw: tuple[int, int]
    top_left: tuple[int, int]
    size: int

    def resize(self, images: Tensor) -> Tensor:
        """Put pictures ``(n, C, H, W)``, 0..1, on the square: ``(n, C, S, S)``, padded with 0 (the floor).

        Bilinear and antialiased; a pixel is an area (``align_corners=False``).
        """
        inner = functional.interpolate(images, size=self.inner_hw, mode="bilinear", antialias=True)
        (top, left), (height, width) = self.top_left, self.inner_hw
        bottom, right = self.size - top - height, self.size - left - width
        return functional.pad(inner, (left, right, top, bottom))

    def restore(self, maps: Tensor, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """Read maps ``(n, s, s)`` over the square at the centres of the picture's pixels: ``(n, H, W)``.

        The exact inverse placement of ``resize`` for any mask side s; the padding is never read, except
        for the neighbour of an edge. ``rows`` and ``columns`` restrict the reading to a part of the picture.
        """
        maps = _read_axis(maps, 1, self._centres(0, maps.shape[1])[rows])
        return _read_axis(maps, 2, self._centres(1, maps.shape[2])[columns])

    def reached(self, axis: int, first: int, last: int, side: int) -> slice:
        """The picture's rows (axis 0) or columns (1) that read any of a map's pixels ``first`` to ``last``."""
        centres = self._centres(axis, side).clamp(0, side - 1)
        inside = torch.nonzero((centres > first - 1) & (centres < last + 1))
        return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)

    def _centres(self, axis: int, side: int) -> Tensor:
        """Positions of all picture pixels along rows (0) or columns (1), in pixels of a map of that side."""
        step = self.inner_hw[axis] / self.picture_hw[axis]
        on_square = self.top_left[axis] + (torch.arange(self.picture_hw[axis], dtype=torch.float64) + 0.5) * step
        return on_square * (side / self.size) - 0.5


def square_canvas(picture_hw: tuple[int, int], pixel_mm: tuple[float, float], size: int) -> Canvas:
    """Fit a picture into a square of side ``size`` pixels: longer side in mm fills it, the rest is centred.

    Args:
        picture_hw: Rows and columns.
        pixel_mm: Height and width of a pixel; only their ratio counts.
    """
    height_mm, width_mm = picture_hw[0] * pixel_mm[0], picture_hw[1] * pixel_mm[1]
    scale = size / max(height_mm, width_mm)
    inner_h = min(max(round(height_mm * scale), 1), size)
    inner_w = min(max(round(width_mm * scale), 1), size)
    return Canvas(picture_hw, (inner_h, inner_w), ((size - inner_h) // 2, (size - inner_w) // 2), size)


def body_box(slices: np.ndarray, pixel_mm: tuple[float, float]) -> tuple[int, int, int, int]:
    """Box around the body in a stack of CT pictures: half-open ``(top, bottom, left, right)`` in pixels.

    The largest connected part above -500 HU, over all slices, plus a margin of 10 mm; the table's rim
    and the air around the patient would otherwise take a third of the model's input. The whole picture
    when nothing is above -500 HU.

    Args:
        slices: Whole volume in HU ``(N, H, W)``.
        pixel_mm: Height and width of a pixel.
    """
    # A body is found as well on about 3 mm pixels, in a fraction of the time and memory.
    steps = [max(1, int(3.0 / size)) for size in pixel_mm]
    parts, count = ndimage.label(slices[:, :: steps[0], :: steps[1]] > BODY_HU, np.ones((3, 3, 3)))
    body = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else parts > 0
    box: list[int] = []
    for axis, step in enumerate(steps):
        inside = np.flatnonzero(body.any(axis=(0, 2 - axis)))
        size = slices.shape[axis + 1]
        if inside.size == 0:
            return 0, slices.shape[1], 0, slices.shape[2]
        margin = round(BODY_MARGIN_MM / pixel_mm[axis])
        # Up to the neighbours that were looked at and are outside, so the margin is never less than promised.
        first, last = (int(inside[0]) - 1) * step + 1, (int(inside[-1]) + 1) * step - 1
        box += [max(0, first - margin), min(size, last + 1 + margin)]
    return box[0], box[1], box[2], box[3]


def _user_range(array: np.ndarray, modality: str, window: str) -> Range:
    if array.ndim == 4:
        raise SettingsError(f"window: a colour image has no window, got '{window}'; use 'auto'.")
    if window not in WINDOW_PRESETS_HU:
        low, high = (float(end) for end in window.split(","))
        return low, high
    if modality not in ("CT", ""):
        raise SettingsError(f"window: '{window}' is in Hounsfield units, the image is {modality}; use auto or LO,HI.")
    return WINDOW_PRESETS_HU[window]


def _percentile_range(array: np.ndarray, percentiles: Range) -> Range:
    values = array.reshape(-1)
    # An odd step does not fall in with the rows of the picture, whose length is mostly even.
    values = values[:: (values.size // _MOST_SAMPLES) | 1]
    inside = values[values > values.min()]
    if inside.size == 0:
        return float(values[0]), float(values[0]) + 1.0
    low, high = (float(end) for end in np.percentile(inside, percentiles))
    return (low, high) if low < high else (low - 1.0, high)


def _read_axis(maps: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Linear interpolation of ``(n, h, w)`` along an axis; beyond the ends the last value holds."""
    last = maps.shape[axis] - 1
    positions = positions.clamp(0, last)
    lower = positions.floor().long().clamp(max=max(last - 1, 0))
    shape = (-1, 1) if axis == 1 else (-1,)
    weight = (positions - lower).to(maps.dtype).view(shape).to(maps.device)
    below, above = (maps.index_select(axis, index.to(maps.device)) for index in (lower, (lower + 1).clamp(max=last)))
    return torch.lerp(below, above, weight)
