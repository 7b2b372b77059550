"""The model gives Meta's numbers, and those of transformers where transformers is asked in the same way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.meta_layout import from_meta
from MedicalSAM3Lib.model import VIT_LAYER_NORM_EPS, MedicalSam3
from MedicalSAM3Lib.weights import load_strictly
from Testing.lib.checkpoint_worlds import (
    DATA,
    SIDE,
    oracle_architecture,
    oracle_weights,
    small_architecture,
    small_model,
)

IDS = torch.tensor([[62, 5, 9, 63] + [0] * 28, [62, 17, 3, 40, 8, 63] + [0] * 26])
MASK = (IDS != 0).long()


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    """What Meta's detector (package sam3 0.1.4) answers to ``oracle_weights`` and the inputs below."""
    with np.load(DATA / "meta_small_outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model() -> MedicalSam3:
    model = oracle_architecture().build()
    load_strictly(model, from_meta(oracle_weights(), model.state_dict(), "oracle"), "oracle")
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    values = np.random.default_rng(7).uniform(-1, 1, (2, 3, 84, 84))
    return torch.tensor(values, dtype=torch.float32)


def close(ours: torch.Tensor, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=2e-5)


@torch.no_grad()
def test_outputs_are_those_of_the_published_implementation(
    model: MedicalSam3, images: torch.Tensor, published: dict[str, np.ndarray]
) -> None:
    trunk = model.encode_trunk(images)
    close(trunk, published["trunk"])
    slices, text = model.share(model.pyramid(trunk)), model.encode_text(IDS, MASK)
    queries = model.decode_queries(slices.for_queries(), text)
    close(queries.presence, published["presence"])
    close(queries.logits, published["logits"])
    close(queries.boxes_xyxy, published["boxes"])
    masks = model.decode_masks(slices, queries)
    close(torch.stack([masks.instances(pair) for pair in range(2)]), published["masks"])
    chosen = torch.tensor([3, 1])
    close(masks.instances(1, chosen), published["masks"][1, chosen.numpy()])
    close(masks.semantic, published["semantic"])


@torch.no_grad()
def test_prompt_is_the_text_and_one_token_that_has_looked_at_the_slice(
    model: MedicalSam3, images: torch.Tensor, published: dict[str, np.ndarray]
) -> None:
    text = model.encode_text(IDS, MASK)
    prompt = model.prompt(model.cls(model.pyramid(model.encode_trunk(images))), text)
    assert prompt.tokens.shape == (2, 33, 16)
    assert prompt.mask[:, -1].all()
    np.testing.assert_array_equal(prompt.mask.numpy(), ~published["prompt_mask"])
    real = prompt.mask.numpy()
    np.testing.assert_allclose(prompt.tokens.numpy()[real], published["prompt"][real], rtol=0, atol=2e-5)
    swapped = model.prompt(model.cls(model.pyramid(model.encode_trunk(images.flip(0)))), text)
    assert torch.allclose(swapped.tokens[:, -1], prompt.tokens.flip(0)[:, -1], atol=1e-5)
    assert not torch.allclose(swapped.tokens[:, -1], prompt.tokens[:, -1], atol=1e-3)


@torch.no_grad()
def test_epsilon_of_the_trunk_is_the_published_one(
    model: MedicalSam3, images: torch.Tensor, published: dict[str, np.ndarray]
) -> None:
    norms = [m for m in model.detector_model.vision_encoder.backbone.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {VIT_LAYER_NORM_EPS}
    try:
        for norm in norms:
            norm.eps = 1e-6  # what transformers takes by itself
        assert np.abs(model.encode_trunk(images).numpy() - published["trunk"]).max() > 0.1
    finally:
        for norm in norms:
            norm.eps = VIT_LAYER_NORM_EPS


@torch.no_grad()
def test_transformers_agrees_when_its_geometry_encoder_runs(
    model: MedicalSam3, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A box that is padding makes transformers run the geometry encoder; the pooled picture under it is masked.
    pooled = torch.zeros(2, 16, 7, 7)
    fake = type("Ops", (), {"ops": type("Inner", (), {"roi_align": staticmethod(lambda *_, **__: pooled)})})
    monkeypatch.setattr("transformers.models.sam3.modeling_sam3.torchvision", fake, raising=False)
    theirs = model.detector_model(
        pixel_values=images,
        input_ids=IDS,
        attention_mask=MASK,
        input_boxes=torch.zeros(2, 1, 4),
        input_boxes_labels=torch.full((2, 1), -10),
    )
    slices, text = model.share(model.pyramid(model.encode_trunk(images))), model.encode_text(IDS, MASK)
    queries = model.decode_queries(slices, text)
    masks = model.decode_masks(slices, queries)
    assert torch.allclose(theirs.pred_logits, queries.logits, atol=1e-5)
    assert torch.allclose(theirs.pred_boxes, queries.boxes_xyxy, atol=1e-5)
    assert torch.allclose(theirs.presence_logits[:, 0], queries.presence, atol=1e-5)
    assert torch.allclose(theirs.pred_masks, torch.stack([masks.instances(pair) for pair in range(2)]), atol=1e-4)
    assert torch.allclose(theirs.semantic_seg[:, 0], masks.semantic, atol=1e-4)
    without = model.detector_model(pixel_values=images, input_ids=IDS, attention_mask=MASK)
    assert not torch.allclose(without.pred_logits, queries.logits, atol=1e-2)


@torch.no_grad()
def test_pairs_in_a_batch_are_what_they_are_alone(model: MedicalSam3, images: torch.Tensor) -> None:
    shared, text = model.share(model.pyramid(model.encode_trunk(images))), model.encode_text(IDS, MASK)
    slices, concepts = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    batched = model.decode_queries(shared.take(slices), text.take(concepts))
    for row in range(3):
        alone = model.decode_queries(shared.take(slices[row : row + 1]), text.take(concepts[row : row + 1]))
        assert torch.allclose(batched.take(torch.tensor([row])).logits, alone.logits, atol=1e-5)
        assert torch.allclose(batched.presence[row], alone.presence[0], atol=1e-5)


def test_sizes_are_those_of_the_config(model: MedicalSam3) -> None:
    assert (model.image_size, model.grid_size, model.has_tracker) == (84, 6, False)
    assert small_model().image_size == SIDE


def test_tracker_has_no_trunk_of_its_own_and_one_position_matrix() -> None:
    model = small_model()
    assert model.has_tracker
    state = model.state_dict()
    assert not any(key.startswith("tracker_model.vision_encoder") for key in state)
    copies = [value for key, value in state.items() if key.endswith("positional_embedding")]
    assert len(copies) == 2
    assert torch.equal(*copies)


def test_an_empty_model_lacks_nothing_but_its_weights() -> None:
    full, empty = small_model(), small_architecture().build_empty()
    assert not empty.training
    shapes = {key: value.shape for key, value in full.state_dict().items()}
    assert {key: value.shape for key, value in empty.state_dict().items()} == shapes
    tables = dict(full.named_buffers())
    assert tables.keys() == dict(empty.named_buffers()).keys()
    assert all(torch.equal(value, tables[key]) for key, value in empty.named_buffers() if key not in shapes)
