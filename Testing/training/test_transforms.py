"""Training pictures: what inference sees when nothing is changed, the same picture moved when something is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.preprocess import PreprocessSpec, square_canvas
from MedicalSAM3Lib.stack import prepare
from Testing.lib.phantoms import oblique_affine
from Testing.training.data_world import SPEC, boxes_hu, image_of, in_memory, labelled, write_world
from Training.coverage import Coverage
from Training.data import PictureSource
from Training.manifest import read_manifest
from Training.transforms import (
    NO_AUGMENTATION,
    AugmentConfig,
    canvas_grid,
    degrade,
    gaussian_blur,
    sample_coverage,
    sample_image,
    to_channels,
)
from Training.volumes import TrainingVolume, load_volumes

GEOMETRY_ONLY = AugmentConfig(contrast=0, window_jitter=0, noise=0, blur=0, synthetic=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def training_pictures(path: Path, spec: PreprocessSpec) -> tuple[TrainingVolume, list[torch.Tensor]]:
    """All pictures of the one volume of a manifest, as training makes them without augmentation."""
    manifest = read_manifest(path)
    (volume,) = load_volumes(manifest, manifest.concepts(), spec)
    pictures = PictureSource([volume], manifest.concepts(), spec, "train")
    return volume, [pictures.picture(volume, n, NO_AUGMENTATION, rng()).image for n in range(len(volume.slices))]


def inference_pictures(path: Path, volume: TrainingVolume, spec: PreprocessSpec, axis: Any) -> torch.Tensor:
    """The same slices as the shipped pipeline makes them."""
    stack = prepare(read_volume(path.parent / "ct" / "image.nii.gz"), spec, SegmentSettings(axis=axis))
    assert stack.slice_numbers.tolist() == volume.numbers.tolist()
    return stack.batch(slice(0, len(stack)), torch.device("cpu"))


def smooth(array_kji: np.ndarray) -> np.ndarray:
    """Without edges in the plane: air stays air."""
    return ndimage.gaussian_filter(array_kji, (0, 1.5, 1.5)).astype(np.float32)


@pytest.mark.parametrize("crop", ["body", "none"])
def test_training_sees_exactly_what_inference_sees(tmp_path: Path, crop: Any) -> None:
    """Both enlarge: 38x28 pixels (the body's box) or 40x30 fill 76 or 80 without a remainder."""
    spec = SPEC.model_copy(update={"image_size": 76 if crop == "body" else 80, "crop": crop})
    path = write_world(tmp_path, [labelled()])
    volume, made = training_pictures(path, spec)
    wanted = inference_pictures(path, volume, spec, "2")
    assert volume.slices.shape[1:] == ((28, 38) if crop == "body" else (30, 40))
    torch.testing.assert_close(torch.stack(made), wanted, atol=2e-5, rtol=0)


def test_training_sees_what_inference_sees_where_the_canvas_is_smaller(tmp_path: Path) -> None:
    """Both average over the new pixels. Single noise voxels of 400 HU would otherwise differ by 0.5 of a range of 2."""
    noisy = boxes_hu()[0] + np.random.default_rng(3).normal(0, 100, (12, 30, 40)).astype(np.float32)
    path = write_world(tmp_path, [labelled(image=image_of(noisy.clip(-1000, 600)))])
    spec = SPEC.model_copy(update={"image_size": 8, "crop": "none"})
    volume, made = training_pictures(path, spec)
    assert max(volume.slices.shape[1:]) == 8
    difference = (torch.stack(made) - inference_pictures(path, volume, spec, "2")).abs()
    assert float(difference.max()) < 1e-3


@pytest.mark.parametrize(("order", "axis"), [((0, 1, 2), "2"), ((0, 2, 1), "1"), ((1, 2, 0), "0")])
def test_training_sees_what_inference_sees_of_oblique_thick_flipped_slices(
    tmp_path: Path, order: tuple[int, int, int], axis: Any
) -> None:
    """Here the canvas of inference ends on whole pixels and that of training does not: up to half a pixel."""
    affine = oblique_affine((2.0, 2.4, 3.0), (8.0, -6.0, 11.0), order, (-1, 1, -1))
    image = image_of(smooth(boxes_hu()[0]), affine)
    path = write_world(tmp_path, [labelled(image=image)])
    spec = SPEC.model_copy(update={"image_size": 96})
    volume, made = training_pictures(path, spec)
    wanted = inference_pictures(path, volume, spec, axis)
    difference = (torch.stack(made) - wanted).abs()
    mirrored = (torch.stack(made).flip(-1) - wanted).abs()
    assert float(difference.max()) < 0.15 < 0.4 < float(mirrored.max())  # of a range of 2
    assert float(difference.mean()) < 0.02


@pytest.mark.parametrize("shape", [(20, 40), (40, 20), (32, 32)])
def test_the_grid_without_augmentation_is_the_canvas_of_inference(shape: tuple[int, int]) -> None:
    volume = in_memory(np.zeros((1, *shape)), {"liver": np.zeros((1, *shape), bool)}, pixel_mm=(2.0, 1.0))
    side = 80
    grid = canvas_grid(volume, side, NO_AUGMENTATION, rng())
    canvas = square_canvas(shape, volume.pixel_mm, side)
    assert grid.shape == (side, side, 2)
    top, left = canvas.top_left
    height, width = canvas.inner_hw
    rows = (np.arange(height) + 0.5) * shape[0] / height - 0.5
    columns = (np.arange(width) + 0.5) * shape[1] / width - 0.5
    np.testing.assert_allclose(grid[top : top + height, 0, 0], rows, atol=1e-4)
    np.testing.assert_allclose(grid[0, left : left + width, 1], columns, atol=1e-4)


def two_sides() -> TrainingVolume:
    """A bright box at the picture's left, the patient's right, and a dark one on the other side."""
    pictures = np.full((1, 64, 64), 0.0, np.float32)
    masks = {name: np.zeros((1, 64, 64), bool) for name in ("right_lung", "left_lung")}
    masks["right_lung"][:, 20:44, 8:24] = True
    masks["left_lung"][:, 20:44, 40:56] = True
    pictures[masks["right_lung"]], pictures[masks["left_lung"]] = 500.0, -500.0
    return in_memory(pictures, masks)


def test_left_and_right_are_never_exchanged() -> None:
    volume = two_sides()
    columns = torch.arange(64.0)
    for seed in range(60):
        grid = canvas_grid(volume, 64, AugmentConfig(), rng(seed))
        cover = sample_coverage(volume.coverage[0], grid)
        right, left = (np.argwhere(cover.mask(side))[:, 1].mean() for side in (0, 1))
        assert right < left
        values = sample_image(volume.slices[0], grid, 0.0)
        bright, dark = values.clamp(min=0).sum(0), (-values).clamp(min=0).sum(0)
        assert (bright * columns).sum() / bright.sum() < (dark * columns).sum() / dark.sum()


def test_masks_are_moved_with_the_picture() -> None:
    square = np.zeros((1, 64, 64), bool)
    square[:, 20:46, 24:44] = True
    volume = in_memory(np.where(square, 400.0, -800.0), {"liver": square})
    pictures = PictureSource([volume], ("liver",), SPEC.model_copy(update={"image_size": 96}), "train")
    places = set()
    for seed in range(25):
        made = pictures.picture(volume, 0, GEOMETRY_ONLY, rng(seed))
        seen, covered = made.image[0].numpy() > (-200 + 1000) / 1600 * 2 - 1, made.cover.mask(0)
        assert (seen & covered).sum() / (seen | covered).sum() > 0.93
        places.add(covered.tobytes())
    assert len(places) == 25


def test_beyond_the_slice_lies_what_is_told_and_no_concept() -> None:
    picture, cover = np.full((4, 4), 7.0, np.float32), Coverage(np.ones((4, 4), np.uint8), np.array([[False], [True]]))
    grid = np.array([[[0.0, 0.0], [3.0, 3.0]], [[-2.0, 0.0], [1.0, 9.0]]], np.float32)
    np.testing.assert_allclose(sample_image(picture, grid, -3.0), [[7.0, 7.0], [-3.0, -3.0]], atol=1e-5)
    assert sample_coverage(cover, grid).mask(0).tolist() == [[True, True], [False, False]]


def test_values_between_pixels_are_straight_lines() -> None:
    picture = np.arange(12, dtype=np.float32).reshape(3, 4)
    grid = np.array([[[1.0, 1.5], [0.25, 2.0]]], np.float32)
    np.testing.assert_allclose(sample_image(picture, grid, 0.0), [[5.5, 3.0]], atol=1e-5)


def test_windows_move_together_only_where_they_are_the_same() -> None:
    values = torch.linspace(-900, 500, 64).view(8, 8)
    volume = two_sides()
    same = to_channels(values, volume, AugmentConfig(), rng())
    assert torch.equal(same[0], same[1])
    other = replace(volume, ranges=((-1000.0, 600.0), (-900.0, 600.0), (-1000.0, 600.0)))
    apart = to_channels(values, other, AugmentConfig(), rng())
    assert not torch.equal(apart[0], apart[2])
    untouched = to_channels(values, volume, NO_AUGMENTATION, rng())
    torch.testing.assert_close(untouched, ((values + 1000) / 1600).expand(3, 8, 8))


def test_degrading_by_nothing_changes_nothing_and_otherwise_stays_within_the_range() -> None:
    channels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(degrade(channels, NO_AUGMENTATION, rng()), channels)
    for seed in range(10):
        changed = degrade(channels, AugmentConfig(noise=0.3), rng(seed))
        assert not torch.equal(changed, channels)
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_blur_keeps_the_sum_and_has_the_width_it_says() -> None:
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1.0
    blurred = gaussian_blur(point, 1.0)[0]
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-6)
    offsets = torch.arange(15.0) - 7
    assert float((blurred.sum(1) * offsets**2).sum()) == pytest.approx(1.0, abs=0.05)
    flat = torch.full((2, 9, 9), 3.0)
    torch.testing.assert_close(gaussian_blur(flat, 2.0), flat)
