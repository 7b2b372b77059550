"""Adapters on made-up packages: the right labels, the right grid, the right slices held out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.errors import InputError
from Testing.training.data_world import image_of
from Training.adapters import slicerio_package, totalsegmentator_package
from Training.adapters.labelled import held_out_slabs
from Training.adapters.totalsegmentator_package import label_ids, read_class_maps

CLASS_MAP = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver", 10: "heart", 52: "aorta", 91: "rib_left_1"}
SOURCE = f"import nothing_like_this\nclass_map = {{'total': {CLASS_MAP}, 'total_mr': {{7: 'liver'}}, 'x': 1 + 1}}\n"


@pytest.mark.parametrize(("count", "period", "slab", "margin"), [(100, 16, 3, 1), (191, 32, 5, 2), (20, 20, 2, 1)])
def test_slabs_are_held_out_in_turn_with_margins(count: int, period: int, slab: int, margin: int) -> None:
    splits = held_out_slabs(count, period, slab, margin)
    assert len(splits) == count
    runs = [split for k, split in enumerate(splits) if k == 0 or split != splits[k - 1]]
    held_out = [split for split in runs if split in ("val", "test")]
    assert held_out == ["val", "test"] * (len(held_out) // 2) + ["val"] * (len(held_out) % 2)
    assert held_out
    for k in range(count):
        if splits[k] in ("val", "test"):
            near = splits[max(0, k - margin) : k + margin + 1]
            assert set(near) <= {splits[k], ""}
    for split in ("val", "test"):
        assert splits.count(split) == slab * held_out.count(split)
    assert splits.count("") == 2 * margin * len(held_out)
    assert splits.count("train") > count / 2


def test_a_slab_that_does_not_fit_is_left_out() -> None:
    assert held_out_slabs(4, period=8, slab=3) == ("train",) * 4


def test_labels_become_concepts_with_and_without_sides() -> None:
    names = {
        1: "spleen", 2: "kidney_right", 3: "kidney_left", 4: "lung_upper_lobe_left", 5: "lung_lower_lobe_left",
        6: "lung_middle_lobe_right", 7: "vertebrae_L1", 8: "vertebrae_S1", 9: "sacrum", 10: "rib_right_12",
        11: "gluteus_maximus_left", 12: "gluteus_minimus_right", 13: "autochthon_left", 14: "hip_right",
        15: "portal_vein_and_splenic_vein", 16: "kidney_cyst_left", 17: "vertebrae", 18: "brain",
        19: "costal_cartilages", 20: "lung_right", 21: "iliac_vena_left",
    }  # fmt: skip
    assert label_ids(names) == {
        "spleen": [1],
        "kidney": [2, 3],
        "right_kidney": [2],
        "left_kidney": [3],
        "lung": [4, 5, 6, 20],
        "left_lung": [4, 5],
        "right_lung": [6, 20],
        "vertebra": [7, 17],
        "sacrum": [8, 9],
        "rib": [10],
        "gluteal_muscle": [11, 12],
        "back_muscle": [13],
        "left_back_muscle": [13],
        "hip_bone": [14],
        "right_hip_bone": [14],
        "portal_vein": [15],
        "costal_cartilage": [19],
        "iliac_vein": [21],
    }


def test_every_concept_of_the_adapters_is_in_the_vocabulary() -> None:
    known = {concept.concept_id for concept in load_concepts()}
    package = totalsegmentator_package
    assert {*package._SIDED, *package._SINGLE, *package.NOT_IN_A_THORAX, *slicerio_package._LABELS} <= known
    sided = set(package._SIDED) - set(package._WITHOUT_SIDES)
    assert {f"{side}_{concept}" for side in ("left", "right") for concept in sided} <= known


def write_source(root: Path, text: str = SOURCE) -> None:
    (root / "totalsegmentator").mkdir(parents=True)
    (root / "totalsegmentator" / "map_to_binary.py").write_text(text)


def test_class_maps_are_read_without_running_the_tool(tmp_path: Path) -> None:
    write_source(tmp_path)
    assert read_class_maps(tmp_path) == {"total": CLASS_MAP, "total_mr": {7: "liver"}}


def test_a_source_without_class_maps_is_refused(tmp_path: Path) -> None:
    write_source(tmp_path, "classes = {}\n")
    with pytest.raises(InputError, match="class_map in the source"):
        read_class_maps(tmp_path)


def write(array: np.ndarray, *parts: str | Path) -> sitk.Image:
    path = Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image_of(array)
    sitk.WriteImage(image, str(path))
    return image


def write_dicom(folder: Path, array: np.ndarray) -> None:
    """A CT series whose file names run against the slices."""
    folder.mkdir(parents=True)
    for k, plane in enumerate(array):
        image = sitk.GetImageFromArray(plane[None].astype(np.int16))
        image.SetSpacing((2.0, 2.0, 2.0))
        image.SetOrigin((0.0, 0.0, 2.0 * k))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3.4", "0020|0032": f"0\\0\\{2 * k}", "0020|0013": str(k)}
        for tag, value in {**tags, "0020|0037": "1\\0\\0\\0\\1\\0", "0020|000d": "1.2.3"}.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{9 - k}.dcm"))
        writer.Execute(image)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder of a source distribution with four small subjects."""
    write_source(tmp_path)
    files = tmp_path / "tests" / "reference_files"
    labels = np.zeros((40, 8, 9), np.uint8)
    labels[5:20, 2:4, 2:4], labels[:, 5, 6], labels[:, 5, 2] = 5, 3, 2
    hu = np.full(labels.shape, 30.0, np.float32)
    write(hu, files, "example_ct.nii.gz")
    write(labels, files, "example_seg_fast_force_split.nii.gz")
    slices = np.arange(4)[:, None, None] * np.ones((4, 8, 9)) * 10
    write_dicom(files / "example_ct_dicom", slices)
    # The mask of the second subject is stored with its rows reversed.
    flipped = sitk.Flip(image_of(labels[5:9]), [False, True, False])
    sitk.WriteImage(flipped, str(files / "example_seg_dicom.nii.gz"))
    write(hu, files, "example_mr_sm.nii.gz")
    write(np.where(labels == 5, 7, 0).astype(np.uint8), files, "example_seg_mr.nii.gz")
    write(hu, files, "aorta_report", "example_ct.nii.gz")
    write((labels == 5).astype(np.uint8), files, "pulmonary_report", "models", "heart.nii.gz")
    aorta = image_of((labels == 3).astype(np.uint8))[:, :, 4:30]
    models = files / "aorta_report" / "test_result" / "models"
    models.mkdir(parents=True)
    sitk.WriteImage(aorta, str(models / "aorta.nii.gz"))
    return tmp_path


