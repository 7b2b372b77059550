"""Three views of a volume vote: hand-made views, and the whole way with an oracle that cannot see small areas."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch

from MedicalSAM3Lib import pipeline
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.errors import Cancelled
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.fusion import SliceMap
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.report import make_report
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.stack import prepare_all
from MedicalSAM3Lib.structures import Progress, Volume
from MedicalSAM3Lib.views import View
from MedicalSAM3Lib.vote import VotedEvidence, median_presence, vote
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import oblique_affine, spheres

SIDE = 8
NAN = float("nan")
LOGIT = 2.0
SURE = 1 / (1 + np.exp(-LOGIT))
ALL = make_settings(speed="exact", axis="all")


def keep_on(progress: Progress) -> None:
    pass


def three_views(
    masks: list[np.ndarray],
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    presence: tuple[float, float, float] = (0.9, 0.9, 0.9),
    **settings: object,
) -> list[View]:
    """What would be seen if the first, second and third view drew these masks of one concept on a cube."""
    volume = Volume(np.zeros((SIDE,) * 3, np.float32), oblique_affine((2.0, 2.0, 2.0)), "GREY")
    stacks = prepare_all(volume, PreprocessSpec(image_size=SIDE), make_settings(axis="all", **settings))
    views = []
    for stack, mask, weight, present in zip(stacks, masks, weights, presence, strict=True):
        whole = replace(stack, _region=(stack._region[0], slice(0, SIDE), slice(0, SIDE)))
        logits = torch.from_numpy(np.where(whole.from_input(mask), LOGIT, -LOGIT)).half()
        maps = {(0, n): SliceMap(one, weight) for n, one in enumerate(logits) if bool((one > 0).any())}
        unknown = np.full((1, len(stack)), NAN)
        views.append(View(stack, Detections(unknown, unknown.copy(), maps), np.array([present])))
    return views


def volume_of(evidence: VotedEvidence, views: list[View]) -> np.ndarray:
    """Confidence of concept 0 on the input's grid."""
    region = np.zeros(evidence.shape, np.float32)
    for n in range(evidence.shape[0]):
        one = evidence.claim(0, n)
        if one is not None:
            region[n] = one.whole(region[n].shape)
    return views[0].stack.to_input(region)


def random_masks() -> list[np.ndarray]:
    return list(np.random.default_rng(5).random((3, SIDE, SIDE, SIDE)) < 0.4)


def test_two_of_three_views_decide_and_the_mean_of_all_is_the_confidence():
    masks, weights = random_masks(), (1.0, 0.8, 0.4)
    views = three_views(masks, weights)
    evidence, _ = vote(views, [0], keep_on)
    total = sum(mask * np.float32(weight * SURE) for mask, weight in zip(masks, weights, strict=True))
    expected = np.where(sum(mask.astype(int) for mask in masks) >= 2, total / 3, 0.0)
    got = volume_of(evidence, views)
    np.testing.assert_allclose(got, expected, atol=1e-3)
    np.testing.assert_array_equal(got > 0, expected > 0)


def test_the_vote_is_kept_cropped_and_half_as_large():
    mask = np.zeros((SIDE,) * 3, bool)
    mask[2:5, 3:5, 1:7] = True
    patch = vote(three_views([mask] * 3), [0], keep_on)[0].patches[0]
    assert patch.values.dtype == np.float16
    assert sorted(patch.values.shape) == [2, 3, 6]


def test_a_voxel_that_is_voted_in_stays_however_unsure():
    masks = random_masks()
    evidence, _ = vote(three_views(masks, (1e-9, 1e-9, 1e-9)), [0], keep_on)
    np.testing.assert_array_equal(
        volume_of(evidence, three_views(masks)) > 0, sum(mask.astype(int) for mask in masks) >= 2
    )


def test_a_vote_stays_inside_the_box_that_was_asked_for():
    views = three_views([np.ones((SIDE,) * 3, bool)] * 3, slices=(2, 7), roi=(1, 4, 3, 8, 0, 6))
    expected = np.zeros((SIDE,) * 3, bool)
    expected[2:6, 3:8, 1:4] = True
    np.testing.assert_array_equal(volume_of(vote(views, [0], keep_on)[0], views) > 0, expected)


def test_slices_where_the_first_view_was_outvoted_disagree():
    truth = np.zeros((SIDE,) * 3, bool)
    truth[1:7, 2:6, 2:6] = True
    first = truth.copy()
    first[2] = False  # missed
    first[3, :, 2:6] = True  # half of it hallucinated
    first[7, 0, 0] = True  # all of it
    views = three_views([first, truth, truth])
    _, detections = vote(views, [0], keep_on)
    by_number = dict(zip(views[0].stack.slice_numbers.tolist(), detections.agreement[0], strict=True))
    np.testing.assert_allclose([by_number[n] for n in range(SIDE)], [NAN, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.0])
    assert np.isnan(views[0].detections.agreement).all()  # what was seen is left as it was


