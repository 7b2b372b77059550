"""Data sets become manifests: files, states, splits, cards, and a manifest only where everything is sound."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.files import read_volume
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.stack import prepare as prepare_stack
from Testing.training import trees_colour, trees_microscopy, trees_radiology
from Testing.training.dataset_trees import Builder, Tree, box
from Training import prepare
from Training.collate import LabelState
from Training.config import DataConfig
from Training.data import PictureSource, TrainingData
from Training.dataset_files import pseudonym
from Training.manifest import Manifest, read_manifest
from Training.manifest_files import check_files
from Training.splits import read_split
from Training.transforms import NO_AUGMENTATION
from Training.volumes import load_volumes

TREES: dict[str, Builder] = {**trees_radiology.TREES, **trees_colour.TREES, **trees_microscopy.TREES}


def run(name: str, tmp_path: Path, *more: str) -> int:
    """Write a data set's tree (once) and prepare it."""
    source, out = tmp_path / "source", tmp_path / "out"
    if not source.exists():
        TREES[name](Tree(source))
    return prepare.main([name, "--source", str(source), "--out", str(out), *more])


def prepared(name: str, tmp_path: Path) -> Manifest:
    assert run(name, tmp_path) == 0
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    check_files(manifest)
    return manifest


def states(manifest: Manifest) -> Counter[tuple[str, str]]:
    return Counter((row.concept, row.label_state) for row in manifest.rows)


def test_pictures_stay_as_they_are_and_masks_lie_on_them(tmp_path: Path) -> None:
    manifest = prepared("kvasir_seg", tmp_path)
    assert states(manifest) == {("polyp", "present"): 2, ("polyp", "absent"): 1}
    source = tmp_path / "source" / "Kvasir-SEG" / "images"
    for row in manifest.rows:
        assert (
            manifest.path(row.image).read_bytes()
            == (source / Path(row.image).name.removeprefix("images_")).read_bytes()
        )
        assert (row.modality, row.axis, row.slice_index, row.licence) == ("RGB", 2, 0, "research and educational use")
        if row.mask:
            assert read_volume(manifest.path(row.mask)).array.shape == (1, 32, 48)


def test_nothing_is_said_about_what_nobody_looked_for(tmp_path: Path) -> None:
    manifest = prepared("urocell", tmp_path)
    found = {(row.volume_id, row.concept) for row in manifest.rows}
    assert {concept for volume, concept in found if volume.endswith("1-1-0-3")} == {"mitochondrion"}
    assert {concept for volume, concept in found if volume.endswith("0-0-0")} == {
        "mitochondrion", "golgi_apparatus", "endolysosome",
    }  # fmt: skip
    assert states(manifest)["endolysosome", "absent"] == 4
    assert not any(concept == "fusiform_vesicle" for _, concept in found)


def test_unlabelled_frames_of_a_sweep_have_no_rows(tmp_path: Path) -> None:
    manifest = prepared("acouslic", tmp_path)
    assert states(manifest) == {("fetal_abdomen", "present"): 3}
    assert sorted(row.slice_index for row in manifest.rows) == [0, 1, 3]
    assert {row.modality for row in manifest.rows} == {"US"}


def test_training_reads_a_prepared_volume(tmp_path: Path) -> None:
    manifest = prepared("urocell", tmp_path)
    concepts = ("golgi_apparatus", "endolysosome", "mitochondrion")
    first, second = load_volumes(manifest, concepts, PreprocessSpec(image_size=48))
    assert np.array_equal(np.flatnonzero(first.coverage.mask(2).any(axis=(1, 2))), [0, 1])
    assert set(second.states[:, :2].ravel()) == {LabelState.UNKNOWN}
    assert set(first.states[:, 1]) == {LabelState.ABSENT}


