"""A volume as pictures and back: boxes, numbering and channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.preprocess import PreprocessSpec, channels_of, normalise, square_canvas
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Volume
from Testing.lib.phantoms import oblique_affine

CPU = torch.device("cpu")
SPEC = PreprocessSpec(image_size=48, crop="body", windows={"CT": ((-160.0, 240.0), (-1350.0, 150.0), (-450.0, 1050.0))})


def ct(shape: tuple[int, int, int] = (10, 40, 50)) -> Volume:
    array = np.full(shape, -1000.0, np.float32)
    array[:, 10:30, 15:40] = np.random.default_rng(0).uniform(-100, 800, (shape[0], 20, 25))
    return Volume(array, np.diag([2.0, 2.0, 3.0, 1.0]), "CT")


def test_a_batch_is_what_the_training_loader_makes_of_the_same_slices():
    volume = ct()
    stack = prepare(volume, SPEC, make_settings())
    body = volume.array[3:5, 5:35, 10:45]  # 10 mm are 5 pixels
    ranges = SPEC.windows["CT"]
    pictures = torch.from_numpy(channels_of("CT", SPEC, body, ranges))
    expected = normalise(square_canvas((30, 35), (2.0, 2.0), 48).resize(pictures), SPEC)
    torch.testing.assert_close(stack.batch(slice(3, 5), CPU), expected)


def test_without_a_crop_the_canvas_is_the_whole_picture():
    whole = prepare(ct(), SPEC.model_copy(update={"crop": "none"}), make_settings())
    assert whole.canvas.picture_hw == (40, 50)
    assert whole.region_shape == (10, 40, 50)


def test_the_padding_is_the_windows_floor():
    batch = prepare(ct(), SPEC, make_settings()).batch(slice(0, 1), CPU)
    np.testing.assert_array_equal(batch[0, :, 0, :], -1.0)


def test_a_region_of_interest_says_where_to_look_not_at_what_magnification():
    whole = prepare(ct(), SPEC, make_settings())
    part = prepare(ct(), SPEC, make_settings(roi=(20, 30, 12, 20, 2, 6)))
    assert part.canvas == whole.canvas
    assert part.region_shape == (4, 8, 10)
    torch.testing.assert_close(part.batch(slice(0, 1), CPU), whole.batch(slice(2, 3), CPU))
    maps = torch.randn(1, 12, 12)
    np.testing.assert_array_equal(part.restore(maps), whole.restore(maps)[:, 7:15, 10:20])


@pytest.mark.parametrize("axis", ["0", "1", "2"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, -1)])
def test_labels_of_the_region_land_on_their_voxels(axis, signs):
    rng = np.random.default_rng(1)
    volume = Volume(
        rng.uniform(0, 255, (7, 8, 9)).astype(np.float32), oblique_affine(order=(2, 0, 1), signs=signs), "GREY"
    )
    box = (2, 6, 1, 7, 3, 5)
    stack = prepare(volume, SPEC, make_settings(axis=axis, roi=box))
    # Values of the volume, read through the pictures, must come back where they were.
    top, left = stack._canvas_corner
    rows, columns = (
        slice(part.start - start, part.stop - start) for part, start in zip(stack._region[1:], (top, left), strict=True)
    )
    back = stack.to_input(np.ascontiguousarray(stack.pictures[:, rows, columns]))
    expected = np.zeros_like(volume.array)
    expected[3:5, 1:7, 2:6] = volume.array[3:5, 1:7, 2:6]
    np.testing.assert_array_equal(back, expected)


def test_auto_takes_the_models_axis_where_the_volume_has_no_thick_slices():
    volume = Volume(np.zeros((5, 6, 7), np.float32), np.eye(4))
    assert prepare(volume, SPEC.model_copy(update={"axis": 1}), make_settings()).axis == 1


def test_slice_numbers_follow_the_input_when_it_runs_from_head_to_feet():
    volume = Volume(np.zeros((5, 6, 7), np.float32), np.diag([1.0, 1.0, -1.0, 1.0]))
    stack = prepare(volume, SPEC, make_settings(slices=(0, 2)))
    assert stack.slice_numbers.tolist() == [1, 0]
    assert len(stack) == 2


@pytest.mark.parametrize("axis", ["0", "1", "2"])
def test_some_slices_are_the_same_pictures_on_the_same_canvas(axis):
    volume = ct()
    whole = prepare(volume, SPEC, make_settings(axis=axis))
    some = whole.take([7, 2])
    assert (len(some), some.region_shape) == (2, (2, *whole.region_shape[1:]))
    assert list(some.slice_numbers) == list(whole.slice_numbers[[7, 2]])
    assert torch.equal(some.batch(slice(0, 1), CPU), whole.batch(slice(7, 8), CPU))
    shape = list(volume.array.shape)
    shape[2 - int(axis)] = 2
    labels = some.to_input(np.ones(some.region_shape, np.uint16))
    assert labels.shape == tuple(shape)
    assert labels.sum() == np.prod(some.region_shape)