def test_the_agreement_of_a_slice_within_itself_still_counts():
    views = three_views([np.ones((SIDE,) * 3, bool)] * 3)
    views[0].detections.agreement[0, 3] = 0.2
    assert vote(views, [0], keep_on)[1].agreement[0].tolist() == [1.0, 1.0, 1.0, 0.2, 1.0, 1.0, 1.0, 1.0]


def test_views_that_share_no_voxel_leave_no_mask():
    masks = [np.zeros((SIDE,) * 3, bool) for _ in range(3)]
    for k, mask in enumerate(masks):
        mask[2 * k] = True
    evidence, detections = vote(three_views(masks), [0], keep_on)
    assert evidence.patches == {}
    assert all(evidence.claim(0, n) is None for n in range(SIDE))
    assert detections.maps == {}


def test_a_concept_that_is_not_in_the_volume_is_not_voted_on():
    seen: list[Progress] = []
    views = three_views([np.ones((SIDE,) * 3, bool)] * 3)
    evidence, detections = vote(views, [], seen.append)
    assert evidence.patches == {}
    assert detections.maps == views[0].detections.maps
    assert seen == [Progress("vote", 0, 0)]


def test_presence_is_the_median_and_not_known_where_one_view_does_not_know():
    masks = [np.zeros((SIDE,) * 3, bool)] * 3
    assert median_presence(three_views(masks, presence=(0.1, 0.9, 0.7))).tolist() == [0.7]
    assert np.isnan(median_presence(three_views(masks, presence=(0.9, NAN, 0.9)))).tolist() == [True]
    assert median_presence(three_views(masks, presence=(0.3, 0.9, 0.7))[:1]).tolist() == [0.3]


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_a_sphere_comes_back_from_a_vote_on_oblique_and_anisotropic_grids(order, signs):
    affine = oblique_affine(order=order, signs=signs)
    volume, masks = spheres({255.0: (0.4, 0.55, 0.5)}, affine)
    result, record = segment_with_report(volume, ["ball"], fake_model({"ball": (0.5, 1.5)}), ALL)
    finding = result.findings[0]
    mask = result.mask_kji(finding)
    assert (mask != masks[255.0]).sum() <= 0.01 * masks[255.0].sum()
    # Slices are thick along k: that is what "auto" would choose, and its numbers are told.
    assert (record.axis, record.slices) == (order[2], 24 + 34 + 46)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    assert finding.slice_range == (slices[0], slices[-1])


def cube(box: tuple[slice, slice, slice]) -> tuple[Volume, np.ndarray]:
    grey = np.zeros((40, 40, 40), np.float32)
    grey[box] = 255.0
    return Volume(grey, np.eye(4), "GREY"), grey > 0


ROD = (slice(5, 35), slice(17, 23), slice(10, 16))
"""Along the patient: 6 x 6 pixels on an axial slice, 6 x 30 on the others."""

DISC = (slice(20, 23), slice(5, 35), slice(5, 35))
"""30 x 30 pixels on an axial slice, 3 x 30 on the others."""


def short_sighted() -> LoadedModel:
    """Sees nothing on a slice with less than 125 pixels of the 40 x 40."""
    return fake_model({"thing": (0.5, 1.5)}, least_pixels=720)


def test_what_one_view_misses_is_found_by_the_two_others_and_a_person_is_told_to_look():
    volume, truth = cube(ROD)
    assert segment(volume, ["thing"], short_sighted(), make_settings(speed="exact")).findings[0].state == "not_found"
    result = segment(volume, ["thing"], short_sighted(), ALL)
    finding = result.findings[0]
    np.testing.assert_array_equal(result.mask_kji(finding), truth)
    assert finding.slice_range == (5, 34)
    assert finding.review_slices == tuple(range(5, 35))
    assert 0.6 < finding.confidence < 0.67  # two sure views of three


def test_what_one_view_alone_sees_is_not_found():
    volume, _ = cube(DISC)
    assert segment(volume, ["thing"], short_sighted(), make_settings(speed="exact")).findings[0].state == "found"
    finding = segment(volume, ["thing"], short_sighted(), ALL).findings[0]
    assert (finding.state, finding.voxels) == ("not_found", 0)
    assert "presence" in finding.reason


def test_what_no_two_views_agree_on_is_not_found_and_not_blamed_on_other_concepts(monkeypatch):
    masks = [np.zeros((SIDE,) * 3, bool) for _ in range(3)]
    for k, mask in enumerate(masks):
        mask[2 * k] = True
    views = three_views(masks)
    monkeypatch.setattr(pipeline, "look_along_all", lambda *_: views)
    volume = Volume(np.zeros((SIDE,) * 3, np.float32), oblique_affine((2.0, 2.0, 2.0)), "GREY")
    finding = segment(volume, ["thing"], short_sighted(), ALL).findings[0]
    assert (finding.state, finding.presence) == ("not_found", 0.9)
    assert finding.reason == "It seems present, but no voxel is confident enough for a mask."


def test_views_that_agree_send_nobody_to_look():
    volume, truth = cube((slice(8, 30), slice(10, 32), slice(6, 28)))
    result = segment(volume, ["thing"], short_sighted(), ALL)
    np.testing.assert_array_equal(result.mask_kji(result.findings[0]), truth)
    assert result.findings[0].review_slices == ()


