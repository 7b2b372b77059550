"""A volume as a stack of pictures for the model, and the way back. Pictures are made batch by batch:
the model's inputs for a whole volume (12 MB a slice at full size) never exist at once.

Three grids: the *input* (k, j, i); the *stack*, all pictures across the chosen axis (``geometry``); and the
*region*, the box of the stack where answers are wanted. The canvas, what the model sees of each picture, may be
larger than the region: a region of interest says where to look, not at what magnification, because
the model was trained on whole pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.evidence import Patch, box_of
from MedicalSAM3Lib.geometry import (
    Canonical,
    canonical_of,
    choose_axis,
    input_slice_index,
    pixel_mm,
    slices_along,
    volume_from_slices,
)
from MedicalSAM3Lib.preprocess import (
    Canvas,
    PreprocessSpec,
    Ranges,
    body_box,
    channel_of,
    modality_of,
    normalise,
    square_canvas,
    value_ranges,
)
from MedicalSAM3Lib.structures import Volume


@dataclass(frozen=True, slots=True)
class SliceStack:
    """The pictures to segment. Slice n means ``pictures[n]``, in stack order.

    Attributes:
        pictures: View of the volume ``(N, H, W)`` or ``(N, H, W, 3)``: wanted slices, canvas part.
        slice_numbers: The input's own number of each slice, 0-based ``(N,)``.
        axis: Patient axis across which the slices lie: 0, 1 or 2.
        slice_mm: Distance between slices.
        modality: As the volume says it, or as its values do.
    """

    pictures: np.ndarray
    slice_numbers: np.ndarray
    axis: int
    slice_mm: float
    modality: str
    spec: PreprocessSpec
    ranges: Ranges
    canvas: Canvas
    _canonical: Canonical
    _shape_nhw: tuple[int, int, int]
    _region: tuple[slice, slice, slice]
    _canvas_corner: tuple[int, int]

    def __len__(self) -> int:
        return len(self.slice_numbers)

    @property
    def region_shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the region."""
        n, h, w = (part.stop - part.start for part in self._region)
        return n, h, w

    def take(self, numbers: Sequence[int] | np.ndarray) -> SliceStack:
        """Some of the slices, in this order, as a stack of their own: copies, on the same canvas."""
        if list(numbers) == list(range(len(self))):
            return self
        _, height, width = self._shape_nhw
        return replace(
            self,
            pictures=self.pictures[list(numbers)],
            slice_numbers=self.slice_numbers[list(numbers)],
            _shape_nhw=(len(numbers), height, width),
            _region=(slice(0, len(numbers)), *self._region[1:]),
        )

    def batch(self, indices: slice, device: torch.device) -> Tensor:
        """Make the model's input for some slices: ``(n, 3, S, S)`` on the device."""
        slices = self.pictures[indices]
        channels: list[Tensor] = []
        for channel in range(3):
            if channel and slices.ndim == 3 and self.ranges[channel] == self.ranges[channel - 1]:
                channels.append(channels[-1])
                continue
            plane = torch.from_numpy(channel_of(slices, channel, self.ranges))
            channels.append(self.canvas.resize(plane[:, None]))
        return normalise(torch.cat(channels, dim=1).to(device), self.spec)

    def restore(self, maps: Tensor) -> np.ndarray:
        """Read maps ``(n, s, s)`` over the model's square on the region's pixels: float32 ``(n, h, w)``."""
        return self.canvas.restore(maps.float(), *self._region_in_picture()).cpu().numpy()

    def read(self, map_ss: Tensor) -> Patch | None:
        """Read a map ``(s, s)`` as ``restore`` does, but only around where it is above 0; None where it nowhere is."""
        box, in_picture = [], []
        for axis, part in enumerate(self._region_in_picture()):
            shown = torch.nonzero((map_ss > 0).any(1 - axis))
            if len(shown) == 0:
                return None
            reached = self.canvas.reached(axis, int(shown[0]), int(shown[-1]), len(map_ss))
            first, last = max(reached.start, part.start), min(reached.stop, part.stop)
            if first >= last:
                return None
            in_picture.append(slice(first, last))
            box.append(slice(first - part.start, last - part.start))
        return Patch(tuple(box), self.canvas.restore(map_ss[None].float(), *in_picture)[0].cpu().numpy())

    def _region_in_picture(self) -> list[slice]:
        """Rows and columns of the region, counted from the canvas's own corner."""
        return [
            slice(part.start - corner, part.stop - corner)
            for part, corner in zip(self._region[1:], self._canvas_corner, strict=True)
        ]

    def to_input(self, region: np.ndarray) -> np.ndarray:
        """Put labels of the region ``(n, h, w)`` on the input's grid ``(K, J, I)``; 0 outside the region."""
        array = np.zeros(self.input_shape, region.dtype)
        self.from_input(array)[...] = region
        return array

    def from_input(self, array_kji: np.ndarray) -> np.ndarray:
        """View an array ``(K, J, I)`` on the region's grid ``(n, h, w)``. No copy: what is written there is in both."""
        return slices_along(self._canonical.to_canonical(array_kji), self.axis)[self._region]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Slices, rows and columns of the input."""
        stack = np.broadcast_to(np.uint8(0), self._shape_nhw)
        k, j, i = self._canonical.to_input(volume_from_slices(stack, self.axis)).shape
        return k, j, i

    @property
    def region_in_input(self) -> tuple[int, int, int, int, int, int]:
        """The region as a half-open box of the input's voxels ``(i0, i1, j0, j1, k0, k1)``."""
        box = box_of(self.to_input(np.ones(self.region_shape, bool)))
        assert box is not None  # a region is never empty
        k, j, i = box
        return i.start, i.stop, j.start, j.stop, k.start, k.stop


