"""Names of SAM3's tensors: ours (those of ``transformers``) and Meta's, as data, and both directions.

A ``Section`` renames all keys below one prefix. Where the two disagree on more than the name, a
``Source`` says how one of our tensors lies in Meta's: a third of a packed projection, transposed,
without its first row, or rows that Meta keeps apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Form = Literal["same", "third", "transposed", "tail", "rows"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where one of our tensors lies in Meta's checkpoint.

    Attributes:
        keys: Meta's names: one, or one a row for the form "rows".
        form: "same"; "third" number ``index`` along dimension 0; "transposed"; "tail" = without
            row 0 of dimension 1; "rows" = concatenated along dimension 0.
        index: Which third: 0 query, 1 key, 2 value.
    """

    keys: tuple[str, ...]
    form: Form = "same"
    index: int = 0


@dataclass(frozen=True, slots=True)
class Section:
    """Keys below ``ours`` stand in Meta's file below ``meta``, with ``renames`` applied in their order.

    ``packed`` is the name of a projection that holds query, key and value, or "" where Meta has three.
    """

    ours: str
    meta: str
    renames: tuple[tuple[str, str], ...] = ()
    packed: str = ""


_TRANSFORMER = ((r"layer_norm(\d)", r"norm\1"), (r"mlp\.fc(\d)", r"linear\1"), (r"\bo_proj", "out_proj"))
_FUSION = (*_TRANSFORMER, (r"cross_attn", "cross_attn_image"))
_STEPS = ((r"\.layer1\.", ".layers.0."), (r"\.layer2\.", ".layers.1."), (r"\.layer3\.", ".layers.2."))
# Our "layers.0" is Meta's "layers.1", so it moves before "proj_in" takes its name.
_MLP = ((r"\blayers\.0\.(?=weight|bias)", "layers.1."), (r"proj_in\.", "layers.0."), (r"proj_out\.", "layers.2."))
_NECK = (
    (r"^fpn_layers\.0\.scale_layers\.0", "0.dconv_2x2_0"),
    (r"^fpn_layers\.0\.scale_layers\.2", "0.dconv_2x2_1"),
    (r"^fpn_layers\.1\.scale_layers\.0", "1.dconv_2x2"),
    (r"^fpn_layers\.(\d)\.proj1", r"\1.conv_1x1"),
    (r"^fpn_layers\.(\d)\.proj2", r"\1.conv_3x3"),
)
_VISION = "detector.backbone.vision_backbone."
_LANGUAGE = "detector.backbone.language_backbone."

