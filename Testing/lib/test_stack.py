"""A volume as pictures and back: boxes, numbering and channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.preprocess import PreprocessSpec, channel_of, normalise, square_canvas
from MedicalSAM3Lib.stack import prepare, prepare_all
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
    pictures = torch.from_numpy(np.stack([channel_of(body, channel, ranges) for channel in range(3)], axis=1))
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


@pytest.mark.parametrize("axis", ["0", "1", "2"])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_the_way_from_the_input_is_the_inverse_of_the_way_to_it(axis, order, signs):
    volume = Volume(np.zeros((7, 8, 9), np.float32), oblique_affine(order=order, signs=signs), "GREY")
    stack = prepare(volume, SPEC, make_settings(axis=axis, roi=(2, 6, 1, 7, 3, 5)))
    assert stack.input_shape == (7, 8, 9)
    assert stack.region_in_input == (2, 6, 1, 7, 3, 5)
    region = np.random.default_rng(2).integers(1, 9, stack.region_shape).astype(np.uint16)
    on_input = stack.to_input(region)
    np.testing.assert_array_equal(stack.from_input(on_input), region)
    assert on_input.sum() == region.sum()
    stack.from_input(on_input)[...] = 0  # a view: what is written there is written to the input's array
    assert not on_input.any()


def test_all_axes_begin_with_that_of_auto_and_look_at_the_same_box():
    volume = ct()
    stacks = prepare_all(volume, SPEC, make_settings(axis="all", slices=(2, 6), roi=(20, 30, 12, 20, 0, 10)))
    assert [stack.axis for stack in stacks] == [2, 0, 1]
    assert [stack.region_in_input for stack in stacks] == [(20, 30, 12, 20, 2, 6)] * 3
    assert [len(stack) for stack in stacks] == [4, 10, 8]
    whole = prepare(volume, SPEC, make_settings(axis="0"))
    assert stacks[1].canvas == whole.canvas  # where to look, not at what magnification


def test_all_axes_without_a_box_look_at_the_body():
    stacks = prepare_all(ct(), SPEC, make_settings(axis="all"))
    assert [stack.region_in_input for stack in stacks] == [(10, 45, 5, 35, 0, 10)] * 3


@pytest.mark.parametrize(
    ("shape", "is_2d", "axis"),
    [((1, 6, 7), True, 2), ((6, 1, 7), False, 1), ((3, 6, 7), True, 2), ((1, 1, 1), False, 2)],
)
def test_a_picture_has_only_its_own_axis(shape, is_2d, axis):
    volume = Volume(np.zeros(shape, np.float32), np.eye(4), "GREY", is_2d=is_2d)
    assert [stack.axis for stack in prepare_all(volume, SPEC, make_settings(axis="all"))] == [axis]


@pytest.mark.parametrize("axis", ["auto", "0", "1", "2"])
def test_one_axis_is_one_stack(axis):
    assert len(prepare_all(ct(), SPEC, make_settings(axis=axis))) == 1


def test_slices_beyond_the_first_axis_are_refused_for_all_axes():
    with pytest.raises(SettingsError, match="slices: expected a range within 0:10, got 4:11"):
        prepare_all(ct(), SPEC, make_settings(axis="all", slices=(4, 11)))


@given(
    crop=st.sampled_from(["body", "none"]),
    roi=st.sampled_from([None, (0, 50, 0, 40, 0, 10), (17, 25, 12, 31, 2, 9), (40, 50, 30, 40, 0, 1)]),
    box=st.tuples(*(st.integers(0, 11) for _ in range(4))),
    side=st.sampled_from([12, 48]),
)
def test_reading_around_what_a_map_shows_misses_nothing(crop, roi, box, side):
    stack = prepare(ct(), SPEC.model_copy(update={"crop": crop}), make_settings(roi=roi))
    shown = torch.full((side, side), -2.0)
    shown[box[0] : box[1] + 1, box[2] : box[3] + 1] = 3.0
    whole = stack.restore(shown[None])[0]
    patch = stack.read(shown)
    read = np.zeros_like(whole) if patch is None else patch.whole(whole.shape)
    np.testing.assert_array_equal(np.where(read > 0, read, 0), np.where(whole > 0, whole, 0))
    if patch is not None:
        np.testing.assert_array_equal(patch.values, whole[patch.box])


def test_a_map_that_shows_nothing_is_not_read():
    assert prepare(ct(), SPEC, make_settings()).read(torch.full((12, 12), -1.0)) is None