def prepare_all(volume: Volume, spec: PreprocessSpec, settings: SegmentSettings) -> list[SliceStack]:
    """Make the stacks of all axes that are asked for: one, or for "all" three, that of "auto" first.

    The wanted slices are those of the first axis. For the others what it covers is a region of interest, because
    that says where to look and not at what magnification. A picture, also one in three dimensions that
    is one voxel thin, has only its own axis.

    Raises:
        SettingsError: As ``prepare``.
    """
    if settings.axis != "all":
        return [prepare(volume, spec, settings)]
    first = prepare(volume, spec, settings.model_copy(update={"axis": "auto"}))
    if volume.is_2d or min(volume.shape_kji) < 2:
        return [first]
    others = [str(axis) for axis in (0, 1, 2) if axis != first.axis]
    within = settings.model_copy(update={"slices": None, "roi": first.region_in_input})
    return [first, *(prepare(volume, spec, within.model_copy(update={"axis": axis})) for axis in others)]


def prepare(volume: Volume, spec: PreprocessSpec, settings: SegmentSettings) -> SliceStack:
    """Choose axis, slices, region and canvas.

    Raises:
        SettingsError: The slices, the region of interest or the window do not fit the volume.
    """
    canonical = canonical_of(volume.ijk_to_lps)
    axis = choose_axis(volume, spec.axis) if settings.axis == "auto" else int(settings.axis)
    stack = slices_along(canonical.to_canonical(volume.array), axis)
    shape = (stack.shape[0], stack.shape[1], stack.shape[2])
    numbers = input_slice_index(canonical, axis, shape[0])
    height_mm, width_mm = pixel_mm(canonical.spacing_mm(volume.spacing_mm), axis)
    modality = modality_of(volume.array, volume.modality)

    top, bottom, left, right = 0, shape[1], 0, shape[2]
    if modality == "CT" and spec.crop == "body":
        top, bottom, left, right = body_box(stack, (height_mm, width_mm))
    region = _region(volume, settings, canonical, axis, numbers, (top, bottom, left, right))
    return SliceStack(
        pictures=stack[region[0], top:bottom, left:right],
        slice_numbers=numbers[region[0]],
        axis=axis,
        slice_mm=canonical.spacing_mm(volume.spacing_mm)[axis],
        modality=modality,
        spec=spec,
        ranges=value_ranges(volume.array, modality, spec, settings.window),
        canvas=square_canvas((bottom - top, right - left), (height_mm, width_mm), spec.image_size),
        _canonical=canonical,
        _shape_nhw=shape,
        _region=region,
        _canvas_corner=(top, left),
    )


def _region(
    volume: Volume,
    settings: SegmentSettings,
    canonical: Canonical,
    axis: int,
    numbers: np.ndarray,
    canvas: tuple[int, int, int, int],
) -> tuple[slice, slice, slice]:
    """Box of the stack that is on the canvas, in the wanted slices and in the region of interest."""
    start, stop = settings.slices or (0, len(numbers))
    if stop > len(numbers):
        raise SettingsError(f"slices: expected a range within 0:{len(numbers)}, got {start}:{stop}.")
    top, bottom, left, right = canvas
    box = [_run_of((numbers >= start) & (numbers < stop)), slice(top, bottom), slice(left, right)]
    if settings.roi is not None:
        box = [_common(*parts) for parts in zip(box, _roi_in_stack(volume, settings.roi, canonical, axis), strict=True)]
    return box[0], box[1], box[2]


def _roi_in_stack(volume: Volume, roi: tuple[int, ...], canonical: Canonical, axis: int) -> list[slice]:
    """Region of interest ``(i0, i1, j0, j1, k0, k1)`` of the input as a box of the stack."""
    i0, i1, j0, j1, k0, k1 = roi
    if any(high > size for high, size in zip((k1, j1, i1), volume.shape_kji, strict=True)):
        most = ",".join(f"0,{size}" for size in reversed(volume.shape_kji))
        raise SettingsError(f"roi: expected a box within {most}, got {','.join(map(str, roi))}.")
    inside = np.zeros(volume.shape_kji, bool)
    inside[k0:k1, j0:j1, i0:i1] = True
    stack = slices_along(canonical.to_canonical(inside), axis)
    return [_run_of(np.any(stack, axis=others)) for others in ((1, 2), (0, 2), (0, 1))]


def _run_of(wanted: np.ndarray) -> slice:
    """First to last True of a vector, half-open."""
    positions = np.flatnonzero(wanted)
    return slice(int(positions[0]), int(positions[-1]) + 1)


def _common(one: slice, other: slice) -> slice:
    start, stop = max(one.start, other.start), min(one.stop, other.stop)
    if start >= stop:
        raise SettingsError("roi: the box lies outside the body or the wanted slices; choose another box.")
    return slice(start, stop)
