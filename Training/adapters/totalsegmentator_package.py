"""Four people from the reference files of the ``totalsegmentator`` source distribution (Apache-2.0).

The masks are that tool's own output, not drawn by a person: every Dice against them measures agreement
with the tool. Subjects A and B are CT of the abdomen from two scanners, C is MR of the abdomen, D is CT of
the thorax of which only the heart, the aorta and its branches are labelled. B is never trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MedicalSAM3Lib.errors import InputError
from Training.adapters.labelled import LabelledVolume, held_out_slabs

PACKAGE = "totalsegmentator"
VERSION = "2.18.0"
SHA256 = "5d4223ef93973bc36d710869d11e7742ead2c154c72f7f9edcaaadd5b6c4bd03"
LICENCE = "Apache-2.0"

NOT_IN_A_THORAX = ("urinary_bladder", "prostate", "hip_bone", "femur", "sacrum", "gluteal_muscle")
"""Concepts that no thorax CT shows: verified absent where a volume is only partly labelled."""

_SIDED = {
    "kidney": ["kidney"],
    "lung": ["lung_upper_lobe", "lung_middle_lobe", "lung_lower_lobe", "lung"],
    "hip_bone": ["hip"],
    "femur": ["femur"],
    "back_muscle": ["autochthon"],
    "psoas_muscle": ["iliopsoas"],
    "gluteal_muscle": ["gluteus_maximus", "gluteus_medius", "gluteus_minimus"],
    "adrenal_gland": ["adrenal_gland"],
    "iliac_artery": ["iliac_artery"],
    "iliac_vein": ["iliac_vena"],
}
_SINGLE = {
    "liver": "liver",
    "spleen": "spleen",
    "stomach": "stomach",
    "gallbladder": "gallbladder",
    "pancreas": "pancreas",
    "duodenum": "duodenum",
    "colon": "colon",
    "small_bowel": "small_bowel",
    "urinary_bladder": "urinary_bladder",
    "prostate": "prostate",
    "aorta": "aorta",
    "inferior_vena_cava": "inferior_vena_cava",
    "portal_vein": "portal_vein_and_splenic_vein",
    "spinal_cord": "spinal_cord",
    "costal_cartilage": "costal_cartilages",
    "heart": "heart",
}
_WITHOUT_SIDES = ("gluteal_muscle", "adrenal_gland", "iliac_artery", "iliac_vein")


def label_ids(names: dict[int, str]) -> dict[str, list[int]]:
    """Concept id to the tool's label ids, for one of its class maps (id to name)."""
    concepts: dict[str, list[int]] = {}
    for number, name in names.items():
        for concept in _concepts_of(name):
            concepts.setdefault(concept, []).append(number)
    return concepts


def _concepts_of(name: str) -> list[str]:
    if name.startswith("vertebrae") and name != "vertebrae_S1":
        return ["vertebra"]
    if name in ("sacrum", "vertebrae_S1"):
        return ["sacrum"]
    if name.startswith("rib_"):
        return ["rib"]
    stem, _, side = name.rpartition("_")
    for concept, stems in _SIDED.items():
        if side in ("left", "right") and stem in stems:
            return [concept] if concept in _WITHOUT_SIDES else [concept, f"{side}_{concept}"]
    return [concept for concept, label in _SINGLE.items() if label == name]


def read_class_maps(root: Path) -> dict[str, dict[int, str]]:
    """The tool's class maps, read from its source without importing it or running its other code."""
    import ast

    tree = ast.parse((root / "totalsegmentator" / "map_to_binary.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "class_map":
            return {
                key.value: ast.literal_eval(value)
                for key, value in zip(node.value.keys, node.value.values, strict=True)  # type: ignore[attr-defined]
                if isinstance(key, ast.Constant) and key.value in ("total", "total_mr")
            }
    raise InputError(f"Expected a class_map in the source of {PACKAGE} {VERSION}, found none; use that version.")


def volumes(root: Path) -> list[LabelledVolume]:
    """All four subjects, from the unpacked source distribution."""
    files = root / "tests" / "reference_files"
    maps = read_class_maps(root)
    return [
        _abdomen_ct(files, maps["total"]),
        _unseen_ct(files, maps["total"]),
        _abdomen_mr(files, maps["total_mr"]),
        _thorax_ct(files),
    ]


def _masks(label_map: Path, names: dict[int, str]) -> dict[str, np.ndarray]:
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(label_map)))
    return {concept: np.isin(labels, numbers) for concept, numbers in label_ids(names).items()}


