"""Windows, percentiles, the square canvas and its exact inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.preprocess import (
    PreprocessSpec,
    apply_window,
    body_box,
    channel_of,
    modality_of,
    normalise,
    square_canvas,
    value_ranges,
)

THREE_WINDOWS = ((-160.0, 240.0), (-1350.0, 150.0), (-450.0, 1050.0))
SPEC = PreprocessSpec(
    image_size=64, windows={"CT": THREE_WINDOWS}, percentiles={"MR": (0.0, 100.0), "default": (10.0, 90.0)}
)

sides = st.integers(1, 60)
spacings = st.floats(0.2, 8.0)


def channels_of(modality: str, spec: PreprocessSpec, slices: np.ndarray) -> np.ndarray:
    """All channels of pictures that are a whole volume."""
    ranges = value_ranges(slices, modality, spec)
    return np.stack([channel_of(slices, channel, ranges) for channel in range(3)], axis=1)


def test_both_ends_of_a_window_and_what_lies_beyond():
    hounsfield = np.array([-2000, -160, 40, 240, 3000], np.int16)
    windowed = apply_window(hounsfield, -160, 240)
    assert windowed.dtype == np.float32
    np.testing.assert_array_equal(windowed, [0, 0, 0.5, 1, 1])
    assert hounsfield[0] == -2000


def test_a_window_without_a_width_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="low < high"):
        apply_window(np.zeros(3), 5.0, 5.0)


def test_ct_becomes_the_three_windows_of_the_model():
    slices = np.full((2, 3, 4), 150.0, np.float32)
    channels = channels_of("CT", SPEC, slices)
    assert channels.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(channels[0, :, 0, 0], [310 / 400, 1.0, 600 / 1500])


@pytest.mark.parametrize(("window", "ends"), [("lung", (-1350.0, 150.0)), ("-10,90", (-10.0, 90.0))])
def test_the_users_window_is_repeated_in_all_channels(window, ends):
    assert value_ranges(np.zeros((1, 2, 2)), "CT", SPEC, window) == (ends,) * 3


def test_a_preset_in_hounsfield_units_does_not_fit_mr_nor_any_window_a_colour_image():
    with pytest.raises(SettingsError, match="image is MR"):
        value_ranges(np.zeros((1, 2, 2)), "MR", SPEC, "soft")
    with pytest.raises(SettingsError, match="colour"):
        value_ranges(np.zeros((1, 2, 2, 3)), "RGB", SPEC, "0,100")


def test_air_does_not_count_in_percentiles():
    volume = np.zeros((4, 10, 10), np.float32)
    volume[1:3, 2:8, 2:8] = np.linspace(100, 500, 72).reshape(2, 6, 6)
    assert value_ranges(volume, "MR", SPEC) == ((100.0, 500.0),) * 3


def test_percentiles_of_a_large_volume_come_from_a_subset():
    volume = np.arange(5_000_000, dtype=np.float32).reshape(5, 1000, 1000)
    (low, high), *_ = value_ranges(volume, "", SPEC)
    assert low == pytest.approx(500_000, rel=1e-3)
    assert high == pytest.approx(4_500_000, rel=1e-3)


@pytest.mark.parametrize("modality", ["", "MR", "PT", "GREY", "CT"])
@pytest.mark.parametrize("value", [-1024.0, 0.0, 7.0, 4000.0])
def test_a_constant_image_becomes_finite_channels(modality, value):
    channels = channels_of(modality, SPEC, np.full((1, 5, 5), value, np.float32))
    assert np.isfinite(channels).all()
    assert channels.min() == channels.max() or modality in ("CT", "")


def test_eight_bit_photographs_are_taken_as_they_are_and_deeper_ones_are_stretched():
    grey = np.array([[[0.0, 51.0, 102.0]]], np.float32)
    np.testing.assert_allclose(channels_of("GREY", SPEC, grey)[0, 0], [[0.0, 0.2, 0.4]])
    assert channels_of("GREY", SPEC, grey * 500).max() == 1.0
    colour = np.stack([grey, grey + 1, grey + 2], -1)
    np.testing.assert_allclose(channels_of("RGB", SPEC, colour)[0, :, 0, 0], [0, 1 / 255, 2 / 255], rtol=1e-6)


def test_an_image_without_a_modality_is_ct_when_it_holds_air_in_hounsfield_units():
    assert modality_of(np.array([-1000.0, 40.0]), "") == "CT"
    assert modality_of(np.array([-3.0, 3.0]), "") == ""
    assert modality_of(np.array([-1000.0, 40.0]), "MR") == "MR"


def test_normalise_is_per_channel():
    spec = PreprocessSpec(image_size=8, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    np.testing.assert_allclose(normalise(torch.ones(1, 3, 1, 1), spec).flatten(), [1.0, 1.0, 0.0])


def test_the_canvas_is_square_in_mm_and_centred():
    canvas = square_canvas((20, 40), (3.0, 1.0), 60)  # 60 x 40 mm
    assert (canvas.inner_hw, canvas.top_left) == ((60, 40), (0, 10))
    picture = canvas.resize(torch.ones(1, 1, 20, 40))[0, 0]
    assert picture.shape == (60, 60)
    assert picture[:, 10:50].min() == pytest.approx(1.0)
    assert picture[:, :10].max() == picture[:, 50:].max() == 0.0


@given(sides, sides, spacings, spacings, st.integers(8, 80), st.sampled_from([1, 2, 4]))
def test_restore_is_the_inverse_placement_for_any_shape_spacing_and_mask_side(
    height, width, row_mm, col_mm, size, part
):
    """A ramp over the square, read back, is the pixel's own place: the same straight line everywhere."""
    canvas = square_canvas((height, width), (row_mm, col_mm), size * part)
    side = size  # masks may be coarser than the input
    centres = (torch.arange(side, dtype=torch.float32) + 0.5) * part
    for axis, count in enumerate((height, width)):
        ramp = centres[:, None].expand(side, side) if axis == 0 else centres[None, :].expand(side, side)
        got = canvas.restore(ramp[None])[0].select(1 - axis, 0)
        step = canvas.inner_hw[axis] / count
        expected = canvas.top_left[axis] + (torch.arange(count) + 0.5) * step
        # Beyond the centre of the outermost mask pixel there is nothing to interpolate.
        expected = expected.clamp(centres[0], centres[-1])
        torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-4)