SECTIONS = (
    Section(
        "detector_model.vision_encoder.backbone.",
        _VISION + "trunk.",
        (
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
            (r"^layer_norm\.", "ln_pre."),
            (r"^layers", "blocks"),
            (r"layer_norm(\d)", r"norm\1"),
            (r"attention\.o_proj", "attn.proj"),
            (r"attention", "attn"),
        ),
        packed="qkv.",
    ),
    Section("detector_model.vision_encoder.neck.", _VISION + "convs.", _NECK),
    Section("tracker_neck.", _VISION + "sam2_convs.", _NECK),
    Section(
        "detector_model.text_encoder.",
        _LANGUAGE + "encoder.",
        (
            (r"^text_projection\.weight", "text_projection"),
            (r"^text_model\.", ""),
            (r"^embeddings\.token_embedding", "token_embedding"),
            (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"^final_layer_norm", "ln_final"),
            (r"^encoder\.layers", "transformer.resblocks"),
            (r"layer_norm(\d)", r"ln_\1"),
            (r"self_attn", "attn"),
            (r"mlp\.fc1", "mlp.c_fc"),
            (r"mlp\.fc2", "mlp.c_proj"),
        ),
        packed="in_proj_",
    ),
    Section("detector_model.text_projection.", _LANGUAGE + "resizer."),
    Section(
        "detector_model.geometry_encoder.",
        "detector.geometry_encoder.",
        (
            (r"^prompt_layer_norm", "norm"),
            (r"^vision_layer_norm", "img_pre_norm"),
            (r"^output_layer_norm", "encode_norm"),
            (r"^layers", "encode"),
            *_FUSION,
        ),
        packed="in_proj_",
    ),
    Section("detector_model.detr_encoder.", "detector.transformer.encoder.", _FUSION, packed="in_proj_"),
    Section(
        "detector_model.detr_decoder.",
        "detector.transformer.decoder.",
        (
            (r"^output_layer_norm", "norm"),
            (r"^presence_layer_norm", "presence_token_out_norm"),
            (r"vision_cross_attn_layer_norm", "norm1"),
            (r"self_attn_layer_norm", "norm2"),
            (r"mlp_layer_norm", "norm3"),
            (r"text_cross_attn_layer_norm", "catext_norm"),
            (r"text_cross_attn", "ca_text"),
            (r"vision_cross_attn", "cross_attn"),
            (r"^box_head", "bbox_embed"),
            (r"^presence_head", "presence_token_head"),
            (r"^box_rpb_embed", "boxRPB_embed"),
            *_STEPS,
            *_TRANSFORMER,
        ),
        packed="in_proj_",
    ),
    Section(
        "detector_model.mask_decoder.",
        "detector.segmentation_head.",
        (
            (r"^mask_embedder", "mask_predictor.mask_embed"),
            (r"^prompt_cross_attn_norm", "cross_attn_norm"),
            (r"^prompt_cross_attn", "cross_attend_prompt"),
            (r"^instance_projection", "instance_seg_head"),
            (r"^semantic_projection", "semantic_seg_head"),
            (r"\bo_proj", "out_proj"),
        ),
        packed="in_proj_",
    ),
    Section(
        "detector_model.dot_product_scoring.",
        "detector.dot_prod_scoring.",
        (
            (r"^text_mlp_out_norm", "prompt_mlp.out_norm"),
            (r"^text_mlp", "prompt_mlp"),
            (r"^text_proj", "prompt_proj"),
            (r"^query_proj", "hs_proj"),
            *_STEPS,
        ),
    ),
    Section(
        "tracker_model.memory_attention.",
        "tracker.transformer.encoder.",
        (
            (r"^layer_norm", "norm"),
            (r"layer_norm(\d)", r"norm\1"),
            (r"\bo_proj", "out_proj"),
        ),
    ),
    Section(
        "tracker_model.memory_encoder.",
        "tracker.maskmem_backbone.",
        (
            (r"^feature_projection", "pix_feat_proj"),
            (r"^projection", "out_proj"),
            *((rf"^mask_downsampler\.layers\.{i}\.conv", f"mask_downsampler.encoder.{3 * i}") for i in range(4)),
            *(
                (rf"^mask_downsampler\.layers\.{i}\.layer_norm", f"mask_downsampler.encoder.{3 * i + 1}")
                for i in range(4)
            ),
            (r"^mask_downsampler\.final_conv", "mask_downsampler.encoder.12"),
            (r"^memory_fuser", "fuser"),
            (r"\.scale$", ".gamma"),
            (r"depthwise_conv", "dwconv"),
            (r"layer_norm", "norm"),
            (r"pointwise_conv", "pwconv"),
        ),
    ),
    Section(
        "tracker_model.prompt_encoder.",
        "tracker.sam_prompt_encoder.",
        (
            (r"^shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
            (r"^mask_embed\.conv1", "mask_downscaling.0"),
            (r"^mask_embed\.layer_norm1", "mask_downscaling.1"),
            (r"^mask_embed\.conv2", "mask_downscaling.3"),
            (r"^mask_embed\.layer_norm2", "mask_downscaling.4"),
            (r"^mask_embed\.conv3", "mask_downscaling.6"),
        ),
    ),
    Section(
        "tracker_model.mask_decoder.",
        "tracker.sam_mask_decoder.",
        (
            (r"\blayer_norm", "norm"),
            (r"\bo_proj", "out_proj"),
            (r"mlp\.proj_in", "mlp.lin1"),
            (r"mlp\.proj_out", "mlp.lin2"),
            (r"^upscale_conv1", "output_upscaling.0"),
            (r"^upscale_layer_norm", "output_upscaling.1"),
            (r"^upscale_conv2", "output_upscaling.3"),
            *_MLP,
        ),
    ),
    Section("tracker_model.object_pointer_proj.", "tracker.obj_ptr_proj.", _MLP),
    Section("tracker_model.temporal_positional_encoding_projection_layer.", "tracker.obj_ptr_tpos_proj."),
    Section(
        "tracker_model.",
        "tracker.",
        (
            (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
            (r"^no_memory_embedding$", "no_mem_embed"),
            (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
            (r"^no_object_pointer$", "no_obj_ptr"),
            (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
            (
                r"^shared_image_embedding\.positional_embedding$",
                "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
            ),
        ),
    ),
)
"""In the order in which they are tried: a longer prefix stands before a shorter one."""

UNUSED_BY_US = (
    (r"\.attn\.freqs_cis$", "rotary table of the trunk; computed from the sizes"),
    (r"^detector\.geometry_encoder\.points_", "clicks on the picture; not part of the text-prompted model"),
    (r"\.encoder\.attn_mask$", "causal mask of the text encoder; computed"),
)
"""Meta's tensors that have no counterpart here, and why."""

_POINT_EMBEDDING = "tracker_model.prompt_encoder.point_embed.weight"


def meta_source(key: str) -> Source:
    """Where a tensor of ours lies in Meta's checkpoint (``detector.*`` and ``tracker.*``).

    Args:
        key: Name in the state dict of ``model.MedicalSam3``.
    """
    if key == _POINT_EMBEDDING:
        return Source(tuple(f"tracker.sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4)), "rows")
    section = next((section for section in SECTIONS if key.startswith(section.ours)), None)
    if section is None:
        raise KeyError(key)
    name = key.removeprefix(section.ours)
    third = re.fullmatch(r"(.*)([qkv])_proj\.(weight|bias)", name) if section.packed else None
    if third:
        name = f"{third[1]}{section.packed}{third[3]}"
    for pattern, replacement in section.renames:
        name = re.sub(pattern, replacement, name)
    meta = (section.meta + name,)
    if third:
        return Source(meta, "third", "qkv".index(third[2]))
    if key.endswith("text_encoder.text_projection.weight"):
        return Source(meta, "transposed")
    if key.endswith("embeddings.position_embeddings"):
        return Source(meta, "tail")
    return Source(meta)


def is_unused(meta_key: str) -> bool:
    """Whether one of Meta's tensors has no counterpart here on purpose."""
    return any(re.search(pattern, meta_key) for pattern, _ in UNUSED_BY_US)