def test_four_people_come_out_of_the_source_distribution(package: Path) -> None:
    a, b, c, d = totalsegmentator_package.volumes(package)
    assert [volume.patient for volume in (a, b, c, d)] == ["a", "b", "c", "d"]
    assert [volume.modality for volume in (a, b, c, d)] == ["CT", "CT", "MR", "CT"]
    assert a.masks_kji["liver"][5:20, 2:4, 2:4].all()
    assert a.masks_kji["liver"].sum() == 15 * 4
    assert np.array_equal(a.masks_kji["kidney"], a.masks_kji["left_kidney"] | a.masks_kji["right_kidney"])
    assert not a.masks_kji["spleen"].any()
    assert set(b.splits) == {"unseen"}
    assert sitk.GetArrayFromImage(b.image)[:, 0, 0].tolist() == [0, 10, 20, 30]
    assert np.array_equal(b.masks_kji["liver"], a.masks_kji["liver"][5:9])
    assert set(c.masks_kji) == {"liver"}
    assert c.masks_kji["liver"].sum() == 15 * 4
    assert {"train", "val"} <= set(a.splits)


def test_an_organ_that_was_labelled_on_a_crop_is_known_there_only(package: Path) -> None:
    thorax = totalsegmentator_package.volumes(package)[3]
    assert thorax.known_slices == (0, 29)
    assert np.argwhere(thorax.masks_kji["aorta"])[:, 0].tolist() == list(range(4, 30))
    assert set(thorax.absent).isdisjoint(thorax.masks_kji)


def test_the_chest_comes_out_of_the_wheel(tmp_path: Path) -> None:
    labels = np.zeros((34, 8, 8), np.uint8)
    for number in range(1, 8):
        labels[:, number, number] = number
    folder = tmp_path / "slicerio" / "data"
    write(np.zeros(labels.shape, np.int16), folder, "CTChest4.nrrd")
    write(labels, folder, "labels.nrrd")
    shutil.move(folder / "labels.nrrd", folder / "Segmentation.seg.nrrd")
    (chest,) = slicerio_package.volumes(tmp_path)
    for concept, numbers in {"rib": [1], "vertebra": [2, 3, 4], "lung": [5, 6], "left_lung": [6]}.items():
        assert np.array_equal(chest.masks_kji[concept], np.isin(labels, numbers)), concept
    assert {"train", "val", "test", ""} == set(chest.splits)
    assert set(chest.absent).isdisjoint(chest.masks_kji)