@given(sides, sides, st.floats(0.7, 1.5), st.floats(0.7, 1.5), st.integers(0, 2**31))
def test_a_picture_that_is_enlarged_comes_back(height, width, row_mm, col_mm, seed):
    """Halves of a picture survive the way there and back, up to the pixels on their border."""
    size = 4 * round(max(height * row_mm, width * col_mm) / min(row_mm, col_mm)) + 1
    split = np.random.default_rng(seed).integers(0, height + 1)
    picture = torch.zeros(1, 1, height, width)
    picture[:, :, split:] = 1.0
    canvas = square_canvas((height, width), (row_mm, col_mm), size)
    back = canvas.restore(canvas.resize(picture)[:, 0]) > 0.5
    assert torch.equal(back, picture[:, 0] > 0.5)


def test_a_part_of_the_picture_is_restored_as_the_whole_is():
    canvas = square_canvas((30, 50), (1.0, 2.0), 96)
    maps = torch.randn(2, 24, 24)
    part = canvas.restore(maps, slice(3, 11), slice(20, 50))
    assert torch.equal(part, canvas.restore(maps)[:, 3:11, 20:50])


def test_a_fine_pattern_becomes_its_mean_not_a_false_pattern():
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    small = square_canvas((64, 64), (1.0, 1.0), 9).resize(checkers[None, None].float())
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.05, rtol=0)


def test_batched_resize_equals_single():
    canvas = square_canvas((30, 50), (1.0, 2.0), 96)
    pictures = torch.rand(3, 2, 30, 50)
    single = torch.cat([canvas.resize(picture[None]) for picture in pictures])
    torch.testing.assert_close(canvas.resize(pictures), single)


def test_the_body_box_leaves_out_air_and_specks_and_adds_its_margin():
    slices = np.full((5, 100, 120), -1000.0, np.float32)
    slices[1:4, 40:60, 30:80] = 0.0
    slices[0, 2:4, 2:4] = 0.0  # a speck of the table
    assert body_box(slices, (2.0, 2.0)) == (35, 65, 25, 85)
    # Fine pixels are looked at in steps of six: the box may be up to five pixels too large, never too small.
    too_large = (np.array(body_box(slices, (0.5, 0.5))) - [20, 80, 10, 100]) * [-1, 1, -1, 1]
    assert ((too_large >= 0) & (too_large <= 5)).all()


def test_without_a_body_the_box_is_the_picture():
    assert body_box(np.full((2, 7, 9), -1000.0), (1.0, 1.0)) == (0, 7, 0, 9)


@pytest.mark.parametrize(
    "content", [{}, {"image_size": 0}, {"image_size": 8, "crop": "head"}, {"image_size": 8, "x": 1}]
)
def test_a_wrong_preprocess_file_is_refused(content):
    with pytest.raises(ValidationError):
        PreprocessSpec.model_validate(content)
