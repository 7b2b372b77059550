"""What is predicted for a network of known cost is what the run then spends; its memory follows the sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from MedicalSAM3Lib import estimate as module
from MedicalSAM3Lib import features, meter
from MedicalSAM3Lib.config import SegmentSettings, make_settings
from MedicalSAM3Lib.errors import Cancelled, PromptError, RunError, SettingsError
from MedicalSAM3Lib.estimate import Estimate, Size, estimate, host_bytes, label_bytes, stage_seconds
from MedicalSAM3Lib.feature_store import FeatureStore
from MedicalSAM3Lib.model import Masks, Pyramid, Queries, Slices, TextFeatures
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import PresenceSpec
from MedicalSAM3Lib.probe import Costs, PairsCost, Rates, TrackerCost, TrunkCost, spread
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.structures import Volume
from MedicalSAM3Lib.text import load_tokenizer
from Testing.lib.checkpoint_worlds import SIDE, small_architecture
from Testing.lib.fakes import FakeModel, fake_model

TRUNK_S, TEXT_S, NECK_S, QUERIES_S, MASKS_S = 2.0, 1.0, 0.125, 0.25, 0.5
MB = 10**6


class Clock:
    """Stands still while nobody works."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Worker(FakeModel):
    """The oracle, with a price for everything it does."""

    clock: Clock

    def encode_trunk(self, images: Tensor) -> Tensor:
        self.clock.now += TRUNK_S * len(images)
        return super().encode_trunk(images)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        self.clock.now += TEXT_S * len(input_ids)
        return super().encode_text(input_ids, attention_mask)

    def pyramid(self, tokens: Tensor) -> Pyramid:
        self.clock.now += NECK_S * len(tokens)
        return super().pyramid(tokens)

    def decode_queries(self, slices: Slices, text: TextFeatures) -> Queries:
        self.clock.now += QUERIES_S * len(text.tokens)
        return super().decode_queries(slices, text)

    def decode_masks(self, slices: Slices, queries: Queries) -> Masks:
        self.clock.now += MASKS_S * len(queries.hidden)
        return super().decode_masks(slices, queries)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(meter, "clock", one)
    return one


def worker(clock: Clock, phrases: int = 2) -> LoadedModel:
    """Knows the rod; what else is asked is nowhere."""
    bands = {"rod": (0.75, 1.5)} | {f"nothing {number}": (2.0, 3.0) for number in range(1, phrases)}
    model = fake_model(bands)
    net = Worker(list(bands.values()))
    net.clock = clock
    return replace(model, model=net)  # type: ignore[arg-type]


def rod(slices: int = 24, *, is_2d: bool = False) -> Volume:
    """A bright square on every slice."""
    array = np.zeros((slices, 48, 48), np.float32)
    array[:, 16:32, 16:32] = 255.0
    return Volume(array, np.eye(4), "GREY", is_2d=is_2d)


def exact(**values: object) -> SegmentSettings:
    return make_settings(device="cpu", speed="exact", axis="2", **values)


def phrases_of(model: LoadedModel) -> list[str]:
    return list(model.tokenizer.phrases)  # type: ignore[attr-defined]


@pytest.mark.parametrize("slices", [1, 2, 24])
@pytest.mark.parametrize("phrases", [1, 2, 5])
@pytest.mark.parametrize("threshold", [None, 0.0])
def test_predicted_is_what_the_run_spends(clock: Clock, slices: int, phrases: int, threshold: float | None) -> None:
    model, settings = worker(clock, phrases), exact(presence_threshold=threshold)
    volume, asked = rod(slices), phrases_of(model)
    predicted = estimate(volume, asked, model, settings)
    before = clock.now
    segment(volume, asked, model, settings)
    assert clock.now - before == predicted.seconds == sum(predicted.stage_seconds.values())
    assert predicted.stage_seconds["features"] == slices * TRUNK_S
    assert predicted.open_share == pytest.approx(1 / phrases if threshold is None else 1.0)
    every = slices * (TRUNK_S + NECK_S + phrases * (QUERIES_S + MASKS_S)) + phrases * TEXT_S
    assert predicted.most_seconds == pytest.approx(every)


