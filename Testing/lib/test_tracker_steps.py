"""The tracker's steps against ``transformers``' own session, and rows of a batch against each by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.sam3_tracker_video.modeling_sam3_tracker_video import Sam3TrackerVideoInferenceSession

from MedicalSAM3Lib.memory import Direction, recall
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.tracker_steps import (
    GONE,
    Answer,
    Recalled,
    SliceImage,
    follow,
    limits_of,
    look,
    memorise,
    take_mask,
)
from Testing.lib.checkpoint_worlds import SIDE, small_architecture

SLICES = 12


@pytest.fixture(scope="module")
def model() -> MedicalSam3:
    """Weights large enough that memory, time and pointers change the answer, and an object that is mostly there."""
    torch.manual_seed(1)
    model = small_architecture().build()
    tracker: Any = model.tracker_model
    with torch.no_grad():
        for parameter in tracker.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 10
            parameter.copy_(torch.randn_like(parameter) * (2.0 / fan_in**0.5))
        for layer in tracker.memory_attention.layers:
            for projection in (layer.cross_attn_image.k_proj, layer.cross_attn_image.v_proj):
                projection.weight.mul_(6.0)
        tracker.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(30.0)
    return model.eval()


@pytest.fixture(scope="module")
def tokens(model: MedicalSam3) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(SLICES, model.grid_size**2, 32, generator=generator)


def disc(radius: float = 14.0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((y - 30) ** 2 + (x - 20) ** 2 < radius**2).float()


def of_transformers(model: MedicalSam3, image: SliceImage, seeds: dict[int, Tensor], walk: list[int]) -> dict[int, Any]:
    """Mask and object logits on the slices of a walk; seeds are given first."""
    tracker: Any = model.tracker_model
    session = Sam3TrackerVideoInferenceSession(dtype=torch.float32, max_vision_features_cache_size=SLICES)
    session.processed_frames = dict.fromkeys(range(SLICES))
    for n in range(SLICES):
        levels = [level[n : n + 1] for level in (image.fine, image.middle, image.coarse)]
        flat = [level.flatten(2).permute(2, 0, 1) for level in levels]
        position = image.position[n : n + 1].flatten(2).permute(2, 0, 1)
        session.cache.cache_vision_features(n, {"vision_feats": flat, "vision_pos_embeds": [position]})
    index = session.obj_id_to_idx(7)
    for n, mask in seeds.items():
        session.add_mask_inputs(index, n, mask[None, None])
        session.obj_with_new_inputs.append(7)
        tracker(session, n)
    reverse = walk[-1] < walk[0]
    return {n: tracker(session, n, reverse=reverse) for n in walk}


def by_steps(
    model: MedicalSam3, image: SliceImage, seeds: dict[int, Tensor], walk: list[int], direction: Direction
) -> dict[int, Answer]:
    """The same walk by our steps. transformers keeps its memories in bfloat16."""
    limits = limits_of(model)
    memories: dict[int, Tensor] = {}
    pointers: dict[int, Tensor] = {}
    answers: dict[int, Answer] = {}

    def keep(n: int, answer: Answer) -> None:
        memories[n] = memorise(model, image.take(torch.tensor([n])), answer).bfloat16().float()
        pointers[n] = answer.pointers
        answers[n] = answer

    for n, mask in seeds.items():
        keep(n, take_mask(model, image.take(torch.tensor([n])), mask[None]))
    for n in walk:
        chosen = recall(n, direction, seeds, set(answers) - set(seeds), limits)
        keep(n, follow(model, image.take(torch.tensor([n])), recalled(chosen, memories, pointers)))
    return answers


def recalled(chosen: Any, memories: dict[int, Tensor], pointers: dict[int, Tensor]) -> Recalled:
    return Recalled(
        memories=torch.stack([memories[n] for n, _ in chosen.memories], 1),
        steps=torch.tensor([[back for _, back in chosen.memories]]),
        pointers=torch.stack([pointers[n] for n, _ in chosen.pointers], 1),
        pointer_steps=torch.tensor([[back for _, back in chosen.pointers]]),
        reach=min(SLICES, 16),
    )


@pytest.mark.parametrize(
    ("seeds", "walk"),
    [
        ([2], list(range(3, SLICES))),
        ([9], list(range(8, -1, -1))),
        ([1, 8], [2, 3, 4, 5, 6, 7]),
    ],
)
@torch.inference_mode()
def test_a_walk_equals_that_of_transformers(
    model: MedicalSam3, tokens: Tensor, seeds: list[int], walk: list[int]
) -> None:
    image = look(model, tokens)
    masks = {n: disc(10.0 + n) for n in seeds}
    theirs = of_transformers(model, image, masks, walk)
    ours = by_steps(model, image, masks, walk, 1 if walk[-1] > walk[0] else -1)
    for n in walk:
        torch.testing.assert_close(ours[n].logits, theirs[n].pred_masks[:, 0], atol=1e-5, rtol=0)
        torch.testing.assert_close(ours[n].here, theirs[n].object_score_logits[0], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_what_is_remembered_changes_the_answer(model: MedicalSam3, tokens: Tensor) -> None:
    """Otherwise the comparison above would pass with any bank."""
    image = look(model, tokens)
    one = by_steps(model, image, {2: disc(14.0)}, [3, 4, 5], 1)[5]
    other = by_steps(model, image, {2: disc(4.0)}, [3, 4, 5], 1)[5]
    late = by_steps(model, image, {2: disc(14.0)}, [5], 1)[5]
    assert float((one.logits - other.logits).abs().max()) > 2e-3
    assert float((one.logits - late.logits).abs().max()) > 2e-3


@torch.inference_mode()
def test_objects_in_a_batch_are_as_each_by_itself(model: MedicalSam3, tokens: Tensor) -> None:
    image = look(model, tokens)
    rows = image.take(torch.tensor([2, 5]))
    masks = torch.stack([disc(14.0), disc(6.0)])
    seeds = take_mask(model, rows, masks)
    memory = memorise(model, rows, seeds)
    both = follow(model, image.take(torch.tensor([3, 4])), remembered(memory, seeds.pointers))
    for row, (n, following) in enumerate([(2, 3), (5, 4)]):
        alone = take_mask(model, image.take(torch.tensor([n])), masks[row : row + 1])
        torch.testing.assert_close(alone.pointers[0], seeds.pointers[row], atol=1e-5, rtol=1e-5)
        bank = remembered(memorise(model, image.take(torch.tensor([n])), alone), alone.pointers)
        single = follow(model, image.take(torch.tensor([following])), bank)
        torch.testing.assert_close(single.logits[0], both.logits[row], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(single.iou[0], both.iou[row], atol=1e-5, rtol=1e-5)


def remembered(memory: Tensor, pointers: Tensor) -> Recalled:
    ones = torch.ones(len(memory), 1, dtype=torch.int64)
    return Recalled(memory[:, None], 0 * ones, pointers[:, None], ones, reach=SLICES)


@torch.inference_mode()
def test_an_empty_seed_says_that_nothing_is_here(model: MedicalSam3, tokens: Tensor) -> None:
    image = look(model, tokens[:2])
    answer = take_mask(model, image, torch.stack([disc(), torch.zeros(SIDE, SIDE)]))
    assert (answer.here > 0).tolist() == [True, False]
    tracker: Any = model.tracker_model
    torch.testing.assert_close(answer.pointers[1], tracker.no_object_pointer[0])
    assert float(answer.logits[1].max()) == -10.0
    memory = memorise(model, image, answer)
    assert memory.shape == (2, model.grid_size**2, 64)


@torch.inference_mode()
def test_an_object_that_is_gone_has_no_mask(model: MedicalSam3, tokens: Tensor) -> None:
    tracker: Any = model.tracker_model
    bias = tracker.mask_decoder.pred_obj_score_head.proj_out.bias
    kept = bias.clone()
    bias.fill_(-100.0)
    try:
        image = look(model, tokens[:2])
        seed = take_mask(model, image.take(torch.tensor([0])), disc()[None])
        bank = remembered(memorise(model, image.take(torch.tensor([0])), seed), seed.pointers)
        answer = follow(model, image.take(torch.tensor([1])), bank)
    finally:
        bias.copy_(kept)
    assert bool((answer.logits == GONE).all())
    assert float(answer.here) < 0
    torch.testing.assert_close(answer.pointers[0], tracker.no_object_pointer[0])


def test_every_step_has_a_gradient(model: MedicalSam3, tokens: Tensor) -> None:
    image = look(model, tokens[:2])
    seed = take_mask(model, image.take(torch.tensor([0])), disc()[None])
    bank = remembered(memorise(model, image.take(torch.tensor([0])), seed), seed.pointers)
    answer = follow(model, image.take(torch.tensor([1])), bank)
    assert answer.candidates is not None
    (answer.candidates.logits.mean() + answer.iou.sum() + answer.here.sum()).backward()
    tracker: Any = model.tracker_model
    for part in ("memory_encoder", "memory_attention", "mask_decoder", "mask_downsample", "object_pointer_proj"):
        assert any(float(p.grad.abs().sum()) > 0 for p in getattr(tracker, part).parameters() if p.grad is not None), (
            part
        )
    model.zero_grad(set_to_none=True)


def test_a_detector_alone_cannot_track(tokens: Tensor) -> None:
    alone = MedicalSam3(small_architecture().detector)
    with pytest.raises(ValueError, match="expected a model with a tracker"):
        look(alone, tokens)
