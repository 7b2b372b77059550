"""Ask the published ``sam3`` package for matches, losses, gradients and decoder outputs, and freeze them.

Run once, in a throw-away environment; the tests read only the files that it writes:

    python -m venv oracle
    oracle/bin/pip install torch==2.13.0 "numpy<2.4" scipy safetensors torchmetrics iopath
    oracle/bin/pip install --no-deps sam3==0.1.4
    oracle/bin/python Testing/training/make_oracle.py Testing/training/data

Everything runs on the CPU in fp64 without dropout. The package casts to fp32 in places and has its focal
loss as a GPU kernel; here single precision is made double, and the package's own formula for the CPU
stands in for the kernel. No code of the package is copied.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

MISSING = (
    "torchvision",
    "triton",
    "decord",
    "pycocotools",
    "cv2",
    "timm",
    "skimage",
    "huggingface_hub",
    "ftfy",
    "regex",
)

# Names are those of our LossConfig. "paper" is Table 2 with instance masks on; "other" moves every
# constant, so that none can be wired to the wrong place.
CASES: dict[str, dict[str, Any]] = {
    "paper": {"mask_focal": 200.0, "mask_dice": 10.0},
    "other": {
        "hungarian": {"l1": 3.0, "classification": 1.5, "giou": 1.0, "alpha": 0.4, "gamma": 1.5},
        "many_matcher": {"topk": 3, "threshold": 0.3, "alpha": 0.5},
        "box_l1": 4.0,
        "box_giou": 3.0,
        "classification": 7.0,
        "positive_weight": 5.0,
        "quality_alpha": 0.4,
        "negative_gamma": 1.5,
        "padded_queries": 1,
        "presence": 9.0,
        "presence_alpha": 0.3,
        "presence_gamma": 1.0,
        "many": 1.5,
        "many_aux_matcher": "one_to_many",
        "semantic_focal": 11.0,
        "semantic_dice": 13.0,
        "semantic_presence": 0.5,
        "semantic_alpha": 0.7,
        "semantic_gamma": 1.6,
        "mask_focal": 17.0,
        "mask_dice": 19.0,
        "mask_alpha": 0.4,
        "mask_gamma": 1.5,
    },
}
PAPER: dict[str, Any] = {
    "hungarian": {"l1": 5.0, "classification": 2.0, "giou": 2.0, "alpha": 0.25, "gamma": 2.0},
    "many_matcher": {"topk": 4, "threshold": 0.4, "alpha": 0.3},
    "box_l1": 5.0,
    "box_giou": 2.0,
    "classification": 20.0,
    "positive_weight": 10.0,
    "quality_alpha": 0.25,
    "negative_gamma": 2.0,
    "padded_queries": 200,
    "presence": 20.0,
    "presence_alpha": 0.5,
    "presence_gamma": 0.0,
    "many": 2.0,
    "many_aux_matcher": "hungarian",
    "semantic_focal": 20.0,
    "semantic_dice": 30.0,
    "semantic_presence": 1.0,
    "semantic_alpha": 0.6,
    "semantic_gamma": 2.0,
    "mask_alpha": 0.25,
    "mask_gamma": 2.0,
}
LAYERS, QUERIES, LOGIT_SIDE, SIDE = 3, 12, 8, 20
# The fifth pair's only object has no area; the last has two objects that are nearly one.
OBJECTS = (3, 0, 1, 2, 1, 5, 0, 2)
WIDTH, HEADS, GRID, TOKENS = 16, 4, 4, 5


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that the oracle imports but never calls."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] in MISSING:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def open_package() -> None:
    """Make ``sam3``'s modules importable one by one: its ``__init__`` would pull in the video predictor."""
    spec = importlib.util.find_spec("sam3")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("Expected the package sam3 in this environment, found none; see the head of this file.")
    package = types.ModuleType("sam3")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["sam3"] = package
    sys.meta_path.insert(0, _Absent())


