"""Left and right are the patient's, whatever the grid, and nothing is taken away in silence."""

from __future__ import annotations

import numpy as np
import pytest

from MedicalSAM3Lib.concepts import find_concept
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.midline import find_midline
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.sides import paired_whole, wrong_side
from MedicalSAM3Lib.structures import Volume
from Testing.lib.fakes import fake_model

SPACING = np.array([6.0, 6.0, 8.0])
EXACT = make_settings(speed="exact")
KIDNEY = {"left kidney": (0.9, 1.5), "right kidney": (0.9, 1.5), "kidney": (0.9, 1.5), "liver": (0.9, 1.5)}


def affine_of(order: tuple[int, int, int] = (0, 1, 2), signs: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """Voxels of 6 x 6 x 8 mm along the patient's axes in any order and direction."""
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, list(order)] * SPACING[list(order)] * np.array(signs)
    affine[:3, 3] = (40.0, -10.0, 7.0)
    return affine


def body(affine: np.ndarray, spots: list[tuple[float, float]], width_mm: float = 300.0) -> tuple[Volume, np.ndarray]:
    """An MR-like trunk of grey 100 with bright objects.

    Args:
        affine: Of the grid.
        spots: Of each object its middle, in mm to the left of the midline, and half its width.
        width_mm: Of the trunk, from left to right.

    Returns:
        The volume, and how far each voxel lies to the left of the midline.
    """
    order = [int(np.argmax(np.abs(affine[:3, axis]))) for axis in range(3)]
    sizes = np.array([64, 48, 10])[order]
    shape = tuple(int(size) for size in sizes[::-1])
    k, j, i = np.indices(shape)
    points = np.stack([i, j, k], -1) @ affine[:3, :3].T + affine[:3, 3]
    x, y, z = np.moveaxis(points - (points.reshape(-1, 3).max(0) + points.reshape(-1, 3).min(0)) / 2, -1, 0)
    array = np.where((np.abs(x) <= width_mm / 2) & (np.abs(y) <= 90), 100.0, 0.0).astype(np.float32)
    for middle, half in spots:
        array[(np.abs(x - middle) <= half) & (np.abs(y) <= 24) & (np.abs(z) <= 24)] = 255.0
    return Volume(array, affine, "MR", name="trunk"), x


GRIDS = [
    affine_of(),
    affine_of(signs=(-1, 1, 1)),
    affine_of(signs=(-1, -1, -1)),
    affine_of(order=(1, 0, 2), signs=(1, -1, 1)),
    affine_of(order=(2, 0, 1), signs=(1, -1, 1)),
]