def test_slices_and_region_restrict_the_vote_and_the_work():
    volume, truth = cube((slice(8, 30), slice(10, 32), slice(6, 28)))
    model = fake_model({"thing": (0.5, 1.5)})
    settings = make_settings(speed="exact", axis="all", slices=(10, 25), roi=(4, 20, 12, 40, 0, 20))
    result = segment(volume, ["thing"], model, settings)
    inside = np.zeros_like(truth)
    inside[10:20, 12:40, 4:20] = True
    np.testing.assert_array_equal(result.mask_kji(result.findings[0]), truth & inside)
    assert model.model.trunk_slices == 10 + 28 + 16
    assert result.findings[0].slice_range == (10, 19)


def test_a_picture_is_answered_as_by_its_own_axis():
    array = np.zeros((1, 60, 90, 3), np.float32)
    array[0, 10:40, 20:70, 0] = 255.0
    volume = Volume(array, np.eye(4), "RGB", is_2d=True)
    result, record = segment_with_report(volume, ["thing"], fake_model({"thing": (0.5, 1.5)}), ALL)
    np.testing.assert_array_equal(result.mask_kji(result.findings[0]), array[..., 0] > 0)
    assert record.slices == 1
    assert "vote" not in record.timings_s


def test_concepts_compete_by_what_was_voted():
    volume, masks = spheres({255.0: (0.3, 0.5, 0.5), 127.0: (0.75, 0.5, 0.5)})
    bands = {"bright": (0.4, 1.5), "middle": (0.3, 0.7)}
    settings = make_settings(speed="exact", axis="all", confidence_map=True)
    result = segment(volume, list(bands), fake_model(bands), settings)
    bright, middle = (result.mask_kji(finding) for finding in result.findings)
    assert dice(middle, masks[127.0]) > 0.97
    assert dice(bright, masks[255.0]) > 0.97
    assert not (bright & middle).any()
    np.testing.assert_array_equal(result.confidence > 0, bright | middle)


def test_an_answer_that_is_not_a_number_fails_that_concept_only():
    volume, _ = cube(ROD)
    model = fake_model({"thing": (0.5, 1.5), "broken": (NAN, 1.0)}, least_pixels=0)
    findings = segment(volume, ["thing", "broken"], model, ALL).findings
    assert [finding.state for finding in findings] == ["found", "failed"]


@pytest.mark.parametrize("stage", ["features", "detection", "vote", "fusion"])
def test_cancel_stops_at_the_next_word_of_any_stage(stage):
    volume, _ = cube(ROD)
    seen: list[Progress] = []

    def cancel(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == stage and 2 * progress.done > progress.total:  # in the second view or beyond it
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        segment(volume, ["thing"], short_sighted(), ALL, cancel)
    assert seen[-1].stage == stage
    assert sum(progress.stage == stage and 2 * progress.done > progress.total for progress in seen) == 1


def test_every_stage_counts_the_slices_of_all_views_to_their_end():
    volume, _ = spheres({255.0: (0.4, 0.55, 0.5)})
    seen: list[Progress] = []
    segment(volume, ["ball", "nonsense"], fake_model({"ball": (0.5, 1.5)}), ALL, seen.append)
    ends = {"features": 104, "detection": 104, "vote": 104, "fusion": 24}
    assert list(dict.fromkeys(progress.stage for progress in seen)) == list(ends)
    for stage, end in ends.items():
        done = [progress.done for progress in seen if progress.stage == stage]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, end)
        assert {progress.total for progress in seen if progress.stage == stage} == {end}


def test_features_of_all_views_are_kept_for_the_next_concept():
    volume, _ = spheres({255.0: (0.3, 0.5, 0.5), 127.0: (0.75, 0.5, 0.5)})
    bands = {"bright": (0.75, 1.5), "middle": (0.4, 0.6)}
    cache, model = FeatureCache(), fake_model(bands)
    segment(volume, ["bright"], model, ALL, cache=cache)
    assert (len(cache), model.model.trunk_slices) == (3, 104)
    again = segment(volume, ["middle"], model, ALL, cache=cache)
    assert model.model.trunk_slices == 104
    fresh = segment(volume, ["middle"], fake_model(bands), ALL)
    np.testing.assert_array_equal(again.layers, fresh.layers)
    assert again.findings == fresh.findings
    segment(volume, ["middle"], model, make_settings(speed="exact"), cache=cache)  # one of the three
    assert model.model.trunk_slices == 104


def test_the_report_of_a_vote_keeps_to_the_schema():
    volume, _ = cube(ROD)
    _, record = segment_with_report(volume, ["thing"], short_sighted(), ALL)
    assert list(record.timings_s) == ["preprocess", "features", "detection", "vote", "fusion", "findings"]
    report = json.loads(json.dumps(make_report(record)))
    jsonschema.validate(report, json.loads(resource("report.schema.json").read_text(encoding="utf-8")))
    assert (report["settings"]["axis"], report["run"]["axis"], report["run"]["slices"]) == ("all", 2, 120)
