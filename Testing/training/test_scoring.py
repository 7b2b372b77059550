"""Scores by hand, and an examiner whose model is an oracle that reads grey values."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MedicalSAM3Lib.geometry import canonical_of
from MedicalSAM3Lib.model_folder import LoadedModel
from Testing.lib.fakes import FakeModel, fake_model
from Testing.lib.phantoms import oblique_affine
from Testing.training.data_world import image_of, labelled, write_world
from Training.cases import runs_of
from Training.manifest import read_manifest, write_manifest
from Training.scoring import LARGE, Examiner, Overlap, Rejections, Scores

SPLITS = ["train"] * 4 + ["test"] * 4 + ["val"] * 4
BANDS = {
    "liver": (0.7, 0.82),  # of HU -1000..600, 300 is at 0.81
    "spleen": (0.38, 0.5),
    "left kidney": (0.87, 0.95),
    "right kidney": (0.68, 0.72),
    "kidney": (0.87, 0.95),
    "urinary bladder": (3.0, 4.0),
    "zebra": (3.0, 4.0),
}


def oracle(bands: dict[str, tuple[float, float]] | None = None, least_pixels: int = 300) -> LoadedModel:
    """Finds what has a grey value; rims of other organs are smaller than ``least_pixels``."""
    model = fake_model(bands or BANDS, size=152, least_pixels=least_pixels)
    spec = model.preprocess.model_copy(update={"windows": {"CT": ((-1000.0, 600.0),) * 3}, "crop": "body"})
    return replace(model, preprocess=spec)


def test_overlap_adds_voxels_up() -> None:
    overlap = Overlap()
    assert math.isnan(overlap.dice)
    one, other = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    overlap.add(one, other)
    assert overlap == Overlap(predicted=2, reference=2, both=1, slices=1)
    assert overlap.dice == 0.5
    overlap.add(other, other)
    assert overlap.dice == 6 / 8
    overlap.add(one, ~one & one)
    assert overlap == Overlap(predicted=6, reference=4, both=3, slices=3)


def test_a_missed_concept_counts_zero_and_one_without_reference_nothing() -> None:
    missed, without = Overlap(), Overlap()
    missed.add(np.zeros(3, bool), np.ones(3, bool))
    without.add(np.ones(3, bool), np.zeros(3, bool))
    assert missed.dice == 0.0
    assert math.isnan(without.dice)
    scores = Scores()
    scores.overlaps.update(liver=missed, spleen=without, colon=Overlap(2, 2, 2, 1))
    assert scores.mean_dice(LARGE) == (0.5, 2)
    value, count = scores.mean_dice(["aorta"])
    assert math.isnan(value)
    assert count == 0
    assert "aorta" not in scores.overlaps


def test_rejections_are_a_rate() -> None:
    rejections = Rejections()
    assert math.isnan(rejections.rate)
    for found in (True, False, False, False):
        rejections.add(found)
    assert (rejections.asked, rejections.rejected, rejections.rate) == (4, 3, 0.75)


def test_each_slice_of_a_split_is_asked_by_itself(tmp_path: Path) -> None:
    manifest = read_manifest(write_world(tmp_path, [labelled(splits=SPLITS)]))
    model = oracle()
    scores = Examiner(model, manifest, ["zebra"]).slices("test")
    # The test slices 4 to 7: the liver ends on 5, the spleen begins on 6.
    counted = {name: (overlap.slices, overlap.reference) for name, overlap in scores.overlaps.items()}
    assert counted["liver"] == (2, 2 * 7 * 11)
    assert counted["spleen"][0] == 2
    assert counted["left_kidney"][0] == 4
    for name in ("liver", "spleen", "left_kidney"):
        assert scores.overlaps[name].dice > 0.9, name
    # "kidney" is the left one for this oracle: every voxel is right, and half of them are missing.
    kidney = scores.overlaps["kidney"]
    assert kidney.both / kidney.predicted > 0.9
    assert 0.5 < kidney.dice < 0.75
    # Absent: the bladder on four slices, liver and spleen on two each. Nonsense is asked once a slice.
    assert (scores.wrong.asked, scores.wrong.rate) == (8, 1.0)
    assert (scores.nonsense.asked, scores.nonsense.rate) == (4, 1.0)
    assert isinstance(model.model, FakeModel)
    assert model.model.trunk_slices == 2  # organs and sides share it, as do slices that look alike: 4 and 5, 6 and 7


def test_what_is_wrongly_found_is_counted(tmp_path: Path) -> None:
    manifest = read_manifest(write_world(tmp_path, [labelled(splits=SPLITS)]))
    bands = {**BANDS, "urinary bladder": (0.62, 0.68), "zebra": (0.69, 0.71)}  # the body's tissue, the right kidney
    scores = Examiner(oracle(bands), manifest, ["zebra"]).slices("test")
    assert (scores.wrong.asked, scores.wrong.rejected) == (8, 4)
    assert (scores.nonsense.asked, scores.nonsense.rejected) == (4, 0)


def test_unknown_concepts_are_not_asked(tmp_path: Path) -> None:
    volume = labelled(splits=SPLITS, known_slices=(0, 5))
    scores = Examiner(oracle(), read_manifest(write_world(tmp_path, [volume])), ()).slices("test")
    assert "spleen" not in scores.overlaps
    assert scores.overlaps["left_kidney"].slices == 2
    assert scores.wrong.asked == 2 + 4  # the spleen where it was looked for, the bladder everywhere


def test_a_whole_volume_is_asked_at_once(tmp_path: Path) -> None:
    volumes = [labelled(), labelled("other", splits=["unseen"] * 12)]
    scores = Examiner(oracle(), read_manifest(write_world(tmp_path, volumes)), ["zebra"]).volume("other")
    assert {name: overlap.slices for name, overlap in scores.overlaps.items()} == dict.fromkeys(
        ("liver", "spleen", "kidney", "left_kidney", "right_kidney"), 1
    )
    assert scores.overlaps["liver"].reference == 6 * 7 * 11
    assert scores.overlaps["liver"].dice > 0.9
    assert (scores.wrong.asked, scores.nonsense.asked) == (1, 1)
    assert scores.wrong.rate == scores.nonsense.rate == 1.0


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_slices_are_scored_in_their_place_whichever_axis_they_lie_across(
    tmp_path: Path, order: tuple[int, int, int]
) -> None:
    """The same body, stored so that the file's slices are axial, coronal or sagittal, and turned around."""
    straight = labelled()
    affine = oblique_affine((2.0, 2.0, 2.0), (0.0, 0.0, 0.0), order, (1, -1, -1))
    canonical = canonical_of(affine)
    array = np.ascontiguousarray(canonical.to_input(sitk.GetArrayFromImage(straight.image)))
    masks = {name: np.ascontiguousarray(canonical.to_input(mask)) for name, mask in straight.masks_kji.items()}
    middle = len(array) // 2
    volume = replace(
        straight, image=image_of(array, affine), masks_kji=masks, known_slices=(0, len(array) - 1),
        splits=tuple("test" if abs(k - middle) < 5 else "" for k in range(len(array))),
    )  # fmt: skip
    manifest = read_manifest(write_world(tmp_path, [volume]))
    scores = Examiner(oracle(least_pixels=1), manifest, ()).slices("test")
    wanted = int(masks["left_kidney"][middle - 4 : middle + 5].sum())
    assert scores.overlaps["left_kidney"].reference == wanted
    assert scores.overlaps["left_kidney"].dice > 0.85


