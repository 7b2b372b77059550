"""Speed "fast": shapes between key slices with a known answer, and volumes in which there is nothing to skip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.fusion import SliceMap
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.stack import SliceStack, prepare
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.thick import key_slices, on_all_slices, presence_between, tracks_on_all_slices
from MedicalSAM3Lib.tracker import Track, TrackedMask
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import oblique_affine, spheres
from Testing.lib.test_tracking import bright_tracker, oracle, rod

__all__ = ["bright_tracker"]
FAST = make_settings(speed="fast", device="cpu")
SIDE = 33
FROM_MIDDLE = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE // 2))


def disc(radius: float) -> np.ndarray:
    return np.less(FROM_MIDDLE, radius)


def stack_of(n_slices: int, slice_mm: float) -> SliceStack:
    volume = Volume(np.zeros((n_slices, 8, 8), np.float32), np.diag([1.0, 1.0, slice_mm, 1.0]), modality="GREY")
    return prepare(volume, PreprocessSpec(image_size=16), make_settings(axis="2"))


@pytest.mark.parametrize(
    ("n_slices", "slice_mm", "expected"),
    [
        (9, 1.0, [0, 3, 6, 8]),
        (7, 1.5, [0, 2, 4, 6]),
        (5, 0.6, [0, 4]),
        (11, 0.6, [0, 5, 10]),  # 3 / 0.6 is not quite 5 in every floating-point way
        (4, 1.6, [0, 1, 2, 3]),
        (4, 3.0, [0, 1, 2, 3]),
        (4, 5.0, [0, 1, 2, 3]),
        (1, 0.5, [0]),
        (2, 0.5, [0, 1]),
    ],
)
def test_key_slices_are_at_most_3_mm_apart_with_both_ends(n_slices: int, slice_mm: float, expected: list[int]) -> None:
    stack = stack_of(n_slices, slice_mm)
    assert key_slices(stack, FAST).tolist() == expected
    assert key_slices(stack, make_settings(speed="balanced")).tolist() == list(range(n_slices))
    assert key_slices(stack, make_settings(speed="exact")).tolist() == list(range(n_slices))


def test_key_slices_are_those_pictures_and_all_of_them_are_the_stack_itself() -> None:
    stack = stack_of(5, 1.0)
    stack = replace(stack, pictures=np.arange(5.0)[:, None, None] * np.ones((8, 8)))
    some = stack.take(np.array([0, 3, 4]))
    assert [picture[0, 0] for picture in some.pictures] == [0, 3, 4]
    assert some.slice_numbers.tolist() == stack.slice_numbers[[0, 3, 4]].tolist()
    assert len(some) == 3
    assert stack.take(np.arange(5)) is stack


def cone(n: int) -> SliceMap:
    """Logits of a cone whose radius grows by half a pixel on each slice: the distance to its surface."""
    return SliceMap(torch.from_numpy(2 + n / 2 - FROM_MIDDLE).half(), 0.5 + n / 20)


def detections_of(maps: dict[int, SliceMap], keys: np.ndarray, presence: list[float]) -> Detections:
    agreement = np.full((1, len(keys)), 0.9)
    return Detections(np.array([presence]), agreement, {(0, n): one for n, one in maps.items()})


def test_a_cone_between_its_slices_is_the_cone() -> None:
    keys = np.array([0, 3, 6, 8])
    whole = on_all_slices(detections_of({n: cone(k) for n, k in enumerate(keys)}, keys, [0.9] * 4), keys)
    assert set(whole.maps) == {(0, n) for n in range(9)}
    for n in range(9):
        near = np.abs(cone(n).logits.numpy()) < 5  # farther from the surface logits are cut
        np.testing.assert_allclose(whole.maps[0, n].logits.numpy()[near], cone(n).logits.numpy()[near], atol=0.01)
        np.testing.assert_array_equal(whole.maps[0, n].logits > 0, disc(2 + n / 2))
        assert whole.maps[0, n].weight == pytest.approx(0.5 + n / 20)
    for number, n in enumerate(keys):  # looked at: not a bit is other
        assert torch.equal(whole.maps[0, int(n)].logits, cone(keys[number]).logits)
    assert whole.skipped == {1, 2, 4, 5, 7}


def test_a_rod_ends_half_way_to_where_it_is_not() -> None:
    keys = np.array([0, 4, 8, 10])
    sure = SliceMap(torch.where(torch.from_numpy(disc(5)), 25.0, -30.0).half(), 0.9)
    whole = on_all_slices(detections_of({1: sure, 2: sure}, keys, [0.1, 0.9, 0.9, 0.3]), keys)
    filled = [n for n in range(11) if (0, n) in whole.maps and bool((whole.maps[0, n].logits > 0).any())]
    assert filled == [3, 4, 5, 6, 7, 8]  # 2 and 9 are exactly half way: not there
    for n in filled:
        np.testing.assert_array_equal(whole.maps[0, n].logits > 0, disc(5))
    assert whole.maps[0, 3].weight == pytest.approx(0.25 * 0.1 + 0.75 * 0.9)
    assert (0, 0) not in whole.maps
    np.testing.assert_allclose(whole.presence[0], [0.1, 0.3, 0.5, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9, 0.6, 0.3])
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(whole.agreement[0])), keys)


def test_where_neither_neighbour_has_a_map_there_is_none() -> None:
    keys = np.array([0, 2, 4])
    whole = on_all_slices(detections_of({}, keys, [0.1, 0.2, 0.1]), keys)
    assert whole.maps == {}
    assert whole.presence.shape == (1, 5)


def test_what_is_not_a_number_stays_so_and_spreads_to_its_neighbours_only() -> None:
    whole = presence_between(np.array([[0.5, np.nan, 0.5, 0.7]]), np.array([0, 2, 4, 6]))
    np.testing.assert_array_equal(np.isnan(whole[0]), [False, True, True, True, False, False, False])
    keys = np.array([0, 2])
    one = on_all_slices(detections_of({0: cone(0)}, keys, [0.9, np.nan]), keys).maps[0, 1]
    assert np.isfinite(one.weight)


def test_all_slices_looked_at_change_nothing() -> None:
    keys = np.arange(3)
    detections = detections_of({1: cone(1)}, keys, [0.1, 0.9, 0.1])
    assert on_all_slices(detections, keys) is detections


def test_tracks_stay_on_the_slices_that_were_looked_at() -> None:
    mask = TrackedMask(torch.zeros(2, 2), 0.5, is_seed=True)
    (moved,) = tracks_on_all_slices([Track(1, {0: mask, 2: mask})], np.array([0, 3, 5]))
    assert (moved.concept, moved.masks) == (1, {0: mask, 5: mask})


def assert_is_rod(mask_kji: np.ndarray, truth_kji: np.ndarray) -> None:
    """All of it; on slice 2, between one that shows it and one that does not, its unsure rim may be missing."""
    end, inner = truth_kji[2], np.zeros_like(truth_kji[2])
    inner[17:31, 13:27] = True
    np.testing.assert_array_equal(mask_kji[2] & end, mask_kji[2])
    np.testing.assert_array_equal(mask_kji[2] & inner, inner)
    np.testing.assert_array_equal(np.delete(mask_kji, 2, axis=0), np.delete(truth_kji, 2, axis=0))


@pytest.mark.usefixtures("bright_tracker")
@pytest.mark.parametrize("mode", ["detect", "track", "fuse"])
def test_a_rod_in_a_thin_volume_is_found_on_all_its_slices(mode: str) -> None:
    volume, truth = rod()  # 1 mm: slices 0, 3, 6, 9 and 11 are looked at
    model = oracle()
    result, record = segment_with_report(volume, ["rod"], model, FAST.model_copy(update={"mode": mode}))
    (finding,) = result.findings
    assert_is_rod(result.mask_kji(finding), truth)
    assert model.model.trunk_slices == record.slices == 5
    assert finding.slice_range == (2, 9)
    assert finding.review_slices == ()


@pytest.mark.usefixtures("bright_tracker")
def test_a_key_slice_that_the_detector_misses_is_filled_by_the_tracker_with_its_neighbours() -> None:
    volume, truth = rod(dim=(6,))
    settings = FAST.model_copy(update={"mode": "fuse"})
    (finding,) = segment(volume, ["rod"], oracle(), settings).findings
    assert finding.review_slices == (6,)  # and not 5 or 7, at which nobody looked
    result = segment(volume, ["rod"], oracle(), settings)
    assert_is_rod(result.mask_kji(result.findings[0]), truth)


def test_within_a_range_of_slices_its_own_ends_are_looked_at() -> None:
    volume, truth = rod()
    model = oracle()
    result, record = segment_with_report(volume, ["rod"], model, FAST.model_copy(update={"slices": (4, 9)}))
    truth[:4] = truth[9:] = False
    np.testing.assert_array_equal(result.mask_kji(result.findings[0]), truth)
    assert model.model.trunk_slices == record.slices == 3  # 4, 7 and 8


@pytest.mark.parametrize("n_slices", [1, 24])
def test_where_slices_are_thick_or_one_it_is_balanced_bit_by_bit(n_slices: int) -> None:
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)}, oblique_affine((1.0, 1.0, 3.0)))
    volume = replace(volume, array=volume.array[12 : 12 + n_slices] if n_slices == 1 else volume.array)
    fast, balanced = (
        segment(
            volume,
            ["ball"],
            fake_model({"ball": (0.5, 1.5)}),
            make_settings(device="cpu", axis="2", speed=speed, confidence_map=True),
        )
        for speed in ("fast", "balanced")
    )
    assert fast.findings == balanced.findings
    np.testing.assert_array_equal(fast.layers[0], balanced.layers[0])
    np.testing.assert_array_equal(fast.confidence, balanced.confidence)
