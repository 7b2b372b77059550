"""The whole way from a volume to findings, with an oracle in the place of the network."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from MedicalSAM3Lib import features
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, PromptError, SettingsError, WeightsError
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.structures import Progress, Volume
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import oblique_affine, spheres

EXACT = make_settings(speed="exact")
BRIGHT, MIDDLE = (0.75, 1.5), (0.4, 0.6)
TWO = {255.0: (0.3, 0.5, 0.5), 127.0: (0.75, 0.5, 0.5)}


def ball(phrase: str = "bright thing") -> tuple[Volume, np.ndarray, object]:
    volume, masks = spheres({255.0: (0.4, 0.55, 0.5)})
    return volume, masks[255.0], fake_model({phrase: (0.5, 1.5)})


@pytest.mark.parametrize("axis", ["0", "1", "2"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_a_sphere_comes_back_on_oblique_flipped_and_anisotropic_grids(axis, signs, order):
    affine = oblique_affine(order=order, signs=signs)
    volume, masks = spheres({255.0: (0.4, 0.55, 0.5)}, affine)
    result = segment(volume, ["ball"], fake_model({"ball": (0.5, 1.5)}), make_settings(speed="exact", axis=axis))
    mask = result.mask_kji(result.findings[0])
    assert mask.shape == volume.shape_kji
    # The resize to the square and back may turn a voxel that juts out of the sphere's surface.
    assert (mask != masks[255.0]).sum() <= 0.01 * masks[255.0].sum()
    np.testing.assert_array_equal(result.ijk_to_lps, affine)


def test_measures_of_a_finding_are_those_of_its_mask():
    volume, truth, model = ball()
    result = segment(volume, ["bright thing"], model, EXACT)
    finding = result.findings[0]
    mask = result.mask_kji(finding)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    assert dice(mask, truth) > 0.99
    assert (finding.state, finding.reason, finding.instances) == ("found", "", 1)
    assert finding.voxels == mask.sum()
    assert finding.volume_ml == pytest.approx(mask.sum() * volume.voxel_ml)
    assert finding.slice_range == (slices[0], slices[-1])
    assert finding.presence > 0.99
    assert 0.9 < finding.confidence <= 1.0


def test_slice_numbers_are_the_inputs_own_also_when_the_input_runs_from_head_to_feet():
    volume, masks = spheres({255.0: (0.4, 0.55, 0.25)}, oblique_affine(signs=(1, 1, -1)))
    finding = segment(volume, ["ball"], fake_model({"ball": (0.5, 1.5)}), EXACT).findings[0]
    slices = np.flatnonzero(masks[255.0].any(axis=(1, 2)))
    assert finding.slice_range == (slices[0], slices[-1])


def test_one_trunk_pass_a_slice_whatever_the_number_of_concepts():
    volume, _ = spheres(TWO)
    for concepts in (["bright"], ["bright", "middle", "nonsense", "more nonsense"]):
        model = fake_model({"bright": BRIGHT, "middle": MIDDLE})
        segment(volume, concepts, model, EXACT)
        assert model.model.trunk_slices == volume.shape_kji[0]
        assert model.model.text_phrases == len(concepts)
        assert model.model.query_pairs == volume.shape_kji[0] * len(concepts)


def test_the_mask_head_runs_only_where_presence_opens_the_gate():
    volume, masks = spheres(TWO)
    model = fake_model({"bright": BRIGHT})
    segment(volume, ["bright", "nonsense"], model, EXACT)
    on_slices = masks[255.0].any(axis=(1, 2)).sum()
    assert model.model.mask_pairs == on_slices


def test_concepts_together_give_what_each_gives_alone():
    volume, _ = spheres(TWO)
    bands = {"bright": BRIGHT, "middle": MIDDLE}
    together = segment(
        volume, list(bands), fake_model(bands, least_pixels=60), make_settings(speed="exact", overlap="keep")
    )
    for finding in together.findings:
        alone = segment(volume, [finding.phrase], fake_model(bands, least_pixels=60), EXACT)
        np.testing.assert_array_equal(together.mask_kji(finding), alone.mask_kji(alone.findings[0]))


def test_the_order_of_concepts_changes_no_voxel_even_where_they_tie():
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)})
    bands = {"one": BRIGHT, "two": BRIGHT}
    results = [segment(volume, order, fake_model(bands), EXACT) for order in (list(bands), list(bands)[::-1])]
    by_phrase = [{finding.phrase: result.mask_kji(finding) for finding in result.findings} for result in results]
    for phrase in bands:
        np.testing.assert_array_equal(by_phrase[0][phrase], by_phrase[1][phrase])


def test_exclusive_concepts_share_no_voxel_and_kept_overlaps_lie_in_layers():
    volume, masks = spheres({255.0: (0.4, 0.5, 0.5)})
    bands = {"one": BRIGHT, "two": (0.7, 1.6)}
    exclusive = segment(volume, list(bands), fake_model(bands), EXACT)
    kept = segment(volume, list(bands), fake_model(bands), make_settings(speed="exact", overlap="keep"))
    assert len(exclusive.layers) == 1
    assert sum(finding.voxels for finding in exclusive.findings) <= 1.01 * masks[255.0].sum()
    assert len(kept.layers) == 2
    assert all(dice(kept.mask_kji(finding), masks[255.0]) > 0.98 for finding in kept.findings)


def test_nested_concepts_share_voxels_with_their_parts_and_compete_with_all_others():
    volume, masks = spheres(TWO)
    bands = {"kidney": (0.4, 1.5), "left kidney": BRIGHT, "spleen": (0.3, 0.7), "anything": (0.9, 1.5)}
    result = segment(volume, list(bands), fake_model(bands), make_settings(speed="exact", overlap="nested"))
    kidney, left, spleen, anything = (result.mask_kji(finding) for finding in result.findings)
    bright, middle = masks[255.0], masks[127.0]
    for mask, truth in ((kidney, bright), (left, bright), (spleen, middle)):
        assert dice(mask, truth) > 0.97
    assert not anything.any()  # free text has no relatives: the surer kidneys take all of it
    assert not (spleen & (kidney | left)).any()
    assert len(result.layers) == 2


def test_nested_is_exclusive_where_nobody_is_related():
    volume, _ = spheres(TWO)
    bands = {"liver": (0.4, 1.5), "spleen": (0.3, 0.7), "left kidney": BRIGHT, "right kidney": (0.7, 1.6)}
    results = [
        segment(volume, list(bands), fake_model(bands), make_settings(speed="exact", overlap=overlap))
        for overlap in ("exclusive", "nested")
    ]
    np.testing.assert_array_equal(results[0].layers, results[1].layers)
    assert results[0].findings == results[1].findings


def test_a_concept_whose_voxels_all_go_to_another_is_not_found_and_says_why():
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)})
    findings = segment(volume, ["one", "two"], fake_model({"one": BRIGHT, "two": BRIGHT}), EXACT).findings
    assert [finding.state for finding in findings] == ["found", "not_found"]
    assert "another concept" in findings[1].reason
    assert findings[1].presence > 0.99


def test_an_absent_concept_is_an_answer_with_its_probability():
    volume, _, model = ball()
    result = segment(volume, ["nonsense", "bright thing"], model, EXACT)
    absent = result.findings[0]
    assert (absent.state, absent.voxels, absent.layer, absent.confidence) == ("not_found", 0, -1, None)
    assert absent.presence < 0.01
    assert "presence" in absent.reason
    assert not result.mask_kji(absent).any()


def test_presence_without_a_mask_is_not_found_and_says_so():
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)})
    model = fake_model({"ghost": (0.4, 0.6)}, least_pixels=0)
    finding = segment(volume, ["ghost"], model, make_settings(speed="exact", axis="2", slices=(0, 1))).findings[0]
    assert finding.state == "not_found"
    assert "no voxel" in finding.reason


def test_an_answer_that_is_not_a_number_fails_that_concept_only():
    volume, _ = spheres(TWO)
    model = fake_model({"bright": BRIGHT, "broken": (float("nan"), 1.0)}, least_pixels=0)
    findings = segment(volume, ["bright", "broken"], model, EXACT).findings
    assert [finding.state for finding in findings] == ["found", "failed"]
    assert findings[1].presence is None
    assert "not a number" in findings[1].reason


def test_slices_and_region_restrict_the_answer_and_the_work():
    volume, truth, model = ball()
    settings = make_settings(speed="exact", slices=(8, 14), roi=(5, 20, 4, 30, 6, 12))
    result = segment(volume, ["bright thing"], model, settings)
    inside = np.zeros_like(truth)
    inside[8:12, 4:30, 5:20] = True
    mask = result.mask_kji(result.findings[0])
    assert not (mask & ~inside).any()
    assert dice(mask, truth & inside) > 0.99
    assert model.model.trunk_slices == 4
    assert result.findings[0].slice_range == (8, 11)


@pytest.mark.parametrize(
    "box", [{"slices": (20, 25)}, {"roi": (0, 47, 0, 2, 0, 2)}, {"slices": (0, 4), "roi": (0, 9, 0, 9, 6, 9)}]
)
def test_a_box_outside_the_volume_is_refused(box):
    volume, _, model = ball()
    with pytest.raises(SettingsError, match=r"expected a|outside"):
        segment(volume, ["bright thing"], model, make_settings(**box))
    assert model.model.trunk_slices == 0


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"mode": "track"}, "tracker"),
        ({"mode": "fuse"}, "tracker"),
    ],
)
def test_what_is_not_there_yet_is_refused_before_anything_is_computed(values, word):
    volume, _, model = ball()
    with pytest.raises(SettingsError, match=word):
        segment(volume, ["bright thing"], model, make_settings(**values))
    assert model.model.trunk_slices == 0


@pytest.mark.parametrize("concepts", [[], ["liver", " "], ["liver", "Liver"], ["left kidney", "kidney left"], "liver"])
def test_no_concept_an_empty_one_and_one_asked_for_twice_are_refused(concepts):
    volume, _, model = ball()
    with pytest.raises(PromptError):
        segment(volume, concepts, model, EXACT)


def test_a_model_folder_that_contradicts_itself_is_refused():
    volume, _, model = ball()
    model.model.image_size = 80
    with pytest.raises(WeightsError, match="image_size 80"):
        segment(volume, ["bright thing"], model, EXACT)


@pytest.mark.parametrize("stage", ["features", "detection", "fusion"])
def test_cancel_stops_at_the_next_word_of_any_stage(stage):
    volume, _, model = ball()
    seen: list[Progress] = []

    def cancel(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == stage:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        segment(volume, ["bright thing"], model, EXACT, cancel)
    assert [progress.stage for progress in seen].count(stage) == 1
    assert (model.model.trunk_slices > 0) == (stage != "features")
    assert (model.model.query_pairs > 0) == (stage == "fusion")


def test_progress_counts_every_stage_to_its_end():
    volume, _, model = ball()
    seen: list[Progress] = []
    segment(volume, ["bright thing"], model, EXACT, seen.append)
    for stage in ("features", "detection", "fusion"):
        done = [progress.done for progress in seen if progress.stage == stage]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, volume.shape_kji[0])


@pytest.mark.parametrize("cancel_in", ["", "features", "detection", "fusion"])
def test_features_are_given_back_however_the_run_ends(cancel_in, monkeypatch):
    volume, _, model = ball()
    made: list[FeatureStore] = []
    monkeypatch.setattr(features, "FeatureStore", lambda *args: made.append(FeatureStore(*args)) or made[0])

    def on_progress(progress: Progress) -> None:
        if progress.stage == cancel_in and progress.done:
            raise Cancelled("stop")

    with pytest.raises(Cancelled) if cancel_in else nullcontext():
        segment(volume, ["bright thing"], model, make_settings(speed="exact", memory_budget_gb=1e-4), on_progress)
    assert made[0].nbytes == 0
    assert made[0]._file.closed


@pytest.mark.parametrize("modality", ["", "MR", "CT", "GREY"])
def test_one_voxel_and_a_constant_image_are_answered(modality):
    for shape in ((1, 1, 1), (3, 5, 4)):
        volume = Volume(np.full(shape, 7.0, np.float32), np.eye(4), modality)
        finding = segment(volume, ["thing"], fake_model({"thing": (0.5, 1.5)}), EXACT).findings[0]
        assert finding.state == "not_found"


def test_a_colour_photograph_is_a_volume_of_one_slice():
    array = np.zeros((1, 60, 90, 3), np.float32)
    array[0, 10:40, 20:70, 0] = 255.0
    volume = Volume(array, np.diag([1.0, 1.0, 1.0, 1.0]), "RGB", is_2d=True)
    result = segment(volume, ["red thing"], fake_model({"red thing": (0.5, 1.5)}), EXACT)
    np.testing.assert_array_equal(result.mask_kji(result.findings[0]), array[..., 0] > 0)


def test_two_separate_objects_are_two_instances_and_a_speck_is_none():
    array = np.zeros((6, 40, 40), np.float32)
    array[1:4, 5:12, 5:12] = array[2:5, 20:30, 20:30] = array[1, 36, 36] = 255.0
    volume = Volume(array, np.eye(4), "GREY")
    finding = segment(volume, ["thing"], fake_model({"thing": (0.5, 1.5)}), EXACT).findings[0]
    assert finding.instances == 2


def test_the_threshold_of_the_user_replaces_the_models():
    volume, _, model = ball()
    finding = segment(volume, ["bright thing"], model, make_settings(speed="exact", presence_threshold=0.999)).findings[
        0
    ]
    assert finding.state == "not_found"
    assert "0.999" in finding.reason or "1.00" in finding.reason


def test_the_threshold_of_the_user_opens_the_gate_of_the_slices_too():
    volume, truth, _ = ball()
    model = fake_model({"ball": (0.5, 1.5)}, default={"bias": -6.0, "threshold": 0.9}, volume={"threshold": 0.9})
    result = segment(volume, ["ball"], model, make_settings(speed="exact", presence_threshold=0.4))
    assert dice(result.mask_kji(result.findings[0]), truth) > 0.99


def test_unsure_slices_are_listed_for_review():
    volume, truth, _ = ball()
    # A bias that turns the oracle's sure "present" (logit 6) into 0.5: every slice of the sphere is unsure.
    model = fake_model({"ball": (0.5, 1.5)}, default={"bias": -6.0, "threshold": 0.45}, volume={"threshold": 0.45})
    finding = segment(volume, ["ball"], model, EXACT).findings[0]
    assert finding.state == "found"
    assert finding.review_slices == tuple(np.flatnonzero(truth.any(axis=(1, 2))))


def test_the_record_tells_how_the_run_went():
    volume, _, model = ball()
    _, record = segment_with_report(volume, ["bright thing"], model, EXACT)
    assert list(record.timings_s) == ["preprocess", "features", "detection", "fusion", "findings"]
    assert (record.axis, record.slices, record.device, record.dtype) == (2, 24, record.device, "float32")
    assert record.findings[0].state == "found"


def test_the_model_is_asked_with_its_words_and_the_answer_is_to_what_was_typed():
    volume, truth, _ = ball()
    model = fake_model({"liver": (0.5, 1.5)})
    result, record = segment_with_report(volume, ["Livr"], model, EXACT)
    finding = result.findings[0]
    assert (finding.phrase, finding.asked, finding.concept_id, finding.state) == ("Livr", "liver", "liver", "found")
    assert finding.codes.type == "SCT^10200004^Liver"
    assert dice(result.mask_kji(finding), truth) > 0.99
    assert record.notices == ("'Livr' was asked as 'liver'.",)
    model = replace(fake_model({"hepar": (0.5, 1.5)}), phrases={"liver": ["hepar"]})
    assert segment(volume, ["liver"], model, EXACT).findings[0].state == "found"


def test_verbatim_asks_what_was_typed():
    volume, _, _ = ball()
    settings = make_settings(speed="exact", verbatim=True)
    result, record = segment_with_report(volume, ["Livers"], fake_model({"liver": (0.5, 1.5)}), settings)
    assert (result.findings[0].state, result.findings[0].asked) == ("not_found", "Livers")
    assert record.notices == ()
    result = segment(volume, ["Livers"], fake_model({"Livers": (0.5, 1.5)}), settings)
    assert (result.findings[0].state, result.findings[0].concept_id) == ("found", "liver")


def test_two_spellings_of_one_concept_are_one_too_many():
    volume, _, model = ball("liver")
    with pytest.raises(PromptError, match="'livr' asks for the same concept as 'liver'"):
        segment(volume, ["liver", "livr"], model, EXACT)


def test_presence_is_that_of_the_images_modality():
    volume, _, _ = ball()
    never = fake_model({"bright thing": (0.5, 1.5)}, MR={"bias": -1000.0})
    states = {name: segment(replace(volume, modality=name), ["bright thing"], never, EXACT).findings[0].state
              for name in ("MR", "GREY")}  # fmt: skip
    assert states == {"MR": "not_found", "GREY": "found"}
