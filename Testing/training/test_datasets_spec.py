"""Descriptions of data sets: complete, checked, and honest about where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from MedicalSAM3Lib.concepts import find_concept
from MedicalSAM3Lib.errors import SettingsError
from Training.dataset_spec import concept_id, load_spec, load_spec_file, published, ready_layouts

PAPER = {
    "covid_qu_ex": (33920, 67839), "chest_xray_masks": (704, 1415), "chest_xray_pneumothorax": (290, 370),
    "btxrd": (3746, 2273), "arcade": (1500, 2316), "busi": (647, 647), "bus_uclm": (264, 281),
    "us_nerve": (2323, 2323), "acouslic": (300, 300), "ps_fh_aop": (4000, 3999), "ct2us_kidney": (4586, 4601),
    "segthy": (59, 130), "cholecseg8k": (8080, 112521), "m2caiseg": (614, 804), "polypgen": (1710, 2003),
    "bkai_neopolyp": (1000, 1117), "kvasir_seg": (1000, 1060), "pannuke": (2540, 21978), "monuseg": (82, 2887),
    "breast_cancer_segmentation": (151, 3495), "glas": (165, 1538), "mucic_colon": (60, 12396),
    "mucic_hl60": (240, 3987), "nucmm_z": (62, 581), "urocell": (5, 163), "pcmmd": (3517, 3519),
    "intraretinal_cystoid_fluid": (1459, 4601), "papila": (488, 488), "coph100": (324, 324), "ravir": (23, 141),
    "drive": (20, 20), "isic_2018": (2594, 2594), "fetoplac": (483, 994),
}  # fmt: skip
"""Table 1 of the paper: images and annotations."""


def test_the_training_data_are_those_of_table_1() -> None:
    specs = [load_spec(name) for name in published()]
    found = {s.name: (s.counts.images, s.counts.annotations) for s in specs if s.role == "training"}
    assert found == PAPER


@pytest.mark.parametrize("name", published())
def test_a_description_says_everything_a_person_needs(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    assert spec.home.startswith("http")
    assert spec.source is not None
    assert spec.source.kind in ("looked up", "inferred")
    assert spec.group
    assert spec.modality
    for concept in spec.concepts():
        assert concept == concept.lower().strip()
        assert concept_id(concept).replace("_", "a").isalnum()
        assert find_concept(concept) is not None, concept


def test_ready_layouts_need_a_name_of_their_own_only() -> None:
    expected = {"nnunet_raw", "medical_decathlon", "one_nifti_per_structure", "slicer_segmentations", "coco"}
    assert set(ready_layouts()) == expected | {"image_mask_folders", "image_mask_volumes"}
    for name in ready_layouts():
        assert load_spec(name).role == "own"


def written(tmp_path: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "name": "mine",
        "title": "Mine",
        "licence": "own",
        "layouts": [{"kind": "pairs", "image": "{id}.png", "mask": "{id}_m.png"}],
        **changes,
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def test_the_smallest_description_is_enough(tmp_path: Path) -> None:
    spec = load_spec_file(written(tmp_path))
    assert spec.concepts_of("left_kidney") == ("left kidney",)
    assert [spec.concepts_of(label) for label in ("inside", "1", "#ff0000")] == [None] * 3
    assert spec.concepts() == ()


def test_a_dictionary_says_what_is_ignored_and_what_is_unknown(tmp_path: Path) -> None:
    spec = load_spec_file(written(tmp_path, labels={1: "liver", 2: ["liver", "tumor"]}, ignored=[0]))
    assert [spec.concepts_of(label) for label in ("1", "2", "0", "3")] == [("liver",), ("liver", "tumor"), (), None]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "My Data"}, "name"),
        ({"layouts": []}, "layouts"),
        ({"layouts": [{"kind": "pears", "image": "a", "mask": "b"}]}, "layouts"),
        ({"layouts": [{"kind": "pairs", "image": "{id", "mask": "b"}]}, "layouts"),
        ({"layouts": [{"kind": "pairs", "image": "a", "mask": "b", "from": "binary"}]}, "layouts"),
        ({"surprise": 1}, "surprise"),
        ({"role": "training"}, "expected home"),
        ({"labels": {1: "liver"}, "ignored": [1]}, "each label once"),
        ({"states": {"not_shown": "perhaps"}}, "states"),
        ({"licence": None}, "licence"),
        ({"labels": {1: "kidney", 2: "renal parenchyma"}}, "which mean the same"),
        ({"extends": "nnunet"}, "extends"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=key):
        load_spec_file(written(tmp_path, **changes))


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "\x00"])
def test_what_is_no_description_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(SettingsError, match="YAML file"):
        load_spec_file(tmp_path / "x.yaml")
    with pytest.raises(SettingsError, match="cannot read"):
        load_spec_file(tmp_path / "nowhere.yaml")


def test_a_name_that_nobody_knows_lists_those_that_are_known() -> None:
    with pytest.raises(SettingsError, match=r"kvasir_seg.*nnunet_raw"):
        load_spec("kvasir")