def test_it_tries_a_few_slices_and_no_more(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    model = worker(clock)
    net = model.model
    monkeypatch.setattr(features, "_CPU_TOKENS", 4 * net.grid_size**2)
    predicted = estimate(rod(200), phrases_of(model), model, exact())
    assert predicted.batch == 4
    assert net.trunk_slices == 1 + (1 + 4)  # type: ignore[attr-defined]
    assert predicted.stage_seconds["features"] == 200 * TRUNK_S


def test_what_is_asked_and_where_it_runs_is_told(clock: Clock) -> None:
    model = worker(clock)
    told = estimate(rod(), phrases_of(model), model, exact(slices=(4, 14)))
    assert (told.slices, told.concepts, told.device, told.dtype) == (10, 2, "cpu", "float32")
    assert list(told.stage_seconds) == ["preprocess", "features", "detection", "fusion", "findings"]
    assert told.device_peak_mb is None
    assert told.host_more_mb > 0
    assert told.problem == ""


def test_all_axes_are_looked_along(clock: Clock) -> None:
    model = worker(clock)
    volume = rod(24)
    told = estimate(volume, phrases_of(model), model, make_settings(device="cpu", speed="exact", axis="all"))
    assert told.slices == 24 + 48 + 48
    assert "vote" in told.stage_seconds
    before = clock.now
    segment(volume, phrases_of(model), model, make_settings(device="cpu", speed="exact", axis="all"))
    # Along the other axes a third of the slices shows the rod; on a few slices that is seen nearly so.
    assert told.seconds == pytest.approx(clock.now - before, rel=0.1)


def test_more_slices_and_more_concepts_take_more(clock: Clock) -> None:
    two, five = worker(clock, 2), worker(clock, 5)
    few = estimate(rod(12), phrases_of(two), two, exact())
    slices = estimate(rod(24), phrases_of(two), two, exact())
    concepts = estimate(rod(12), phrases_of(five), five, exact())
    assert few.seconds < slices.seconds
    assert few.seconds < concepts.seconds
    assert few.features_gb == slices.features_gb / 2 == concepts.features_gb


def test_a_budget_smaller_than_the_features_sends_the_others_to_disk(clock: Clock, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    model = worker(clock)
    whole = estimate(rod(), phrases_of(model), model, exact())
    part = estimate(rod(), phrases_of(model), model, exact(memory_budget_gb=6.5 / 24 * whole.features_gb))
    assert (whole.in_memory_share, whole.on_disk_gb) == (1.0, 0.0)
    assert part.in_memory_share == 6 / 24
    assert part.on_disk_gb == pytest.approx(0.75 * part.features_gb)
    assert part.problem == ""
    assert list(tmp_path.iterdir()) == []


def test_a_picture_is_one_slice(clock: Clock) -> None:
    model = worker(clock)
    told = estimate(rod(1, is_2d=True), phrases_of(model), model, make_settings(speed="exact", device="cpu"))
    assert told.slices == 1
    assert model.model.trunk_slices == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("concepts", "mode", "error"),
    [([], "detect", PromptError), (["rod", " "], "detect", PromptError), (["rod"], "track", SettingsError)],
)
def test_what_the_run_would_refuse_is_refused_before_anything_is_tried(clock, concepts, mode, error) -> None:
    model = worker(clock)
    with pytest.raises(error):
        estimate(rod(), concepts, model, exact(mode=mode))
    assert clock.now == 0.0


def test_a_mode_left_to_the_model_is_the_models(clock: Clock) -> None:
    model = worker(clock)
    tracks = replace(model, presence=model.presence.model_copy(update={"mode": "track"}))
    with pytest.raises(SettingsError, match="'track' needs a tracker"):
        estimate(rod(), phrases_of(model), tracks, exact())
    assert estimate(rod(), phrases_of(model), model, exact()).slices == 24


@pytest.mark.parametrize("fails", [False, True])
def test_no_features_are_kept_however_it_ends(clock: Clock, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    made: list[FeatureStore] = []

    def make(*args) -> FeatureStore:
        made.append(FeatureStore(*args))
        return made[-1]

    def full(*_: object) -> None:
        raise RunError("Not enough memory.")

    monkeypatch.setattr(features, "FeatureStore", make)
    model = worker(clock)
    if fails:
        monkeypatch.setattr(model.model, "decode_masks", full)
        with pytest.raises(RunError, match="Not enough memory"):
            estimate(rod(), phrases_of(model), model, exact())
    else:
        estimate(rod(), phrases_of(model), model, exact())
    assert len(made) >= 3
    assert sum(store.nbytes for store in made) == 0


def test_whoever_waits_no_more_ends_it_between_two_steps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled("The job was cancelled.")

    model = worker(clock)
    monkeypatch.setattr(model.model, "decode_masks", lambda *_: pytest.fail("it went on"))
    with pytest.raises(Cancelled):
        estimate(rod(), phrases_of(model), model, exact(), check)
    assert len(calls) == 3


def test_what_does_not_fit_is_said_with_its_sizes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    model = worker(clock)
    fits = estimate(rod(), phrases_of(model), model, exact())
    assert replace(fits, host_more_mb=2000.0, host_free_mb=2000.0).problem == ""
    assert "2.5 GB of 2.0 GB" in replace(fits, host_more_mb=2500.0, host_free_mb=2000.0).problem
    full = replace(fits, features_gb=40.0, in_memory_share=0.25, disk_free_gb=20.0)
    assert "more disk than is free: 30.0 GB of 20.0 GB" in full.problem
    monkeypatch.setattr(module, "available_memory_bytes", lambda: 1)
    assert estimate(rod(), phrases_of(model), model, exact()).problem.startswith("needs more memory than is free")


def test_the_middle_and_evenly_spread_slices_are_tried() -> None:
    assert spread(9, 1) == [4]
    assert spread(12, 3) == [2, 6, 10]
    assert spread(3, 3) == [0, 1, 2]


SIZE = Size(3, region_voxels=2 * MB, input_voxels=4 * MB, layers=1, with_map=False, is_tracked=False)
TRACKED = replace(SIZE, is_tracked=True)
USUAL = Rates(detection_s=4.0, fusion_s=0.5, findings_s=0.125, objects=2.0)
VIEW = Costs(
    10,
    TrunkCost(first_s=3.0, slice_s=2.0, batch=4, slice_bytes=10 * MB, kept=6, growth=50 * MB),
    PairsCost(1.0, USUAL, Rates(6.0, 0.75, 0.25, 6.0), open_share=0.5, mask_side=1000, growth=20 * MB),
    TrackerCost(),
    kept=8 * MB,
)
WITH_TRACKER = replace(VIEW, tracker=TrackerCost(row_s=0.5, row_bytes=MB, reach=15, growth=5 * MB))


def test_seconds_by_hand() -> None:
    expected = {"features": 3.0 + 9 * 2.0, "detection": 1.0 + 10 * 4.0, "fusion": 10 * 0.5, "findings": 1.25}
    assert stage_seconds([VIEW], [USUAL], SIZE) == expected
    assert stage_seconds([WITH_TRACKER], [USUAL], TRACKED) == expected | {"tracking": 10 * 2.0 * 0.5}


def test_views_along_several_axes_add_up_and_vote() -> None:
    other = replace(VIEW, slices=20, trunk=replace(VIEW.trunk, kept=16))
    told = stage_seconds([VIEW, other], [USUAL, VIEW.pairs.most], SIZE)
    assert told["features"] == 3.0 + 9 * 2.0 + 3.0 + 19 * 2.0
    assert told["detection"] == 1.0 + 10 * 4.0 + 1.0 + 20 * 6.0
    assert told["vote"] == 10 * 0.5 + 20 * 0.75
    assert (told["fusion"], told["findings"]) == (5.0, 1.25)  # on the grid of the first
    # Features go with their view, maps stay: 60 + 120 MB of maps, and the features of the second view.
    assert host_bytes([VIEW, other], SIZE, is_cpu=True) == (60 + 120 + 160 + 20) * MB


def test_memory_by_hand() -> None:
    # 60 MB of features, and of 30 pairs maps of 2 MB each; the trunk's own 50 MB are less than the maps.
    assert host_bytes([VIEW], SIZE, is_cpu=True) == (60 + 60 + 20) * MB
    large = replace(VIEW, trunk=replace(VIEW.trunk, growth=500 * MB))
    assert host_bytes([large], SIZE, is_cpu=True) == (60 + 500) * MB
    # With tracking a slice has two maps of each of 3 concepts, and two of each of 6 objects: 18 of 2 MB. Two walks of
    # each object remember 16 slices, where the network is.
    assert host_bytes([WITH_TRACKER], TRACKED, is_cpu=True) == (60 + 10 * 18 * 2 + 2 * 6 * 16 + 5) * MB
    assert host_bytes([WITH_TRACKER], TRACKED, is_cpu=False) == (60 + 10 * 18 * 2 + 20) * MB


def test_labels_by_hand() -> None:
    # uint16 on both grids, and 13 bytes a voxel of the region to count parts.
    assert label_bytes(SIZE) == (4 + 8 + 26) * MB
    assert label_bytes(replace(SIZE, layers=2)) == (2 * 12 + 26) * MB
    assert label_bytes(replace(SIZE, with_map=True)) == (12 + 4 + 24 + 26) * MB
    everything = replace(SIZE, region_voxels=1000 * MB)
    assert host_bytes([VIEW], everything, is_cpu=True) == 60 * MB + 8 * MB + label_bytes(everything)
    # A vote: six bytes a voxel of the input, and the voted confidences of each concept on the region.
    both = host_bytes([VIEW, VIEW], everything, is_cpu=True)
    assert both == 120 * MB + 8 * MB + label_bytes(everything) + 6 * 4 * MB + 3 * 2 * 1000 * MB


@pytest.mark.parametrize("speed", ["exact", "balanced"])
def test_tracking_is_tried_with_the_real_network(speed: str) -> None:
    torch.manual_seed(0)
    model = LoadedModel(
        model=small_architecture().build(),
        tokenizer=load_tokenizer(resource("tokenizer")),
        preprocess=PreprocessSpec(image_size=SIDE),
        presence=PresenceSpec(),
        name="small",
        weights_hash="",
        is_demonstration=True,
        notice="",
        card=Path("README.md"),
    )
    told: Estimate = estimate(rod(12), ["liver", "spleen"], model, make_settings(mode="track", speed=speed))
    assert "tracking" in told.stage_seconds
    assert told.most_seconds > sum(told.stage_seconds[stage] for stage in ("preprocess", "features"))