def _abdomen_ct(files: Path, names: dict[int, str]) -> LabelledVolume:
    image = sitk.Cast(sitk.ReadImage(str(files / "example_ct.nii.gz")), sitk.sitkInt16)
    count = image.GetSize()[2]
    masks = _masks(files / "example_seg_fast_force_split.nii.gz", names)
    return LabelledVolume(
        dataset=PACKAGE, volume_id="abdomen-ct-a", patient="a", modality="CT", licence=LICENCE, image=image,
        masks_kji=masks, known_slices=(0, count - 1), splits=held_out_slabs(count, period=16, slab=3),
    )  # fmt: skip


def _unseen_ct(files: Path, names: dict[int, str]) -> LabelledVolume:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files / "example_ct_dicom")))
    image = sitk.Cast(reader.Execute(), sitk.sitkInt16)
    label_map = sitk.ReadImage(str(files / "example_seg_dicom.nii.gz"))
    # The tool wrote its mask with the rows reversed; both are put on the image's own grid.
    aligned = sitk.Resample(label_map, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    labels = sitk.GetArrayFromImage(aligned)
    masks = {concept: np.isin(labels, numbers) for concept, numbers in label_ids(names).items()}
    count = image.GetSize()[2]
    return LabelledVolume(
        dataset=PACKAGE, volume_id="abdomen-ct-b", patient="b", modality="CT", licence=LICENCE, image=image,
        masks_kji=masks, known_slices=(0, count - 1), splits=("unseen",) * count,
    )  # fmt: skip


def _abdomen_mr(files: Path, names: dict[int, str]) -> LabelledVolume:
    image = sitk.ReadImage(str(files / "example_mr_sm.nii.gz"))
    count = image.GetSize()[2]
    masks = _masks(files / "example_seg_mr.nii.gz", names)
    return LabelledVolume(
        dataset=PACKAGE, volume_id="abdomen-mr-c", patient="c", modality="MR", licence=LICENCE, image=image,
        masks_kji=masks, known_slices=(0, count - 1), splits=held_out_slabs(count, period=20, slab=2),
    )  # fmt: skip


def _thorax_ct(files: Path) -> LabelledVolume:
    image = sitk.ReadImage(str(files / "aorta_report" / "example_ct.nii.gz"))
    heart = sitk.ReadImage(str(files / "pulmonary_report" / "models" / "heart.nii.gz"))
    cropped = sitk.ReadImage(str(files / "aorta_report" / "test_result" / "models" / "aorta.nii.gz"))
    aorta = sitk.Resample(cropped, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    masks = {"heart": sitk.GetArrayFromImage(heart) > 0, "aorta": sitk.GetArrayFromImage(aorta) > 0}
    # The crop on which the aorta was labelled ends below the top of the image.
    top = cropped.TransformIndexToPhysicalPoint([0, 0, cropped.GetSize()[2] - 1])
    last = image.TransformPhysicalPointToIndex(top)[2]
    return LabelledVolume(
        dataset=PACKAGE, volume_id="thorax-ct-d", patient="d", modality="CT", licence=LICENCE, image=image,
        masks_kji=masks, known_slices=(0, int(last)), absent=NOT_IN_A_THORAX,
        splits=held_out_slabs(image.GetSize()[2], period=32, slab=5, margin=2),
    )  # fmt: skip