def make_double() -> None:
    """Turn the package's casts to fp32 into fp64; only in this process, after its import."""
    torch.set_default_dtype(torch.float64)
    torch.float = torch.float32 = torch.float64
    Tensor.float = Tensor.double


def loss_inputs() -> dict[str, Tensor]:
    """Predictions of two branches, of which some are near an object, and objects with masks."""
    generator = torch.Generator().manual_seed(20)
    pairs, total = len(OBJECTS), sum(OBJECTS)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    object_pair = torch.repeat_interleave(torch.arange(pairs), torch.tensor(OBJECTS))
    boxes = torch.cat([0.25 + 0.5 * random(total, 2), 0.1 + 0.3 * random(total, 2)], 1)
    boxes[object_pair == 4, 2] = 0.0
    boxes[-1] = boxes[-2] + 0.01
    inputs = {"target_boxes": boxes, "object_pair": object_pair, "masks": _boxes_as_masks(boxes)}
    for branch in ("one", "many"):
        predicted = torch.cat([random(LAYERS, pairs, QUERIES, 2), 0.05 + 0.4 * random(LAYERS, pairs, QUERIES, 2)], 3)
        for item, pair in enumerate(object_pair.tolist()):
            near = (torch.arange(4) + 3 * item) % QUERIES
            jitter = 0.06 * (random(LAYERS, 4, 4) - 0.5)
            predicted[:, pair, near] = (boxes[item] + jitter).clamp(0.02, 0.98)
        inputs[f"{branch}_boxes"] = predicted
        inputs[f"{branch}_logits"] = 6 * random(LAYERS, pairs, QUERIES) - 3
        inputs[f"{branch}_masks"] = 6 * random(pairs, QUERIES, LOGIT_SIDE, LOGIT_SIDE) - 3
    inputs["presence"] = 4 * random(LAYERS, pairs) - 2
    inputs["semantic"] = 6 * random(pairs, LOGIT_SIDE, LOGIT_SIDE) - 3
    return inputs


def _boxes_as_masks(boxes: Tensor) -> Tensor:
    centre = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE
    across = (centre - boxes[:, None, 0]).abs() < boxes[:, None, 2] / 2
    down = (centre - boxes[:, None, 1]).abs() < boxes[:, None, 3] / 2
    return down[:, :, None] & across[:, None, :]


def losses_of_package(inputs: dict[str, Tensor], changed: dict[str, Any]) -> dict[str, Tensor]:
    """Terms, total, matches and gradients of one case."""
    config = {**PAPER, **changed}
    criterion, matcher = _criterion(config)
    names = ("one_boxes", "one_logits", "one_masks", "many_boxes", "many_logits", "many_masks", "presence", "semantic")
    leaf = {name: inputs[name].clone().requires_grad_() for name in names}
    targets = _targets(inputs)
    output = _nested_outputs(leaf, targets, matcher)
    losses = criterion.compute_loss(output, targets)
    semantic = criterion.loss_fn_semantic_seg(output, targets)
    total = losses["core_loss"] + semantic["core_loss"]
    total.backward()
    result = {f"grad.{name}": tensor.grad for name, tensor in leaf.items()}
    result["total"] = total.detach()
    kept = {**losses, **semantic}
    result.update({f"term.{name}": torch.as_tensor(value).detach() for name, value in kept.items() if "loss" in name})
    result.update(_matches(output, targets, criterion, config))
    return result