@pytest.mark.parametrize("affine", GRIDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_of_two_kidneys_only_the_one_on_the_asked_side_is_accepted(affine: np.ndarray, side: str) -> None:
    volume, x = body(affine, [(70.0, 26.0), (-70.0, 26.0)])
    result, record = segment_with_report(volume, [f"{side} kidney"], fake_model(KIDNEY), EXACT)
    mask = result.mask_kji(result.findings[0])
    both = segment(volume, ["kidney"], fake_model(KIDNEY), EXACT).layers[0] > 0
    assert np.array_equal(mask, both & (x > 0 if side == "left" else x < 0))
    assert 2 * mask.sum() == both.sum()
    other = "right" if side == "left" else "left"
    assert "sides" in record.timings_s
    assert any(f"lay on the patient's {other} and were not accepted" in notice for notice in record.notices)


def test_what_is_refused_to_one_side_goes_to_the_other() -> None:
    volume, x = body(GRIDS[0], [(70.0, 26.0), (-70.0, 26.0)])
    result = segment(volume, ["left kidney", "right kidney"], fake_model(KIDNEY), EXACT)
    left, right = (result.mask_kji(finding) for finding in result.findings)
    assert (x[left] > 0).all()
    assert (x[right] < 0).all()
    assert left.sum() == pytest.approx(right.sum(), rel=0.1)


def test_a_kidney_on_the_wrong_side_alone_is_not_found() -> None:
    volume, _ = body(GRIDS[0], [(-70.0, 26.0)])
    result, record = segment_with_report(volume, ["left kidney"], fake_model(KIDNEY), EXACT)
    assert result.findings[0].state == "not_found"
    assert len(record.notices) == 1


def test_what_is_on_its_side_stays_to_the_voxel_and_nothing_is_told() -> None:
    volume, _ = body(GRIDS[0], [(70.0, 26.0)])
    sided, record = segment_with_report(volume, ["left kidney"], fake_model(KIDNEY), EXACT)
    free = segment(volume, ["kidney"], fake_model(KIDNEY), EXACT)
    assert np.array_equal(sided.layers[0] > 0, free.layers[0] > 0)
    assert record.notices == ()


def test_without_a_sided_concept_there_is_no_such_stage() -> None:
    volume, _ = body(GRIDS[0], [(70.0, 26.0)])
    _, record = segment_with_report(volume, ["kidney", "liver"], fake_model(KIDNEY), EXACT)
    assert "sides" not in record.timings_s


def test_verbatim_takes_the_answer_as_it_is() -> None:
    volume, x = body(GRIDS[0], [(-70.0, 26.0)])
    settings = make_settings(speed="exact", verbatim=True)
    result, record = segment_with_report(volume, ["left kidney"], fake_model(KIDNEY), settings)
    assert (x[result.mask_kji(result.findings[0])] < 0).all()
    assert record.notices == ()


@pytest.mark.parametrize(("spots", "told"), [([(70.0, 26.0)], "left"), ([(70.0, 26.0), (-70.0, 26.0)], "")])
def test_both_says_when_one_is_missing(spots: list[tuple[float, float]], told: str) -> None:
    volume, _ = body(GRIDS[1], spots)
    _, record = segment_with_report(volume, ["both kidneys"], fake_model(KIDNEY), EXACT)
    only = [notice for notice in record.notices if "only the one" in notice]
    assert only == ([f"'both kidneys': only the one on the patient's {told} was found."] if told else [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modality": "GREY"}, "a picture does not say"),
        ({"width_mm": 390.0}, "does not show the whole width"),
        ({"width_mm": 200.0}, "too narrow"),
        ({"width_mm": 60.0}, "no trunk and no head"),
    ],
)
def test_where_the_midline_is_not_known_nothing_is_taken_and_the_reason_is_told(change: dict, reason: str) -> None:
    modality = change.pop("modality", "MR")
    volume, _ = body(GRIDS[0], [(-20.0, 12.0)], **change)
    volume = Volume(volume.array, volume.ijk_to_lps, modality)
    result, record = segment_with_report(volume, ["left kidney"], fake_model(KIDNEY), EXACT)
    assert result.findings[0].state == "found"
    assert len(record.notices) == 1
    assert reason in record.notices[0]
    assert "was not held to a side of the patient" in record.notices[0]


def test_a_head_is_wide_enough_for_what_is_in_a_head() -> None:
    volume, x = body(GRIDS[0], [(40.0, 20.0), (-40.0, 20.0)], width_mm=160.0)
    model = fake_model({"left parotid gland": (0.9, 1.5)})
    result = segment(volume, ["left parotid"], model, EXACT)
    assert (x[result.mask_kji(result.findings[0])] > 0).all()


@pytest.mark.parametrize("affine", GRIDS)
def test_the_midline_is_that_of_the_body_and_not_of_the_image(affine: np.ndarray) -> None:
    volume, x = body(affine, [])
    # Air on the right only: the body moves, and with it its middle.
    shifted = Volume(np.where(x > -60, volume.array, 0).astype(np.float32), affine, "MR")
    plane, moved = find_midline(volume, "MR"), find_midline(shifted, "MR")
    assert plane.is_trunk
    assert plane.x_lps is not None
    assert moved.x_lps is not None
    assert moved.x_lps - plane.x_lps == pytest.approx(45.0, abs=6.0)


def test_a_table_is_no_body() -> None:
    volume, _ = body(GRIDS[0], [])
    hu = np.where(volume.array > 0, 40.0, -1000.0).astype(np.float32)
    table = hu.copy()
    table[:, -2:, 20:] = 200.0  # to the edge of the picture on one side
    with_table, without = (find_midline(Volume(array, volume.ijk_to_lps, "CT"), "CT") for array in (table, hu))
    assert with_table == without
    assert with_table.is_trunk


def test_nothing_but_air_has_no_midline() -> None:
    volume = Volume(np.full((4, 40, 40), -1000.0, np.float32), affine_of(), "CT")
    assert find_midline(volume, "CT").x_lps is None


def test_a_bent_patient_has_no_midline() -> None:
    volume, _ = body(GRIDS[0], [], width_mm=260.0)
    bent = np.stack([np.roll(part, 2 * (n - 5), axis=1) for n, part in enumerate(volume.array)])
    assert find_midline(Volume(bent, volume.ijk_to_lps, "MR"), "MR").reason == "the patient does not lie straight"


@pytest.mark.parametrize(
    ("span_mm", "kept"),
    [
        ((20, 60), (20, 60)),  # on its side
        ((-20, 200), (-20, 200)),  # reaches over a little: an organ is no half-space
        ((-100, 100), (0, 100)),  # on both sides: cut
        ((-60, -20), None),  # on the other
        ((-8, 8), (-8, 8)),  # in the middle, where nothing is wrong
    ],
)
def test_objects_go_stay_or_are_cut_by_where_they_lie(span_mm: tuple[int, int], kept: tuple[int, int] | None) -> None:
    x = np.arange(-250.0, 251.0)
    mask = np.broadcast_to((x >= span_mm[0]) & (x <= span_mm[1]), (2, 3, x.size)).copy()
    over = [np.broadcast_to(-x, mask.shape)]
    left = mask & ~wrong_side(mask, over)
    wanted = np.zeros_like(mask) if kept is None else np.broadcast_to((x >= kept[0]) & (x <= kept[1]), mask.shape)
    assert np.array_equal(left, wanted)


@pytest.mark.parametrize(
    ("phrase", "whole"),
    [
        ("left kidney", "kidney"),
        ("right middle lobe", "lung"),
        ("left renal cortex", "renal_cortex"),
        ("left rib 3", "rib_3"),
        ("left atrium", ""),
        ("left lobe of liver", ""),
        ("left coronary artery", ""),
        ("left renal vein", ""),
        ("left pulmonary artery", ""),
        ("kidney", ""),
        ("liver", ""),
    ],
)
def test_only_halves_of_pairs_are_held_to_a_side(phrase: str, whole: str) -> None:
    concept = find_concept(phrase)
    assert concept is not None
    assert paired_whole(concept) == whole