def test_slices_need_not_lie_along_the_first_axis_of_the_file(tmp_path: Path) -> None:
    """Coronal slices of an axial file, two of which cut the left kidney."""
    path = write_world(tmp_path, [labelled()])
    one = next(row for row in read_manifest(path).rows if row.concept == "left_kidney")
    rows = [one.model_copy(update={"axis": 1, "split": "test", "slice_index": j}) for j in (17, 20)]
    write_manifest(path, rows)
    overlap = Examiner(oracle(), read_manifest(path), ()).slices("test").overlaps["left_kidney"]
    assert (overlap.slices, overlap.reference) == (2, 2 * 12 * 10)
    assert overlap.dice > 0.9


def test_a_split_without_slices_has_no_scores(tmp_path: Path) -> None:
    path = write_world(tmp_path, [labelled(splits=SPLITS)])
    manifest = read_manifest(path)
    write_manifest(path, [row for row in manifest.rows if row.split != "test"])
    scores = Examiner(oracle(), read_manifest(path), ["zebra"]).slices("test")
    assert not scores.overlaps
    assert scores.wrong.asked == scores.nonsense.asked == 0


def test_runs_of_neighbouring_slices_are_volumes_of_their_own(tmp_path: Path) -> None:
    """Slices 4 and 5, 7 to 9: five slices, in two runs; each run is asked once for organs and once for sides."""
    splits = ["train"] * 4 + ["test"] * 2 + ["train"] + ["test"] * 3 + ["train"] * 2
    model = oracle()
    scores = Examiner(model, read_manifest(write_world(tmp_path, [labelled(splits=splits)])), ()).runs("test", "detect")
    assert model.model.trunk_slices == 5  # type: ignore[attr-defined]
    one_by_one = Examiner(oracle(), read_manifest(tmp_path / "manifest.parquet"), ()).slices("test")
    assert {name: overlap.reference for name, overlap in scores.overlaps.items()} == {
        name: overlap.reference for name, overlap in one_by_one.overlaps.items()
    }


def test_runs_are_half_open_ranges() -> None:
    assert runs_of([3, 4, 5, 8, 10, 11]) == [(3, 6), (8, 9), (10, 12)]
    assert runs_of([]) == []