def _criterion(config: dict[str, Any]) -> tuple[Any, Any]:
    from sam3.train import matcher as matchers
    from sam3.train.loss import loss_fns
    from sam3.train.loss.sam3_loss import Sam3LossWrapper

    cost, many = config["hungarian"], config["many_matcher"]
    hungarian = matchers.BinaryHungarianMatcherV2(
        cost_class=cost["classification"],
        cost_bbox=cost["l1"],
        cost_giou=cost["giou"],
        focal=True,
        alpha=cost["alpha"],
        gamma=cost["gamma"],
    )
    scores = loss_fns.IABCEMdetr(
        pos_weight=config["positive_weight"],
        weight_dict={"loss_ce": config["classification"], "presence_loss": config["presence"]},
        gamma=config["negative_gamma"],
        alpha=config["quality_alpha"],
        weak_loss=False,
        pad_n_queries=config["padded_queries"],
        use_presence=True,
        presence_alpha=config["presence_alpha"],
        presence_gamma=config["presence_gamma"],
    )
    boxes = loss_fns.Boxes(weight_dict={"loss_bbox": config["box_l1"], "loss_giou": config["box_giou"]})
    masks = loss_fns.Masks(
        weight_dict={"loss_mask": config["mask_focal"], "loss_dice": config["mask_dice"]},
        focal_alpha=config["mask_alpha"],
        focal_gamma=config["mask_gamma"],
    )
    semantic = loss_fns.SemanticSegCriterion(
        weight_dict={
            "loss_semantic_seg": config["semantic_focal"],
            "loss_semantic_dice": config["semantic_dice"],
            "loss_semantic_presence": config["semantic_presence"],
        },
        focal=True,
        focal_alpha=config["semantic_alpha"],
        focal_gamma=config["semantic_gamma"],
        downsample=False,
        presence_head=True,
        presence_loss=True,
    )
    wrapper = Sam3LossWrapper(
        [boxes, scores, masks],
        normalization="local",
        matcher=hungarian,
        o2m_matcher=matchers.BinaryOneToManyMatcher(**many),
        o2m_weight=config["many"],
        use_o2m_matcher_on_o2m_aux=config["many_aux_matcher"] == "one_to_many",
        loss_fn_semantic_seg=semantic,
    )
    return wrapper, hungarian


