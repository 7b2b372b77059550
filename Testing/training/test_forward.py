"""The training forward: the shipped detector's numbers, with answers at every layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Sam3Config

from MedicalSAM3Lib.model import MedicalSam3, Prompt, Pyramid, TextFeatures
from Training.forward import Memory, Outputs, decode_layers, forward_train, freeze_unused

FROZEN = Path(__file__).parent / "data" / "decoder.safetensors"
SIDE, QUERIES, LAYERS = 56, 7, 3


def tiny_config(width_of_detector: int = 32, width_of_mlp: int = 48) -> Sam3Config:
    """SAM3's shape with every width small: a 4 x 4 token grid and 16 x 16 masks."""
    size = width_of_detector
    width = {"hidden_size": size, "intermediate_size": width_of_mlp, "num_attention_heads": 4, "dropout": 0.0}
    trunk = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "pretrain_image_size": 28,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
    }
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 32,
        "vocab_size": 50,
        "max_position_embeddings": 32,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return Sam3Config(
        vision_config={
            "backbone_config": trunk,
            "fpn_hidden_size": size,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config=text,
        geometry_encoder_config=dict(width, num_layers=1),
        detr_encoder_config=dict(width, num_layers=1),
        detr_decoder_config=dict(width, num_layers=LAYERS, num_queries=QUERIES),
        mask_decoder_config={"hidden_size": size, "num_attention_heads": 4, "dropout": 0.0},
    )


@pytest.fixture
def model() -> MedicalSam3:
    """Random weights, fp64, large enough that the answers differ from query to query."""
    torch.manual_seed(3)
    model = MedicalSam3(tiny_config()).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def asked(model: MedicalSam3, pairs: int = 3) -> tuple[Pyramid, TextFeatures]:
    """Two slices and three phrases of unequal length, as ``pairs`` rows."""
    generator = torch.Generator().manual_seed(5)
    dtype = next(model.parameters()).dtype
    images = torch.randn(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64).to(dtype)
    ids = torch.randint(2, 50, (3, 6), generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [4], [2]])
    index = torch.arange(pairs)
    pyramid = model.pyramid(model.encode_trunk(images)).take(index % 2)
    return pyramid, model.encode_text(ids, mask.long()).take(index % 3)


def everything(outputs: Outputs) -> torch.Tensor:
    """One number that depends on all outputs."""
    answers = [outputs.instances, outputs.many_instances, outputs.semantic]
    for layer in outputs.layers + outputs.many:
        answers += [layer.logits, layer.boxes_cxcywh, layer.presence]
    return sum(answer.square().sum() for answer in answers if answer is not None)


