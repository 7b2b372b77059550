"""The map between the names of transformers and Meta's, at full size, without a weight in memory."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from MedicalSAM3Lib.architecture import full_size
from MedicalSAM3Lib.errors import WeightsError
from MedicalSAM3Lib.key_map import UNUSED_BY_US, is_unused, meta_source
from MedicalSAM3Lib.meta_layout import from_meta, lost_keys, rotary_tables, to_meta
from Testing.lib.checkpoint_worlds import frozen_keys, meta_tensors, only_metas, small_architecture, small_model


@pytest.fixture(scope="module")
def full_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return full_size().build().state_dict()


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """Meta's video model by name and shape."""
    return {key: torch.empty(shape, device="meta") for key, shape in frozen_keys()["video"].items()}


def test_full_size_has_the_keys_of_the_video_model(full_state: dict[str, torch.Tensor]) -> None:
    assert Counter(key.split(".")[0] for key in full_state) == {
        "detector_model": 1468,
        "tracker_model": 307,
        "tracker_neck": 22,
    }
    with torch.device("meta"):
        from transformers import Sam3Config, Sam3TrackerVideoConfig, Sam3VideoConfig, Sam3VideoModel

        parts = {"detector_config": Sam3Config().to_dict(), "tracker_config": Sam3TrackerVideoConfig().to_dict()}
        theirs = Sam3VideoModel(Sam3VideoConfig(**parts)).state_dict()
    assert {key: value.shape for key, value in theirs.items()} == {k: v.shape for k, v in full_state.items()}


def test_full_size_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        model = full_size().build()
    assert sum(parameter.numel() for parameter in model.parameters()) == 859_921_848


def test_every_published_tensor_is_read_or_listed_as_unused(full_state: dict[str, torch.Tensor]) -> None:
    read = {key for ours in full_state for key in meta_source(ours).keys}
    published = set(frozen_keys()["video"])
    assert len(published) == 1465
    assert read <= published
    assert {key for key in published - read if not is_unused(key)} == set()
    assert Counter(re.sub(r"\d+", "#", key).split(".")[-2] for key in published - read) == {
        "attn": 32,
        "points_direct_project": 2,
        "points_pool_project": 2,
        "points_pos_enc_project": 2,
    }


def test_published_shapes_become_ours(full_state: dict[str, torch.Tensor], published: dict[str, torch.Tensor]) -> None:
    converted = from_meta(published, full_state, "sam3.pt")
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in full_state.items()}


def test_our_shapes_become_the_published_ones(
    full_state: dict[str, torch.Tensor], published: dict[str, torch.Tensor]
) -> None:
    # Both copies of this matrix are compared by value, which needs values.
    state = {k: torch.zeros(v.shape) if k.endswith("positional_embedding") else v for k, v in full_state.items()}
    back = to_meta(state, full_size(), {key: published[key] for key in lost_keys()})
    assert {key: list(value.shape) for key, value in back.items()} == frozen_keys()["video"]


def test_a_detector_alone_reads_the_keys_without_prefix() -> None:
    with torch.device("meta"):
        ours = full_size(tracker=False).build().state_dict()
    read = {key for name in ours for key in meta_source(name).keys}
    image_model = {k for k in frozen_keys()["video"] if k.startswith("detector.") and "sam2_convs" not in k}
    assert len(image_model) == 1134
    assert read == {key for key in image_model if not is_unused(key)}


def test_meta_to_ours_to_meta_is_the_identity() -> None:
    model, architecture = small_model(), small_architecture()
    meta = meta_tensors(model)
    ours = from_meta(meta, model.state_dict(), "small")
    assert all(torch.equal(ours[key], value) for key, value in model.state_dict().items())
    again = to_meta(ours, architecture, meta)
    assert again.keys() == meta.keys()
    assert all(torch.equal(again[key], meta[key]) for key in meta)


def test_thirds_are_query_key_value() -> None:
    packed = meta_tensors(small_model())["detector.backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight"]
    ours = small_model().state_dict()
    for index, letter in enumerate("qkv"):
        key = f"detector_model.vision_encoder.backbone.layers.0.attention.{letter}_proj.weight"
        assert torch.equal(packed[32 * index : 32 * (index + 1)], ours[key])


def test_a_projection_that_is_no_triple_is_named() -> None:
    model = small_model()
    meta = meta_tensors(model)
    key = "detector.transformer.encoder.layers.0.self_attn.in_proj_weight"
    meta[key] = meta[key][:-1]
    with pytest.raises(WeightsError, match=f"query, key and value in {key}"):
        from_meta(meta, model.state_dict(), "odd.pt")


def test_rotary_table_of_a_window_turns_by_whole_positions() -> None:
    table = rotary_tables(full_size(tracker=False))["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"]
    assert table.shape == (576, 32)
    token = 24 * 5 + 7  # row 5, column 7
    angles = torch.tensor([7.0, 5.0])
    assert torch.allclose(table[token][[0, 16]], torch.polar(torch.ones(2), angles), atol=1e-5)


def test_rotary_table_of_a_global_layer_is_scaled_to_a_window() -> None:
    tables = rotary_tables(full_size(tracker=False))
    whole = tables["detector.backbone.vision_backbone.trunk.blocks.7.attn.freqs_cis"]
    window = tables["detector.backbone.vision_backbone.trunk.blocks.0.attn.freqs_cis"]
    assert whole.shape == (5184, 32)
    assert torch.allclose(whole[72 * 15 + 21], window[24 * 5 + 7], atol=1e-5)


def test_writing_without_the_base_says_what_is_missing() -> None:
    with pytest.raises(WeightsError, match=r"7 tensors that only Meta's file has .*give the sam3\.pt"):
        to_meta(small_model().state_dict(), small_architecture())


def test_copies_that_differ_are_refused() -> None:
    state = small_model().state_dict()
    key = "tracker_model.shared_image_embedding.positional_embedding"
    state[key] = state[key] + 1
    with pytest.raises(WeightsError, match="positional_encoding_gaussian_matrix, ours differ"):
        to_meta(state, small_architecture(), only_metas())


def test_a_key_of_another_model_has_no_source() -> None:
    with pytest.raises(KeyError):
        meta_source("image_encoder.weight")


def test_each_unused_tensor_has_a_reason() -> None:
    assert all(reason for _, reason in UNUSED_BY_US)
