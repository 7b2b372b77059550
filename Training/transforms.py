"""Augmentation: one slice of a volume becomes a square picture on the model's canvas, another each time.

Geometry is drawn in canvas units and applied to the image (bilinear) and to its coverage (nearest) in one
go; grey values are then changed as scanners and contrast agents change them. Pictures are ``(S, S)``.
There is no mirror image: left and right are part of what is asked.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib.preprocess import apply_window
from Training.coverage import Coverage
from Training.volumes import TrainingVolume


class AugmentConfig(BaseModel):
    """How far augmentation goes. All zero: the picture that inference sees.

    Attributes:
        scale: Largest change of size, as a factor in either direction less one.
        rotate_degrees, shift: Largest turn, and largest shift as a fraction of the canvas.
        elastic: Standard deviation of the displacement of a coarse grid, as a fraction of the canvas.
        contrast: Probability that organs change their brightness, as contrast agents and fillings do.
        window_jitter: Largest change of a window's ends, as a fraction of its width.
        noise: Largest standard deviation of noise, as a fraction of the grey range.
        blur: Largest standard deviation of blur in pixels.
        synthetic: Fraction of pictures painted from the labels alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = 0.35
    rotate_degrees: float = 12.0
    shift: float = 0.08
    elastic: float = 0.02
    contrast: float = 0.7
    window_jitter: float = 0.15
    noise: float = 0.05
    blur: float = 0.8
    synthetic: float = 0.25


NO_AUGMENTATION = AugmentConfig(
    scale=0, rotate_degrees=0, shift=0, elastic=0, contrast=0, window_jitter=0, noise=0, blur=0, synthetic=0
)


def canvas_grid(volume: TrainingVolume, side: int, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """Where each canvas pixel's centre lies on the slice: float32 ``(S, S, 2)`` as (row, column) in pixels.

    Without augmentation this is the square canvas of ``MedicalSAM3Lib.preprocess``: the picture, centred,
    with its aspect in mm kept.
    """
    height, width = volume.slices.shape[1:3]
    row_mm, column_mm = volume.pixel_mm
    extent_mm = max(height * row_mm, width * column_mm)
    unit = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    y, x = np.meshgrid(unit, unit, indexing="ij")
    factor = np.exp(rng.uniform(-1, 1) * np.log1p(config.scale))
    aspect = np.exp(rng.uniform(-1, 1) * np.log1p(config.scale / 4))
    angle = np.deg2rad(rng.uniform(-1, 1) * config.rotate_degrees)
    dy, dx = rng.uniform(-1, 1, 2) * config.shift
    if config.elastic > 0:
        wave = torch.from_numpy(rng.normal(0, config.elastic, (1, 2, 6, 6)).astype(np.float32))
        bend = functional.interpolate(wave, size=(side, side), mode="bicubic", align_corners=True)[0].numpy()
        y, x = y + bend[0], x + bend[1]
    turned_y = (np.cos(angle) * y - np.sin(angle) * x) * factor * aspect + dy
    turned_x = (np.sin(angle) * y + np.cos(angle) * x) * factor / aspect + dx
    rows = height / 2 - 0.5 + turned_y * extent_mm / row_mm
    columns = width / 2 - 0.5 + turned_x * extent_mm / column_mm
    return np.stack([rows, columns], -1).astype(np.float32)


def sample_image(picture: np.ndarray, grid: np.ndarray, outside: float) -> Tensor:
    """Bilinear values of a slice at a grid's points; ``outside`` beyond its edge.

    Args:
        picture: ``(H, W)``, or ``(H, W, 3)`` in colour.
        grid: ``(S, S, 2)`` as ``canvas_grid`` gives it.

    Returns:
        ``(S, S)``, or ``(3, S, S)`` in colour.
    """
    height, width = picture.shape[:2]
    scale = torch.tensor([2.0 / width, 2.0 / height])
    points = torch.from_numpy(np.ascontiguousarray(grid[..., ::-1])) * scale + scale / 2 - 1
    channels = np.ascontiguousarray(np.moveaxis(picture.reshape(height, width, -1), -1, 0), np.float32)
    source = torch.from_numpy(channels)[None] - outside
    sampled = functional.grid_sample(source, points[None], mode="bilinear", align_corners=False)[0] + outside
    return sampled if picture.ndim == 3 else sampled[0]


def sample_coverage(coverage: Coverage, grid: np.ndarray) -> Coverage:
    """What covers the nearest pixel ``(S, S)`` of a grid's points; nothing outside."""
    height, width = coverage.shape
    rows, columns = np.rint(grid[..., 0]).astype(int), np.rint(grid[..., 1]).astype(int)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    picked = coverage.ids[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    return Coverage(np.where(inside, picked, 0), coverage.table)


def to_channels(picture: Tensor, volume: TrainingVolume, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Window a slice, ``(S, S)`` or ``(3, S, S)`` in colour, to three channels in 0..1, the windows moved a little."""
    jitter = rng.uniform(-1, 1, (3, 2)) * config.window_jitter / 2
    if len(set(volume.ranges)) == 1:
        jitter[:] = jitter[0]
    values = np.broadcast_to(picture.numpy(), (3, *picture.shape[-2:]))
    channels = []
    for plane, (low, high), (move_low, move_high) in zip(values, volume.ranges, jitter, strict=True):
        width = high - low
        channels.append(apply_window(plane, low + move_low * width, high + move_high * width))
    return torch.from_numpy(np.stack(channels))


def degrade(channels: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Blur, bias field, gamma and noise on ``(3, S, S)`` in 0..1, as scanners differ."""
    if config.blur > 0 and rng.random() < 0.4:
        channels = gaussian_blur(channels, rng.uniform(0.3, config.blur + 0.3))
    if config.noise > 0:
        gamma = float(np.exp(rng.uniform(-1, 1) * 4 * config.noise))
        wave = torch.from_numpy(rng.normal(0, config.noise, (1, 1, 4, 4)).astype(np.float32))
        bias = functional.interpolate(wave, size=channels.shape[-2:], mode="bicubic", align_corners=True)[0]
        noise = torch.from_numpy(rng.standard_normal(channels.shape[-2:], dtype=np.float32))
        channels = channels.clamp(1e-4, 1) ** gamma * (1 + bias) + noise * rng.uniform(0, config.noise)
    return channels.clamp(0, 1)


def gaussian_blur(channels: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of ``sigma`` pixels over ``(C, H, W)``."""
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(channels.dtype)
    rows = functional.conv2d(functional.pad(channels[:, None], (0, 0, 3, 3), mode="replicate"), kernel.view(1, 1, 7, 1))
    return functional.conv2d(functional.pad(rows, (3, 3, 0, 0), mode="replicate"), kernel.view(1, 1, 1, 7))[:, 0]