def test_last_layer_is_the_shipped_detector(model: MedicalSam3) -> None:
    pyramid, text = asked(model)
    ours = forward_train(model, pyramid, text, one_to_many=False, with_masks=True)
    slices = model.share(pyramid)
    queries = model.decode_queries(slices, text)
    masks = model.decode_masks(slices, queries)
    last = ours.layers[-1]
    torch.testing.assert_close(last.logits, queries.logits, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(last.presence, queries.presence, atol=1e-12, rtol=1e-12)
    corners = torch.cat(
        [
            last.boxes_cxcywh[..., :2] - last.boxes_cxcywh[..., 2:] / 2,
            last.boxes_cxcywh[..., :2] + last.boxes_cxcywh[..., 2:] / 2,
        ],
        -1,
    )
    torch.testing.assert_close(corners, queries.boxes_xyxy, atol=1e-12, rtol=1e-12)
    drawn = torch.stack([masks.instances(pair) for pair in range(len(queries.hidden))])
    torch.testing.assert_close(ours.instances, drawn, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(ours.semantic, masks.semantic, atol=1e-12, rtol=1e-12)
    assert len(ours.layers) == LAYERS
    assert ours.many == ()
    assert ours.many_instances is None


def test_second_set_of_queries_leaves_the_first_alone(model: MedicalSam3) -> None:
    pyramid, text = asked(model)
    alone = forward_train(model, pyramid, text, one_to_many=False, with_masks=True)
    both = forward_train(model, pyramid, text, one_to_many=True, with_masks=True)
    for one, two in zip(alone.layers, both.layers, strict=True):
        torch.testing.assert_close(one.logits, two.logits)
        torch.testing.assert_close(one.boxes_cxcywh, two.boxes_cxcywh)
        torch.testing.assert_close(one.presence, two.presence)
    torch.testing.assert_close(alone.instances, both.instances)
    assert len(both.many) == LAYERS
    assert all(layer.presence is None for layer in both.many)
    assert both.many_instances.shape == both.instances.shape
    assert not torch.allclose(both.many[-1].logits, both.layers[-1].logits)


def test_second_set_answers_query_by_query(model: MedicalSam3) -> None:
    """Without self-attention a query of the second set knows nothing of the others."""
    pyramid, text = asked(model)
    before = forward_train(model, pyramid, text, one_to_many=True, with_masks=False).many[-1]
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    decoder = model.detector_model.detr_decoder
    with torch.no_grad():
        decoder.query_embed.weight.copy_(decoder.query_embed.weight[order].clone())
        decoder.reference_points.weight.copy_(decoder.reference_points.weight[order].clone())
    after = forward_train(model, pyramid, text, one_to_many=True, with_masks=False).many[-1]
    torch.testing.assert_close(after.logits, before.logits[:, order])
    with torch.no_grad():
        decoder.query_embed.weight[0] += 1.0
    changed = forward_train(model, pyramid, text, one_to_many=True, with_masks=False).many[-1]
    torch.testing.assert_close(changed.logits[:, 1:], after.logits[:, 1:])


def test_batched_equals_single(model: MedicalSam3) -> None:
    pyramid, text = asked(model)
    batched = forward_train(model, pyramid, text, one_to_many=True, with_masks=True)
    for row in range(3):
        index = torch.tensor([row])
        single = forward_train(model, pyramid.take(index), text.take(index), one_to_many=True, with_masks=True)
        torch.testing.assert_close(single.layers[-1].logits[0], batched.layers[-1].logits[row])
        torch.testing.assert_close(single.many[0].boxes_cxcywh[0], batched.many[0].boxes_cxcywh[row])
        torch.testing.assert_close(single.many_instances[0], batched.many_instances[row])


def test_what_concepts_of_a_slice_share_is_computed_once_and_changes_no_answer_and_no_gradient(
    model: MedicalSam3,
) -> None:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(2, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    rows = torch.tensor([1, 0, 1, 1])
    _, text = asked(model, pairs=4)
    looked: list[int] = []
    first = model.detector_model.detr_encoder.layers[0].self_attn
    first.register_forward_hook(lambda module, inputs, kwargs, output: looked.append(len(output[0])), with_kwargs=True)
    gradients, answers = [], []
    for shared in (True, False):
        model.zero_grad()
        pyramid = model.pyramid(model.encode_trunk(images))
        pyramid, of_pair = (pyramid, rows) if shared else (pyramid.take(rows), None)
        outputs = forward_train(model, pyramid, text, one_to_many=True, with_masks=True, pair_slice=of_pair)
        answers.append(outputs)
        everything(outputs).backward(retain_graph=True)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert looked == [2, 4]
    torch.testing.assert_close(answers[0].instances, answers[1].instances)
    torch.testing.assert_close(answers[0].many[-1].boxes_cxcywh, answers[1].many[-1].boxes_cxcywh)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)


def test_a_box_reaches_one_layer_back_and_no_further(model: MedicalSam3) -> None:
    """The offset of layer 0 shapes the boxes of layers 0 and 1; layer 2 sees it through detached boxes only."""
    pyramid, text = asked(model, pairs=1)
    decoder = model.detector_model.detr_decoder
    offsets = []
    hook = decoder.box_head.register_forward_hook(lambda module, inputs, output: offsets.append(output))
    outputs = forward_train(model, pyramid, text, one_to_many=False, with_masks=False)
    hook.remove()
    reached = [
        torch.autograd.grad(layer.boxes_cxcywh.sum(), offsets[0], retain_graph=True, allow_unused=True)[0] is not None
        for layer in outputs.layers
    ]
    assert reached == [True, True, False]


def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one_needs_it(model: MedicalSam3) -> None:
    frozen = freeze_unused(model)
    outputs = forward_train(model, *asked(model), one_to_many=True, with_masks=True)
    everything(outputs).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(model.get_parameter(name).grad is None for name in frozen)
    assert {name.split(".")[1] for name in frozen} == {
        "vision_encoder",
        "text_encoder",
        "mask_decoder",
        "geometry_encoder",
    }


def test_without_masks_the_mask_head_is_frozen_too(model: MedicalSam3) -> None:
    frozen = freeze_unused(model, with_masks=False)
    outputs = forward_train(model, *asked(model), one_to_many=True, with_masks=False)
    assert outputs.instances is None
    assert outputs.semantic is None
    everything(outputs).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert "detector_model.mask_decoder.semantic_projection.weight" in frozen


def test_freezing_is_needed(model: MedicalSam3) -> None:
    """The failing case of the guard: unfrozen, exactly the parameters of the list stay without gradient."""
    everything(forward_train(model, *asked(model), one_to_many=True, with_masks=True)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    # Of one token, queries and keys have a gradient, but one that says nothing.
    alone = [name for name in freeze_unused(model) if "self_attn" in name]
    assert len(alone) == 4
    assert sorted([*without, *alone]) == sorted(freeze_unused(model))
    assert all(float(model.get_parameter(name).grad.abs().max()) < 1e-6 for name in alone)


def test_autocast_keeps_scores_and_boxes_in_full_precision(model: MedicalSam3) -> None:
    model = model.float()
    pyramid, text = asked(model)
    exact = forward_train(model, pyramid, text, one_to_many=True, with_masks=True)
    with torch.autocast("cpu", torch.bfloat16):
        pyramid, text = asked(model)
        rough = forward_train(model, pyramid, text, one_to_many=True, with_masks=True)
    for layer in rough.layers + rough.many:
        assert layer.logits.dtype == layer.boxes_cxcywh.dtype == torch.float32
    assert rough.layers[-1].presence.dtype == torch.float32
    difference = (rough.layers[-1].boxes_cxcywh - exact.layers[-1].boxes_cxcywh).abs().max()
    assert difference < 0.05
    everything(rough).backward()


def test_a_confident_wrong_presence_can_still_be_unlearned(model: MedicalSam3) -> None:
    head = model.detector_model.detr_decoder.presence_head
    with torch.no_grad():
        head.layer3.bias += 40.0
    presence = forward_train(model, *asked(model), one_to_many=False, with_masks=False).layers[-1].presence
    assert bool((presence > 10).all())
    (gradient,) = torch.autograd.grad(presence.sum(), head.layer3.bias)
    assert gradient.item() == pytest.approx(3.0)


def test_same_decoder_answers_and_gradients_as_the_published_package() -> None:
    frozen = load_file(FROZEN)
    model = MedicalSam3(tiny_config(16, 24)).double()
    detector = model.detector_model
    modules = {"decoder": detector.detr_decoder, "scoring": detector.dot_product_scoring}
    for prefix, module in modules.items():
        start = f"weight.{prefix}."
        module.load_state_dict({name[len(start) :]: frozen[name] for name in frozen if name.startswith(start)})
    image, tokens = frozen["image"].requires_grad_(), frozen["prompt"].requires_grad_()
    prompt = Prompt(tokens, frozen["mask"])
    layers, _ = decode_layers(
        model, Memory(tokens, image, image + frozen["position"], (4, 4)), prompt, one_to_many=True
    )
    loss = torch.zeros((), dtype=torch.float64)
    for k, layer in enumerate(layers):
        answers = {
            "presence": layer.presence,
            "one_logits": layer.logits[:, :QUERIES],
            "one_boxes": layer.boxes_cxcywh[:, :QUERIES],
            "many_logits": layer.logits[:, QUERIES:],
            "many_boxes": layer.boxes_cxcywh[:, QUERIES:],
        }
        for name, answer in answers.items():
            torch.testing.assert_close(answer, frozen[f"out.{name}.{k}"], atol=1e-9, rtol=1e-9)
            loss = loss + answer.square().sum()
    loss.backward()
    torch.testing.assert_close(image.grad, frozen["grad.image"], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(tokens.grad, frozen["grad.prompt"], atol=1e-8, rtol=1e-8)
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.grad, frozen[f"grad.{prefix}.{name}"], atol=1e-8, rtol=1e-8)
