"""The tracker in training: the walk of inference, losses by hand, and who learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import apply_rotary_pos_emb_2d

from MedicalSAM3Lib.errors import SettingsError
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.tracker_steps import Answer, Candidates
from Testing.lib.checkpoint_worlds import SIDE, small_model
from Training.collate import Batch, Clips, LabelState, Sample, collate
from Training.loss_config import LossConfig
from Training.network import make_tracker, with_tracker
from Training.optim import check_gradients
from Training.step import Phrases, TrainStep, freeze_idle
from Training.track_losses import TrackLossConfig, track_losses
from Training.tracking import asked_at, track_clips
from Training.warmstart import initialise

ONLY_TRACKER = LossConfig(detector=False)


@pytest.fixture
def model() -> MedicalSam3:
    made = small_model()
    initialise(made)
    tracker: Any = made.tracker_model
    with torch.no_grad():
        tracker.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(2.0)
    return made


def masks(clips: int = 2, length: int = 4) -> Tensor:
    truth = torch.zeros(clips, length, SIDE, SIDE, dtype=torch.bool)
    truth[:, :-1, 10:40, 8:30] = True
    return truth


def tokens(clips: int = 2, length: int = 4) -> Tensor:
    return torch.randn(clips, length, 16, 32, generator=torch.Generator().manual_seed(3))


def shown(truth: Tensor) -> np.ndarray:
    return truth.flatten(2).any(2).numpy()


def clips_of(truth: Tensor, given_at: tuple[int, ...] = (0,)) -> Clips:
    """One object a clip."""
    return Clips(truth, truth[:, list(given_at)], given_at, torch.arange(len(truth)), len(truth), shown(truth))


@torch.no_grad()
def test_objects_do_not_see_each_other(model: MedicalSam3) -> None:
    """Three objects in two clips: each is carried as if it were alone."""
    model.eval()
    truth = masks(3)
    truth[1, :, :20] = False
    together = track_clips(model, tokens(), replace(clips_of(truth), clip_of=torch.tensor([0, 0, 1]), count=2))
    assert len(together) == 3
    for row, clip in enumerate((0, 0, 1)):
        alone = track_clips(model, tokens()[clip : clip + 1], clips_of(truth[row : row + 1]))
        for one, other in zip(together, alone, strict=True):
            assert one.candidates is not None
            assert other.candidates is not None
            torch.testing.assert_close(one.candidates.logits[row], other.candidates.logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(one.here[row], other.here[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_second_seed_is_no_answer_and_changes_those_before_it(model: MedicalSam3) -> None:
    model.eval()
    one, two = clips_of(masks()), clips_of(masks(), (0, 2))
    assert asked_at(two, 4) == [1, 3]
    alone, helped = track_clips(model, tokens(), one), track_clips(model, tokens(), two)
    assert (len(alone), len(helped)) == (3, 2)
    assert not torch.equal(alone[0].logits, helped[0].logits)


def answer(logits: Tensor, iou: list[list[float]], here: list[float]) -> Answer:
    chosen = logits[:, 0]
    return Answer(
        chosen,
        torch.tensor(iou)[:, 0],
        torch.tensor(here),
        torch.zeros(len(here), 4),
        None,
        Candidates(logits, torch.tensor(iou)),
    )


def test_losses_by_hand() -> None:
    """Two masks on offer: one says yes everywhere, the other is right. Only the right one learns its outline."""
    truth = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    truth[0, 0, :4] = True
    right = torch.where(truth[0, 0], 20.0, -20.0)
    logits = torch.stack([torch.full((8, 8), 20.0), right])[None].requires_grad_()
    terms = track_losses(
        [answer(logits, [[0.9, 0.4]], [3.0])], truth, shown(truth), TrackLossConfig(iou=2.0, presence=5.0)
    )
    assert float(terms["track_focal"].detach()) == pytest.approx(0.0, abs=1e-5)
    assert float(terms["track_dice"].detach()) == pytest.approx(0.0, abs=1e-5)
    # Half of the first is right, all of the second: errors 0.4 and 0.6.
    assert float(terms["track_iou"].detach()) == pytest.approx(2.0 * (0.4 + 0.6) / 2)
    wanted = 5.0 * torch.nn.functional.softplus(torch.tensor(-3.0))
    assert float(terms["track_presence"].detach()) == pytest.approx(float(wanted))
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert float(logits.grad[0, 0].abs().sum()) == 0.0


def test_a_slice_without_the_object_teaches_presence_alone() -> None:
    truth = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    logits = torch.zeros(1, 3, 8, 8, requires_grad=True)
    here = torch.tensor([1.0], requires_grad=True)
    given = replace(answer(logits, [[0.5] * 3], [1.0]), here=here)
    terms = track_losses([given], truth, shown(truth), TrackLossConfig())
    assert [float(terms[name].detach()) for name in ("track_focal", "track_dice", "track_iou")] == [0.0, 0.0, 0.0]
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert logits.grad is not None
    assert here.grad is not None
    assert float(logits.grad.abs().sum()) == 0.0
    assert float(here.grad) == pytest.approx(float(torch.sigmoid(torch.tensor(1.0))))


def test_terms_are_means_over_slices_not_over_clips() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    truth = torch.rand(2, 1, 8, 8, generator=generator) > 0.5
    both = track_losses([answer(logits, [[0.3] * 3] * 2, [1.0, -1.0])], truth, shown(truth), TrackLossConfig())
    each = [
        track_losses(
            [answer(logits[row : row + 1], [[0.3] * 3], [value])],
            truth[row : row + 1],
            shown(truth[row : row + 1]),
            TrackLossConfig(),
        )
        for row, value in enumerate((1.0, -1.0))
    ]
    for name, value in both.items():
        assert float(value) == pytest.approx(float(each[0][name] + each[1][name]) / 2, rel=1e-5)


def test_a_seed_is_no_answer() -> None:
    seed = replace(answer(torch.zeros(1, 3, 8, 8), [[0.5] * 3], [1.0]), candidates=None)
    nothing = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="got a seed"):
        track_losses([seed], nothing, shown(nothing), TrackLossConfig())


def batch_of_clips() -> Batch:
    """A single slice and two clips of three."""
    truth = masks(2, 3)
    samples = [Sample(torch.randn(3, SIDE, SIDE), ("liver",), (LabelState.PRESENT,), (truth[0, :1],))]
    for clip in truth:
        for mask in clip:
            found = mask[None] if bool(mask.any()) else mask.new_zeros(0, SIDE, SIDE)
            state = LabelState.PRESENT if len(found) else LabelState.ABSENT
            samples.append(Sample(torch.randn(3, SIDE, SIDE), ("liver",), (state,), (found,)))
    return replace(collate(samples), clips=clips_of(truth))


def step_of(model: MedicalSam3, losses: LossConfig) -> dict[str, Tensor]:
    phrases = Phrases(
        torch.tensor([[49406, 320, 49407]]), torch.ones(1, 3, dtype=torch.int64), torch.zeros(7, dtype=torch.int64)
    )
    return TrainStep(model, losses, autocast=False)(batch_of_clips(), phrases)


def test_detector_and_tracker_learn_together(model: MedicalSam3) -> None:
    freeze_idle(model, LossConfig(mask_dice=1.0), with_clips=True)
    terms = step_of(model.train(), LossConfig(mask_dice=1.0))
    assert {"presence", "semantic_dice", "track_focal", "track_presence"} <= set(terms)
    torch.stack(list(terms.values())).sum().backward()
    check_gradients(model)


def test_the_tracker_alone_leaves_the_detector_as_it_is(model: MedicalSam3) -> None:
    freeze_idle(model, ONLY_TRACKER, with_clips=True)
    terms = step_of(model.train(), ONLY_TRACKER)
    assert set(terms) == {"track_focal", "track_dice", "track_iou", "track_presence"}
    torch.stack(list(terms.values())).sum().backward()
    check_gradients(model)
    assert all(parameter.grad is None for parameter in model.detector_model.parameters())


def test_without_clips_the_tracker_learns_nothing(model: MedicalSam3) -> None:
    freeze_idle(model, LossConfig())
    assert not any(parameter.requires_grad for parameter in model.tracker_model.parameters())  # type: ignore[union-attr]


def test_settings_that_teach_nobody_are_refused(model: MedicalSam3) -> None:
    with pytest.raises(SettingsError, match=r"losses\.detector: expected clips"):
        freeze_idle(model, ONLY_TRACKER)
    with pytest.raises(SettingsError, match=r"expected a model with a tracker, got none; set model\.tracker"):
        freeze_idle(MedicalSam3(model.config), LossConfig(), with_clips=True)


def test_a_new_tracker_fits_the_detector_and_leaves_it_alone() -> None:
    detector = MedicalSam3(small_model().config)
    whole = with_tracker(detector, {"memory_attention_num_layers": 1, "mask_decoder_config": {"mlp_dim": 32}})
    for name, value in detector.detector_model.state_dict().items():
        assert torch.equal(whole.detector_model.state_dict()[name], value), name
    assert whole.tracker_config is not None
    assert whole.tracker_config.memory_attention_rope_feat_sizes == [4, 4]
    assert whole.tracker_config.mask_decoder_config.mlp_dim == 32
    neck = detector.detector_model.vision_encoder.neck.state_dict()
    copied = whole.tracker_neck.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(copied[name], value) for name, value in neck.items() if "proj2" not in name)
    answers = track_clips(whole, tokens(), clips_of(masks()))
    assert answers[0].logits.shape == (2, 16, 16)


def test_a_tracker_is_replaced_only_where_asked_and_its_keys_are_known(model: MedicalSam3) -> None:
    with pytest.raises(SettingsError, match="expected a model without a tracker"):
        with_tracker(model, {})
    anew = with_tracker(model, {"memory_attention_num_layers": 1}, replace=True)
    assert anew.tracker_config is not None
    assert anew.tracker_config.memory_attention_num_layers == 1
    for name, value in model.detector_model.state_dict().items():
        assert torch.equal(anew.detector_model.state_dict()[name], value), name
    with pytest.raises(SettingsError, match="expected keys of Sam3TrackerVideoConfig, got memmory"):
        make_tracker(model.config, {"memmory": 1})


@torch.no_grad()
def test_a_new_tracker_hears_the_mask_and_looks_where_it_was() -> None:
    """The neck speaks in numbers of about 1, however large the detector's are; attention to memory begins in place."""
    detector = MedicalSam3(small_model().config)
    for layer in detector.detector_model.vision_encoder.neck.fpn_layers:
        layer.proj2.weight.mul_(50.0)
    whole = with_tracker(detector, {"memory_attention_num_layers": 1}).eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    deviations = [float(level.std()) for level in whole.tracker_pyramid(whole.encode_trunk(images)).levels]
    assert all(0.2 < deviation < 5.0 for deviation in deviations), deviations
    tracker: Any = whole.tracker_model
    rotary, place = tracker.memory_attention.rotary_emb, tracker.memory_attention.position_ids
    cos, sin = rotary(torch.zeros(1, 1), place)
    attention = tracker.memory_attention.layers[0].cross_attn_image
    query, key = (
        bias.view(1, 1, 1, -1).expand(1, 1, len(place), -1) for bias in (attention.q_proj.bias, attention.k_proj.bias)
    )
    turned, held = apply_rotary_pos_emb_2d(query, key, cos, sin)
    weights = (turned @ held.transpose(-1, -2) * attention.scaling).softmax(-1)[0, 0]
    assert torch.equal(weights.argmax(-1), torch.arange(len(place)))
    assert float(weights.diagonal().min()) > 0.5
