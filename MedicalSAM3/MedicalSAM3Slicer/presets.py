"""Concepts by region of the body, for the panel. Needs no Slicer."""

from __future__ import annotations

PRESETS: dict[str, tuple[str, ...]] = {
    "Head": ("brain", "cerebellum", "brain stem", "lateral ventricle", "skull", "eyeball", "mandible"),
    "Neck": ("thyroid gland", "trachea", "esophagus", "spinal cord", "parotid gland", "submandibular gland"),
    "Chest": ("left lung", "right lung", "heart", "aorta", "trachea", "esophagus", "pulmonary artery", "lung nodule"),
    "Abdomen": (
        "liver", "spleen", "left kidney", "right kidney", "pancreas", "gallbladder", "stomach", "colon", "aorta",
        "inferior vena cava",
    ),
    "Pelvis": ("urinary bladder", "rectum", "prostate", "uterus", "sacrum", "left femur", "right femur", "hip bone"),
    "Spine": ("cervical spine", "thoracic spine", "lumbar spine", "sacrum", "spinal cord", "intervertebral disc"),
    "Tumours": ("tumor", "liver tumor", "kidney tumor", "lung tumor", "brain tumor", "metastasis", "lesion"),
}  # fmt: skip
"""All of them stand in the vocabulary. A preset only fills the text box: what is not in the image is "not found"."""
