"""The detector over (slice, concept) pairs: with an oracle, and with a small SAM3 of random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from transformers import Sam3Config

from MedicalSAM3Lib import detector as module
from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import Detections, Question, detect, encode_text
from MedicalSAM3Lib.features import encode
from MedicalSAM3Lib.model import MedicalSam3
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import SliceCalibration
from MedicalSAM3Lib.runtime import Runtime
from MedicalSAM3Lib.stack import prepare
from Testing.lib.fakes import fake_model
from Testing.lib.phantoms import spheres

EXACT = Runtime(torch.device("cpu"), torch.float32)
ALWAYS_OPEN = SliceCalibration(threshold=0.0)


@cache
def small_sam3() -> MedicalSam3:
    """SAM3 with all its parts at toy size; random weights, large enough that concepts and slices differ."""
    part = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_layers": 2}
    backbone = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 112, "patch_size": 14, "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 112,
    }  # fmt: skip
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    config = Sam3Config(
        vision_config={"backbone_config": {"model_type": "sam3_vit_model", **backbone}, "fpn_hidden_size": 16,
                       "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]},
        text_config={"max_position_embeddings": 32, "vocab_size": 60, **text},
        geometry_encoder_config=part,
        detr_encoder_config=part,
        detr_decoder_config={**part, "num_queries": 6},
        mask_decoder_config={"hidden_size": 16, "num_attention_heads": 2},
    )  # fmt: skip
    torch.manual_seed(0)
    model = MedicalSam3(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def run(
    net: MedicalSam3, ids: torch.Tensor, calibration: SliceCalibration = ALWAYS_OPEN, rule: str = "union"
) -> Detections:
    volume, _ = spheres({255.0: (0.3, 0.5, 0.5), 127.0: (0.75, 0.5, 0.5)}, shape_kji=(7, 20, 20))
    stack = prepare(volume, PreprocessSpec(image_size=net.image_size), make_settings())
    features = encode(stack, net, EXACT, lambda progress: None)
    question = Question(encode_text(net, ids, torch.ones_like(ids), EXACT), calibration, rule)
    return detect(features, net, question, EXACT, lambda progress: None)


IDS = torch.arange(3 * 32).reshape(3, 32) % 60


@pytest.mark.parametrize("at_once", [1, 2, 4, 21])
def test_a_real_network_answers_pair_by_pair_as_in_batches(at_once, monkeypatch):
    whole = run(small_sam3(), IDS)
    monkeypatch.setattr(module, "pairs_at_once", lambda *args: at_once)
    split = run(small_sam3(), IDS)
    np.testing.assert_allclose(split.presence, whole.presence, atol=1e-5)
    assert split.maps.keys() == whole.maps.keys()
    assert len(whole.maps) == 21
    for key, fused in whole.maps.items():
        torch.testing.assert_close(split.maps[key].logits, fused.logits, atol=2e-2, rtol=2e-3)
    assert whole.presence.std() > 1e-4


@pytest.mark.parametrize("rule", ["union", "top1"])
def test_concepts_do_not_see_each_other(rule):
    together = run(small_sam3(), IDS, rule=rule)
    alone = run(small_sam3(), IDS[1:2], rule=rule)
    np.testing.assert_array_equal(together.presence[1:2], alone.presence)
    for n in range(7):
        assert torch.equal(together.maps[1, n].logits, alone.maps[0, n].logits)
        assert together.maps[1, n].weight == alone.maps[0, n].weight


def test_phrases_are_encoded_each_by_itself():
    together, reverse = (
        encode_text(small_sam3(), ids, torch.ones_like(ids), EXACT).tokens for ids in (IDS, IDS.flip(0))
    )
    assert torch.equal(together, reverse.flip(0))
    for row, ids in enumerate(IDS[:, None]):
        assert torch.equal(encode_text(small_sam3(), ids, torch.ones_like(ids), EXACT).tokens[0], together[row])
    assert not torch.equal(together[0], together[1])


def test_the_gate_is_the_calibrated_threshold():
    open_presence = run(small_sam3(), IDS).presence
    threshold = float(np.median(open_presence))
    gated = run(small_sam3(), IDS, SliceCalibration(threshold=threshold))
    assert set(gated.maps) == {(p, n) for p, n in np.argwhere(open_presence >= threshold).tolist()}


def test_nothing_open_asks_for_no_mask():
    net = fake_model({"ball": (0.5, 1.5)}).model
    detections = run(net, torch.zeros(2, 1, dtype=torch.int64), SliceCalibration())
    assert not detections.maps
    assert net.mask_pairs == 0
    assert np.isnan(detections.agreement).all()


@pytest.mark.parametrize(("bias", "counts"), [(0.0, True), (-6.0, False)])
def test_an_instance_counts_by_its_probability_times_presence(bias, counts):
    net = fake_model({"ball": (0.75, 1.5)}).model
    detections = run(net, torch.ones(1, 1, dtype=torch.int64), SliceCalibration(bias=bias, threshold=0.4))
    agreement = [detections.agreement[key] for key in detections.maps]
    assert agreement
    assert np.isfinite(agreement).all() == counts


def testpairs_at_once_follow_the_memory_and_in_float32_each_goes_alone(monkeypatch):
    net, half = fake_model({"ball": (0.5, 1.5)}).model, Runtime(EXACT.device, torch.bfloat16)
    text = encode_text(net, torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1), EXACT)
    each = 6 * 4 * 21 * net.grid_size**2
    for free, expected in ((0, 1), (2 * each * 5, 5), (10**12, 32)):
        monkeypatch.setattr(Runtime, "free_bytes", lambda self, free=free: free)
        assert module.pairs_at_once(net, text, half) == expected
        assert module.pairs_at_once(net, text, EXACT) == 1


def test_a_pair_with_a_mask_that_is_not_a_number_is_marked(monkeypatch):
    net = fake_model({"ball": (0.5, 1.5)}).model
    head = net.decode_masks
    monkeypatch.setattr(
        net, "decode_masks", lambda *args: replace(head(*args), semantic=torch.full((1, 96, 96), torch.nan))
    )
    monkeypatch.setattr(module, "pairs_at_once", lambda *args: 1)
    detections = run(net, torch.ones(1, 1, dtype=torch.int64), SliceCalibration())
    assert np.isnan(detections.presence).any()
    assert not detections.maps


@pytest.mark.parametrize("axis", ["0", "2"])
@pytest.mark.parametrize("speed", ["exact", "balanced"])
def test_the_pipeline_runs_a_real_network_from_end_to_end(axis, speed):
    volume, _ = spheres({255.0: (0.4, 0.5, 0.5)}, shape_kji=(9, 20, 16))
    oracle = fake_model({}, size=112)
    loaded = replace(oracle, model=small_sam3(), presence=oracle.presence, tokenizer=Tokens())
    settings = make_settings(device="cpu", speed=speed, axis=axis, presence_threshold=0.0, overlap="keep")
    result = segment(volume, ["liver", "spleen"], loaded, settings)
    for finding in result.findings:
        assert finding.voxels == result.mask_kji(finding).sum()
        assert (finding.state == "found") == (finding.voxels > 0)
        assert 0 <= finding.presence <= 1


class Tokens:
    """Ids of the right shape, other ones for each phrase."""

    def encode(self, phrases: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.stack([(torch.arange(32) * (len(phrase) + 1)) % 60 for phrase in phrases])
        return ids, torch.ones_like(ids)