@pytest.mark.parametrize(("name", "side"), [("kvasir_seg", 96), ("us_nerve", 96), ("bkai_neopolyp", 24)])
def test_training_sees_a_prepared_picture_as_inference_does(name: str, side: int, tmp_path: Path) -> None:
    """Colour and grey, enlarged and shrunk."""
    manifest = prepared(name, tmp_path)
    spec = PreprocessSpec(image_size=side)
    source = PictureSource(load_volumes(manifest, manifest.concepts(), spec), manifest.concepts(), spec, "train")
    assert source.slices()
    for volume, number in source.slices():
        picture = source.picture(volume, number, NO_AUGMENTATION, np.random.default_rng(0))
        image = read_volume(manifest.path(manifest.of_volume(volume.volume_id)[0].image))
        wanted = prepare_stack(image, spec, SegmentSettings()).batch(slice(0, 1), torch.device("cpu"))[0]
        # Not at the very edge, where training lets what lies beyond the picture shine through.
        within = (slice(None), slice(side // 6 + 2, -side // 6 - 2), slice(2, -2))
        torch.testing.assert_close(picture.image[within], wanted[within], atol=2e-5, rtol=0)
        assert picture.cover.any() == (LabelState.PRESENT in volume.states[number])


@pytest.mark.parametrize(("name", "modality"), [("ps_fh_aop", "RGB"), ("us_nerve", "GREY"), ("segthy", "US")])
def test_the_modality_is_what_inference_will_take_the_file_for(name: str, modality: str, tmp_path: Path) -> None:
    assert {row.modality for row in prepared(name, tmp_path).rows} == {modality}


def test_numbers_tell_objects_apart_that_touch(tmp_path: Path) -> None:
    manifest = prepared("glas", tmp_path)
    mask = read_volume(manifest.path(manifest.rows[0].mask)).array
    assert np.unique(mask).tolist() == [0, 1, 2, 3]
    assert "| annotations (counted: objects) | 9 | 1,538 | differs |" in (tmp_path / "out" / "README.md").read_text()


def test_tiles_become_pictures(tmp_path: Path) -> None:
    manifest = prepared("pannuke", tmp_path)
    assert len({row.image for row in manifest.rows}) == 6
    assert len(manifest.rows) == 6 * 5
    tiles = np.load(tmp_path / "source" / "Fold 1" / "images" / "fold1" / "images.npy")
    first = min(row.image for row in manifest.rows)
    assert np.array_equal(read_volume(manifest.path(first)).array[0], tiles[0])


def test_external_data_are_never_trained_on(tmp_path: Path) -> None:
    assert {row.split for row in prepared("tn3k", tmp_path).rows} == {"unseen"}


def test_patients_are_pseudonyms_and_stay_together(tmp_path: Path) -> None:
    manifest = prepared("us_nerve", tmp_path)
    assert {row.patient for row in manifest.rows} == {pseudonym("us_nerve", "1"), pseudonym("us_nerve", "2")}
    assert pseudonym("us_nerve", "1") != pseudonym("busi", "1")
    by_patient: dict[str, set[str]] = {}
    for row in manifest.rows:
        by_patient.setdefault(row.patient, set()).add(row.split)
    assert all(len(splits) == 1 for splits in by_patient.values())


def test_copies_of_one_image_are_in_one_split(tmp_path: Path) -> None:
    manifest = prepared("busi", tmp_path)
    copies = [
        row for row in manifest.rows if Path(row.image).stem.endswith(("_1_", "_9_")) and "normal" not in row.image
    ]
    assert len(copies) == 2
    assert len({row.sha256 for row in copies}) == 1
    assert len({row.split for row in copies}) == 1


def test_a_second_run_follows_the_frozen_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared("us_nerve", tmp_path)
    split = tmp_path / "out" / "split.json"
    before = split.read_bytes()
    assert run("us_nerve", tmp_path) == 0
    assert split.read_bytes() == before
    Tree(tmp_path / "source").image("train/9_1.tif", colour=False)
    Tree(tmp_path / "source").binary("train/9_1_mask.tif", box(0, 0, 1, 1))
    assert run("us_nerve", tmp_path) == 2
    assert "got 1 others" in capsys.readouterr().err


def test_a_split_from_elsewhere_is_followed(tmp_path: Path) -> None:
    prepared("us_nerve", tmp_path)
    elsewhere = tmp_path / "frozen.json"
    splits = read_split(tmp_path / "out" / "split.json", "us_nerve")
    (tmp_path / "out" / "split.json").rename(elsewhere)
    assert run("us_nerve", tmp_path, "--split", str(elsewhere)) == 0
    assert read_split(tmp_path / "out" / "split.json", "us_nerve") == splits


def test_a_split_that_is_not_there_is_no_reason_to_divide_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("us_nerve", tmp_path, "--split", str(tmp_path / "nowhere.json")) == 2
    assert "cannot read nowhere.json" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.parquet").exists()


def test_the_card_names_what_differs_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared("chest_xray_masks", tmp_path)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| images | 2 | 704 | differs |" in card
    assert "- missing mask: 1" in card
    assert "| lung | 2 | 0 |" in card
    assert "United States National Library of Medicine" in card
    assert (tmp_path / "out" / "card.png").read_bytes()[:4] == b"\x89PNG"
    said = capsys.readouterr().out
    assert "2 images, published are 704" in said
    assert "split: 1 train, 1 val" in said


def test_one_wrong_file_stops_everything_unless_it_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("m2caiseg", tmp_path) == 2
    assert "got 1 that do not" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert run("m2caiseg", tmp_path, "--leave-out") == 0
    assert "- size: 1" in (tmp_path / "out" / "README.md").read_text()
    assert len({row.image for row in read_manifest(tmp_path / "out" / "manifest.parquet").rows}) == 2


def test_a_label_that_is_not_in_the_dictionary_stops_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TREES["ravir"](Tree(tmp_path / "source"))
    Tree(tmp_path / "source").picture("train/training_masks/IR_Case_011.png", np.full((32, 48), 64, np.uint8))
    (tmp_path / "source" / "train" / "training_masks" / "IR_Case_011.png").replace(
        tmp_path / "source" / "RAVIR Dataset" / "train" / "training_masks" / "IR_Case_011.png"
    )
    assert run("ravir", tmp_path) == 2
    assert "not in the dictionary: 64" in capsys.readouterr().err


def test_ones_own_data_need_a_short_file(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "source")
    for name in ("a", "b"):
        tree.image(f"images/{name}.png")
        tree.binary(f"masks/{name}.png", box(0, 0, 1, 1))
    described = tmp_path / "mine.yaml"
    described.write_text(
        "extends: image_mask_folders\nname: mine\ntitle: Mine\nlicence: own\nlabels: {inside: polyp}\n"
    )
    arguments = ["--yaml", str(described), "--source", str(tmp_path / "source"), "--out", str(tmp_path / "out")]
    assert prepare.main(arguments) == 0
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert {(row.dataset, row.concept, row.phrase) for row in manifest.rows} == {("mine", "polyp", "polyp")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kvasir_seg"], "Expected --source"),
        (["kvasir_seg", "--yaml", "x.yaml", "--source", "."], "got both"),
        (["nobody", "--source", "."], "Expected the name of a data set"),
        (["kvasir_seg", "--source", "nowhere", "--out", "out"], "a path that is none"),
        (["--check", "--source", "."], "folders with names of data sets"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_images_of_another_data_set_are_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TREES["drive"](Tree(tmp_path))
    assert prepare.main(["kvasir_seg", "--source", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "Expected images of Kvasir-SEG like images/{id}.jpg, found none" in capsys.readouterr().err


def test_all_data_sets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 41
    assert "kvasir_seg: Kvasir-SEG (Endoscopy; research and educational use)" in out


def test_one_run_draws_batches_from_several_data_sets(tmp_path: Path) -> None:
    manifests = []
    for name in ("kvasir_seg", "us_nerve", "urocell"):
        prepared(name, tmp_path / name)
        manifests.append(str(tmp_path / name / "out" / "manifest.parquet"))
    merged = tmp_path / "all.parquet"
    assert prepare.main(["--merge", *manifests, "--out", str(merged)]) == 0
    spec = PreprocessSpec(image_size=32)
    data = TrainingData.load(DataConfig(manifest=str(merged), batch_slices=8, preprocess=spec))
    assert set(data.concepts) == {"polyp", "brachial_plexus", "mitochondrion", "golgi_apparatus", "endolysosome"}
    batch = data.source("train", seed=0).batch(0)
    assert batch.images.shape == (8, 3, 32, 32)
    assert torch.isfinite(batch.images).all()
    assert {volume.modality for volume in data.volumes} == {"RGB", "GREY", "GM"}
