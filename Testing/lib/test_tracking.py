"""From a volume to findings with a tracker: gaps of the detector are filled, modes say what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from MedicalSAM3Lib import views
from MedicalSAM3Lib.architecture import Architecture
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.errors import Cancelled, SettingsError
from MedicalSAM3Lib.mask_file import MaskFile
from MedicalSAM3Lib.memory import MemoryLimits
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.overlap import dice
from MedicalSAM3Lib.pipeline import segment, segment_with_report
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import PresenceSpec
from MedicalSAM3Lib.resources import resource
from MedicalSAM3Lib.structures import Progress, Volume
from MedicalSAM3Lib.text import load_tokenizer
from MedicalSAM3Lib.tracker_steps import GONE, Answer, Recalled, SliceImage
from Testing.lib.checkpoint_worlds import SIDE, small_architecture
from Testing.lib.fakes import fake_model

BRIGHT = (0.75, 1.5)
DIM = 0.6
"""Of the scale 0..1: too dark for the detector, bright enough for the tracker."""


class FollowBright:
    """Stands in for ``BoundTracker``: takes everything above half of dim that touches the last mask."""

    limits = MemoryLimits()

    def __init__(self, net: Any, features: Any, runtime: Any) -> None:
        self._net, self._features = net, features

    def look(self, slices: Sequence[int]) -> SliceImage:
        picture = self._net.pyramid(self._features.take(slices)).levels[0]
        return SliceImage(picture, picture, picture, picture)

    def take_mask(self, image: SliceImage, logits_bss: Tensor) -> Answer:
        return self._answer(logits_bss > 0)

    def follow(self, image: SliceImage, recalled: Recalled) -> Answer:
        steps = torch.where(recalled.steps == 0, 99, recalled.steps)
        latest = recalled.memories[torch.arange(len(steps)), steps.argmin(1), :, 0]
        before = latest.reshape(-1, 1, *image.coarse.shape[-2:])
        return self._answer((functional.max_pool2d(before, 5, 1, 2)[:, 0] > 0) & (image.coarse[:, 0] > DIM / 2))

    def memorise(self, image: SliceImage, answer: Answer) -> Tensor:
        return (answer.logits > 0).float().flatten(1)[..., None]

    @staticmethod
    def _answer(masks: Tensor) -> Answer:
        here = masks.flatten(1).any(1)
        logits = torch.where(masks, 5.0, torch.where(here[:, None, None], -5.0, GONE))
        return Answer(logits, torch.ones(len(masks)), torch.where(here, 4.0, -4.0), torch.zeros(len(masks), 2))


@pytest.fixture
def bright_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BoundTracker", FollowBright)


with_bright_tracker = pytest.mark.usefixtures("bright_tracker")


def oracle() -> LoadedModel:
    model = fake_model({"rod": BRIGHT})
    model.model.has_tracker = True  # type: ignore[misc]
    return model


def rod(dim: Sequence[int] = (), n_slices: int = 12) -> tuple[Volume, np.ndarray]:
    """A rod through slices 2 to 9, dim on some of them."""
    grey = np.zeros((n_slices, 48, 48), np.float32)
    grey[2:10, 16:32, 12:28] = 255.0
    truth = grey > 0
    grey[list(dim)] *= DIM
    return Volume(grey, np.eye(4), modality="GREY"), truth


@with_bright_tracker
@pytest.mark.parametrize(("mode", "filled"), [("detect", False), ("track", True), ("fuse", True)])
def test_slices_that_the_detector_misses_are_filled_by_the_tracker(mode: str, filled: bool) -> None:
    volume, truth = rod(dim=(5, 6))
    result = segment(volume, ["rod"], oracle(), make_settings(speed="exact", mode=mode))
    (finding,) = result.findings
    assert finding.state == "found"
    wanted = truth.copy()
    wanted[5:7] &= filled
    np.testing.assert_array_equal(result.mask_kji(finding), wanted)
    assert finding.slice_range == (2, 9)


@with_bright_tracker
def test_where_detector_and_tracker_differ_a_person_should_look() -> None:
    volume, _ = rod(dim=(5, 6))
    finding = segment(volume, ["rod"], oracle(), make_settings(speed="exact", mode="fuse")).findings[0]
    assert finding.review_slices == (5, 6)
    clear = segment(rod()[0], ["rod"], oracle(), make_settings(speed="exact", mode="fuse")).findings[0]
    assert clear.review_slices == ()


@with_bright_tracker
def test_what_is_absent_is_not_tracked() -> None:
    volume, _ = rod(dim=range(2, 10))
    finding = segment(volume, ["rod"], oracle(), make_settings(speed="exact", mode="fuse")).findings[0]
    assert finding.state == "not_found"


@with_bright_tracker
@pytest.mark.parametrize("mode", ["track", "fuse"])
def test_a_picture_is_its_own_answer(mode: str) -> None:
    volume, truth = rod(n_slices=12)
    picture = replace(volume, array=volume.array[4:5], is_2d=True)
    result = segment(picture, ["rod"], oracle(), make_settings(speed="exact", mode=mode))
    np.testing.assert_array_equal(result.mask_kji(result.findings[0]), truth[4:5])


@with_bright_tracker
def test_tracking_is_a_stage_of_the_report_only_where_it_ran() -> None:
    volume, _ = rod()
    _, fused = segment_with_report(volume, ["rod"], oracle(), make_settings(speed="exact", mode="fuse"))
    assert list(fused.timings_s) == ["preprocess", "features", "detection", "tracking", "fusion", "findings"]
    _, detected = segment_with_report(volume, ["rod"], oracle(), make_settings(speed="exact"))
    assert "tracking" not in detected.timings_s


@with_bright_tracker
def test_three_views_track_and_vote_and_count_their_tracking_in_slices() -> None:
    volume, truth = rod(dim=(5, 6))
    seen: list[Progress] = []
    settings = make_settings(speed="exact", mode="track", axis="all")
    result = segment(volume, ["rod"], oracle(), settings, seen.append)
    assert dice(result.mask_kji(result.findings[0]), truth) > 0.98
    done = [progress.done for progress in seen if progress.stage == "tracking"]
    assert done == sorted(done)
    assert (done[-1], {progress.total for progress in seen if progress.stage == "tracking"}) == (108, {108})


@with_bright_tracker
def test_cancel_during_tracking() -> None:
    seen: list[str] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.stage)
        if progress.stage == "tracking":
            raise Cancelled

    with pytest.raises(Cancelled):
        segment(rod()[0], ["rod"], oracle(), make_settings(speed="exact", mode="fuse"), stop)
    assert seen.count("tracking") == 1


def test_a_detector_alone_is_refused_before_anything_is_computed() -> None:
    model = fake_model({"rod": BRIGHT})
    with pytest.raises(SettingsError, match="mode: 'fuse' needs a tracker, 'oracle' has none; use 'detect'"):
        segment(rod()[0], ["rod"], model, make_settings(mode="fuse"))
    assert model.model.trunk_slices == 0


def small_loaded(architecture: Architecture) -> LoadedModel:
    """Random weights whose presence is always high enough."""
    torch.manual_seed(0)
    open_gate = PresenceSpec.model_validate({"default": {"threshold": 0.0}, "volume": {"threshold": 0.0}})
    tokenizer = load_tokenizer(resource("tokenizer"))
    spec = PreprocessSpec(image_size=SIDE)
    return LoadedModel(architecture.build(), tokenizer, spec, open_gate, "small", "", True, "", Path("README.md"))


@pytest.mark.parametrize("speed", ["exact", "balanced"])
@pytest.mark.parametrize("mode", ["track", "fuse"])
def test_the_real_network_runs_through_all_stages(mode: str, speed: str) -> None:
    """What random weights find is arbitrary; that every concept ends, on the input's grid, is not."""
    model = small_loaded(small_architecture())
    result = segment(rod()[0], ["liver", "spleen"], model, make_settings(mode=mode, speed=speed))
    assert [finding.phrase for finding in result.findings] == ["liver", "spleen"]
    assert all(finding.state in ("found", "not_found") for finding in result.findings)
    assert result.layers[0].shape == (12, 48, 48)


@with_bright_tracker
@pytest.mark.parametrize("mode", ["detect", "track", "fuse"])
def test_masks_beyond_the_memory_budget_lie_in_a_file_and_change_nothing(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, _ = rod(dim=(5, 6))
    settings = make_settings(speed="exact", mode=mode)
    whole = segment(volume, ["rod"], oracle(), settings)
    opened: list[int] = []
    add_chunk = MaskFile._add_chunk
    monkeypatch.setattr(MaskFile, "_add_chunk", lambda masks: (opened.append(1), add_chunk(masks))[1])
    monkeypatch.setattr(views, "MASKS_OF_BUDGET", 0.0)
    divided = segment(volume, ["rod"], oracle(), settings)
    assert opened
    assert divided.findings == whole.findings
    for one, other in zip(divided.layers, whole.layers, strict=True):
        np.testing.assert_array_equal(one, other)