def _targets(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    from sam3.model.box_ops import box_cxcywh_to_xyxy

    counts = torch.tensor(OBJECTS)
    padded = torch.zeros(len(OBJECTS), max(OBJECTS), 4)
    identity = torch.full((len(OBJECTS), max(OBJECTS)), -1)
    for pair, boxes in enumerate(inputs["target_boxes"].split(OBJECTS)):
        padded[pair, : len(boxes)] = boxes
        identity[pair, : len(boxes)] = torch.arange(len(boxes))
    return {
        "boxes": inputs["target_boxes"],
        "boxes_xyxy": box_cxcywh_to_xyxy(inputs["target_boxes"]),
        "num_boxes": counts,
        "boxes_padded": padded,
        "object_ids_padded": identity,
        "masks": inputs["masks"],
        "is_valid_mask": torch.ones(int(counts.sum()), dtype=torch.bool),
    }


def _nested_outputs(leaf: dict[str, Tensor], targets: dict[str, Tensor], matcher: Any) -> dict[str, Any]:
    from sam3.model.box_ops import box_cxcywh_to_xyxy

    layers = []
    for k in range(LAYERS):
        out: dict[str, Any] = {"presence_logit_dec": leaf["presence"][k][:, None]}
        for branch, suffix in (("one", ""), ("many", "_o2m")):
            out[f"pred_logits{suffix}"] = leaf[f"{branch}_logits"][k][..., None]
            out[f"pred_boxes{suffix}"] = leaf[f"{branch}_boxes"][k]
            out[f"pred_boxes_xyxy{suffix}"] = box_cxcywh_to_xyxy(leaf[f"{branch}_boxes"][k])
        out["indices"] = matcher(out, targets)
        layers.append(out)
    last = layers[-1]
    last["pred_masks"], last["pred_masks_o2m"] = leaf["one_masks"], leaf["many_masks"]
    last["semantic_seg"], last["presence_logit"] = leaf["semantic"][:, None], leaf["presence"][-1][:, None]
    last["aux_outputs"] = layers[:-1]
    return last


def _matches(
    output: dict[str, Any], targets: dict[str, Tensor], criterion: Any, config: dict[str, Any]
) -> dict[str, Tensor]:
    """Rows of pair, query, object for each layer of each branch."""
    found = {}
    for k, out in enumerate([*output["aux_outputs"], output]):
        many = {"pred_logits": out["pred_logits_o2m"], "pred_boxes": out["pred_boxes_o2m"]}
        greedy = k == LAYERS - 1 or config["many_aux_matcher"] == "one_to_many"
        indices = {
            "one": out["indices"],
            "many": (criterion.o2m_matcher if greedy else criterion.matcher)(many, targets),
        }
        for branch, (pair, query, item) in indices.items():
            item = torch.arange(len(pair)) if item is None else item
            found[f"match.{branch}.{k}"] = torch.stack([pair, query, item], 1)
    return found


def decoder_of_package() -> dict[str, Tensor]:
    """A small decoder with doubled queries: weights under our names, inputs, outputs and gradients."""
    from sam3.model.decoder import TransformerDecoder, TransformerDecoderLayer
    from sam3.model.model_misc import MLP, DotProductScoring, MultiheadAttentionWrapper
    from sam3.model.sam3_image import Sam3Image

    torch.manual_seed(4)
    layer = TransformerDecoderLayer(
        activation="relu",
        d_model=WIDTH,
        dim_feedforward=24,
        dropout=0.0,
        cross_attention=MultiheadAttentionWrapper(num_heads=HEADS, dropout=0.0, embed_dim=WIDTH),
        n_heads=HEADS,
        use_text_cross_attention=True,
    )
    decoder = TransformerDecoder(
        d_model=WIDTH,
        frozen=False,
        interaction_layer=None,
        layer=layer,
        num_layers=LAYERS,
        num_queries=7,
        return_intermediate=True,
        box_refine=True,
        dac=True,
        boxRPB="log",
        use_act_checkpoint=True,
        presence_token=True,
    )
    prompt_mlp = MLP(WIDTH, 24, WIDTH, 2, residual=True, out_norm=nn.LayerNorm(WIDTH))
    scoring = DotProductScoring(d_model=WIDTH, d_proj=WIDTH, prompt_mlp=prompt_mlp)
    parameters = {**_prefixed(decoder, "decoder."), **_prefixed(scoring, "scoring.")}
    for parameter in parameters.values():
        nn.init.normal_(parameter, std=0.3)
    image = torch.randn(2, GRID * GRID, WIDTH).requires_grad_()
    prompt = torch.randn(2, TOKENS, WIDTH).requires_grad_()
    position, mask = torch.randn(2, GRID * GRID, WIDTH), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    padding = ~mask
    hidden, reference, presence, _ = decoder(
        tgt=decoder.query_embed.weight[:, None].expand(-1, 2, -1),
        memory=image.transpose(0, 1),
        pos=position.transpose(0, 1),
        spatial_shapes=torch.tensor([[GRID, GRID]]),
        valid_ratios=torch.ones(2, 1, 2),
        memory_text=prompt.transpose(0, 1),
        text_attention_mask=padding,
    )
    host = types.SimpleNamespace(
        transformer=types.SimpleNamespace(decoder=decoder),
        training=True,
        use_dot_prod_scoring=True,
        dot_prod_scoring=scoring,
        instance_dot_prod_scoring=None,
        supervise_joint_box_scores=False,
    )
    out: dict[str, Any] = {}
    Sam3Image._update_scores_and_boxes(
        host,
        out,
        hidden.transpose(1, 2),
        reference.transpose(1, 2),
        prompt.transpose(0, 1),
        padding,
        dec_presence_out=presence.transpose(1, 2),
    )
    result = {"image": image, "prompt": prompt, "position": position, "mask": mask}
    answers = {}
    for k, layer_out in enumerate([*out["aux_outputs"], out]):
        answers[f"out.presence.{k}"] = layer_out["presence_logit_dec"][:, 0]
        for branch, suffix in (("one", ""), ("many", "_o2m")):
            answers[f"out.{branch}_logits.{k}"] = layer_out[f"pred_logits{suffix}"][..., 0]
            answers[f"out.{branch}_boxes.{k}"] = layer_out[f"pred_boxes{suffix}"]
    sum(answer.square().sum() for answer in answers.values()).backward()
    weights = _our_names({name: parameter.data for name, parameter in parameters.items()})
    gradients = _our_names({name: parameter.grad for name, parameter in parameters.items()})
    result.update(answers)
    result.update({f"weight.{name}": tensor for name, tensor in weights.items()})
    result.update({f"grad.{name}": tensor for name, tensor in gradients.items()})
    result.update({"grad.image": image.grad, "grad.prompt": prompt.grad})
    return result


def _prefixed(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    return {prefix + name: parameter for name, parameter in module.named_parameters()}


RENAMED = (
    ("decoder.norm.", "decoder.output_layer_norm."),
    ("bbox_embed.layers.", "box_head.layer"),
    ("presence_token_head.layers.", "presence_head.layer"),
    ("presence_token_out_norm.", "presence_layer_norm."),
    ("ref_point_head.layers.", "ref_point_head.layer"),
    ("boxRPB_embed_x.layers.", "box_rpb_embed_x.layer"),
    ("boxRPB_embed_y.layers.", "box_rpb_embed_y.layer"),
    ("ca_text.", "text_cross_attn."),
    (".cross_attn.", ".vision_cross_attn."),
    ("catext_norm.", "text_cross_attn_layer_norm."),
    (".norm1.", ".vision_cross_attn_layer_norm."),
    (".norm2.", ".self_attn_layer_norm."),
    (".norm3.", ".mlp_layer_norm."),
    (".linear1.", ".mlp.fc1."),
    (".linear2.", ".mlp.fc2."),
    (".out_proj.", ".o_proj."),
    ("prompt_mlp.layers.", "text_mlp.layer"),
    ("prompt_mlp.out_norm.", "text_mlp_out_norm."),
    ("prompt_proj.", "text_proj."),
    ("hs_proj.", "query_proj."),
)


def _our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The package's parameter names to those of ``transformers``, with query, key and value apart."""
    named = {}
    for name, tensor in tensors.items():
        for theirs, ours in RENAMED:
            if theirs in name:
                name = name.replace(theirs, ours)
                if ours.endswith("layer"):
                    before, after = name.split(ours)
                    number, rest = after.split(".", 1)
                    name = f"{before}{ours}{int(number) + 1}.{rest}"
        if ".in_proj_" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                named[name.replace(".in_proj_", f".{part}_proj.")] = piece
        else:
            named[name] = tensor
    return named


def use_formula_for_kernel() -> None:
    """Give the loss functions the package's own CPU formula where they ask for its GPU kernel."""
    from sam3.train.loss import loss_fns

    formula = loss_fns.sigmoid_focal_loss

    def pixelwise(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
        return formula(logits, target, 1, alpha, gamma, reduce=False, triton=False)

    loss_fns.triton_sigmoid_focal_loss = pixelwise
    loss_fns.triton_sigmoid_focal_loss_reduce = lambda *arguments: pixelwise(*arguments).sum()


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write one file, whole or not at all."""
    temporary = path.with_suffix(".part")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)
    path.chmod(0o644)


def main() -> None:
    """Write ``losses.safetensors`` and ``decoder.safetensors`` into the folder given."""
    folder = Path(sys.argv[1])
    open_package()
    import sam3.model.sam3_image  # noqa: F401  (imported while fp32 still means fp32)

    use_formula_for_kernel()
    make_double()
    inputs = loss_inputs()
    tensors = {f"input.{name}": tensor for name, tensor in inputs.items()}
    for case, changed in CASES.items():
        tensors.update({f"{case}.{name}": tensor for name, tensor in losses_of_package(inputs, changed).items()})
    write(folder / "losses.safetensors", tensors, {"cases": json.dumps(CASES)})
    write(folder / "decoder.safetensors", decoder_of_package())


if __name__ == "__main__":
    main()
