"""Checking without writing: every fault is found, in every data set at once, and named by its file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from MedicalSAM3Lib.files import read_volume
from Testing.training import trees_colour, trees_microscopy, trees_radiology
from Testing.training.dataset_trees import Builder, Tree, box, pattern
from Training import prepare
from Training.adapters.families import open_tree
from Training.dataset_check import Report, check_trees, lines_of
from Training.dataset_hashes import Print, look_alikes, look_of
from Training.dataset_spec import load_spec
from Training.splits import write_split

TREES: dict[str, Builder] = {**trees_radiology.TREES, **trees_colour.TREES, **trees_microscopy.TREES}


def kvasir(root: Path) -> Tree:
    tree = Tree(root)
    TREES["kvasir_seg"](tree)
    return tree


def check(root: Path, name: str = "kvasir_seg") -> Report:
    (report,) = check_trees([(root, load_spec(name))])
    return report


def kinds(report: Report) -> list[str]:
    return [problem.kind for problem in report.problems]


def test_a_sound_tree_is_sound_and_untouched(tmp_path: Path) -> None:
    kvasir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    report = check(tmp_path)
    assert report.is_sound
    assert (report.cases, report.problems) == (3, ())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_each_fault_is_found_and_named(tmp_path: Path) -> None:
    tree = kvasir(tmp_path)
    for name in ("lonely", "cut", "small"):
        tree.image(f"Kvasir-SEG/images/{name}.jpg")
    tree.binary("Kvasir-SEG/masks/other.jpg", box(0, 0, 1, 1))
    tree.picture("Kvasir-SEG/masks/small.jpg", np.zeros((16, 16), np.uint8))
    tree.binary("Kvasir-SEG/masks/cut.jpg", box(0, 0, 1, 1))
    whole = tree.path("Kvasir-SEG/images/cut.jpg").read_bytes()
    tree.path("Kvasir-SEG/images/cut.jpg").write_bytes(whole[: len(whole) // 2])
    report = check(tmp_path)
    assert not report.is_sound
    assert report.cases == 3
    named = {problem.kind: problem.path for problem in report.problems}
    assert named == {
        "missing mask": "Kvasir-SEG/images/lonely.jpg",
        "missing image": "Kvasir-SEG/masks/other.jpg",
        "unreadable": "Kvasir-SEG/images/cut.jpg",
        "size": "Kvasir-SEG/images/small.jpg",
    }


def test_labels_that_the_dictionary_does_not_know_are_named(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.image("train/training_images/a.png", colour=False)
    tree.picture("train/training_masks/a.png", (77 * box(0, 0, 1, 1)).astype(np.uint8))
    report = check(tmp_path, "ravir")
    assert [(problem.kind, problem.text) for problem in report.problems] == [("label", "not in the dictionary: 77")]
    assert not report.is_sound


def test_an_empty_or_strange_folder_is_not_sound(tmp_path: Path) -> None:
    report = check(tmp_path)
    assert (report.is_sound, kinds(report)) == (False, ["unreadable"])
    Tree(tmp_path).image("pictures/a.jpg")
    report = check(tmp_path)
    assert (report.is_sound, kinds(report)) == (False, ["unreadable"])
    assert "found none among 1 files such as pictures/a.jpg" in report.problems[0].text


def test_images_without_any_mask_are_all_reported(tmp_path: Path) -> None:
    Tree(tmp_path).image("images/a.jpg")
    report = check(tmp_path)
    assert (report.is_sound, report.cases, kinds(report)) == (False, 0, ["missing mask"])


def test_copies_are_found_within_and_look_alikes_across_data_sets(tmp_path: Path) -> None:
    tree = kvasir(tmp_path / "kvasir_seg")
    array = pattern("x", (64, 96), colour=True)
    for name in ("x", "y"):
        tree.picture(f"Kvasir-SEG/images/{name}.jpg", array)
        tree.binary(f"Kvasir-SEG/masks/{name}.jpg", box(0, 0, 1, 1, (64, 96)))
    other = Tree(tmp_path / "etis_larib")
    other.picture("images/1.png", np.asarray(Image.fromarray(array).resize((192, 128), Image.Resampling.BICUBIC)))
    other.picture("masks/1.png", np.zeros((128, 192), np.uint8))
    names = ("kvasir_seg", "etis_larib")
    first, second = check_trees([(tmp_path / name, load_spec(name)) for name in names])
    assert [(p.path, p.text) for p in first.problems] == [
        ("Kvasir-SEG/images/y.jpg", "the same file as Kvasir-SEG/images/x.jpg of kvasir_seg")
    ]
    assert [(p.path, p.text) for p in second.problems] == [
        ("images/1.png", "looks like Kvasir-SEG/images/x.jpg of kvasir_seg")
    ]
    assert first.is_sound
    assert second.is_sound


def test_one_file_in_two_data_sets_is_named_once(tmp_path: Path) -> None:
    first, second = Tree(tmp_path / "etis_larib"), Tree(tmp_path / "cvc_clinicdb")
    for tree, names in ((first, ("images/1.png", "masks/1.png")), (second, ("Original/7.png", "Ground Truth/7.png"))):
        tree.picture(names[0], pattern("shared", (64, 96), colour=True))
        tree.binary(names[1], box(0, 0, 1, 1, (64, 96)))
    reports = check_trees([(tree.root, load_spec(tree.root.name)) for tree in (first, second)])
    assert [[(p.path, p.text) for p in report.problems] for report in reports] == [
        [],
        [("Original/7.png", "the same file as images/1.png of etis_larib")],
    ]


def test_the_look_of_a_picture_survives_what_mirrors_do_to_it(tmp_path: Path) -> None:
    array = pattern("x", (64, 96), colour=True)
    versions = {
        "same.png": array,
        "larger.jpg": np.asarray(Image.fromarray(array).resize((192, 128), Image.Resampling.BICUBIC)),
        "darker.png": (array // 2).astype(np.uint8),
        "mirrored.png": array[:, ::-1],
        "other.png": pattern("y", (64, 96), colour=True),
    }
    prints = []
    for name, version in versions.items():
        Image.fromarray(np.ascontiguousarray(version)).save(tmp_path / name, quality=60)
        prints.append(Print(name, name, "", look_of(read_volume(tmp_path / name))))
    alike = {one.path: other.path for one, other in look_alikes(prints)}
    assert alike == {"larger.jpg": "same.png", "darker.png": "same.png"}


def test_plain_pictures_are_no_copies_though_the_same_neighbours_are_brighter(tmp_path: Path) -> None:
    """One bright edge in each, at the same place: the bits agree, the pictures do not."""
    left = np.full((64, 96), 100, np.uint8)
    left[:, 48:] = 200
    low = left.copy()
    low[40:, :48], low[40:, 48:] = 10, 12
    prints = []
    for name, array in (("left.png", left), ("low.png", low)):
        Image.fromarray(array).save(tmp_path / name)
        prints.append(Print(name, name, "", look_of(read_volume(tmp_path / name))))
    assert look_alikes(prints) == []
    assert [one.path for one, _ in look_alikes([prints[0], Print("copy", "copy", "", prints[0].look)])] == ["copy"]
    Image.fromarray(np.full((64, 96), 7, np.uint8)).save(tmp_path / "flat.png")
    assert look_of(read_volume(tmp_path / "flat.png")) == ""
    assert look_alikes([]) == []


def test_patients_in_two_splits_are_counted(tmp_path: Path) -> None:
    TREES["us_nerve"](Tree(tmp_path))
    spec = load_spec("us_nerve")
    frozen = {"us_nerve": {"train_1_1": "train", "train_1_2": "val"}}
    (report,) = check_trees([(tmp_path, spec)], frozen)  # type: ignore[arg-type]
    assert [(problem.kind, problem.text[:1]) for problem in report.problems] == [("patient", "1"), ("split", "1")]
    assert not report.is_sound


def test_patients_in_two_published_splits_are_remarked(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for split in ("train", "val"):
        tree.image(f"{split}/anna_{split}.png")
        tree.binary(f"{split}/anna_{split}_m.png", box(0, 0, 1, 1))
    spec = load_spec("kvasir_seg").model_copy(update={"patient": "{p}"})
    layout = spec.layouts[0].model_copy(
        update={"image": ("{split}/{p:[a-z]+}_{n}.png",), "mask": ("{split}/{p:[a-z]+}_{n}_m.png",)}
    )
    (report,) = check_trees([(tmp_path, spec.model_copy(update={"layouts": (layout,)}))])
    assert kinds(report) == ["split"]
    assert report.is_sound


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    tree = kvasir(tmp_path)
    for number in range(8):
        tree.image(f"Kvasir-SEG/images/lonely{number}.jpg")
    lines = list(lines_of(check(tmp_path)))
    assert lines[0] == "kvasir_seg: sound, 3 images (Table 1: 1,000)"
    assert lines[1] == "  missing mask: 8"
    assert lines[-1] == "    ... and 3 more"
    assert len(lines) == 8


def test_the_command_checks_one_or_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("kvasir_seg", "drive"):
        TREES[name](Tree(tmp_path / name))
    assert prepare.main(["--check", "kvasir_seg", "--source", str(tmp_path / "kvasir_seg")]) == 0
    assert prepare.main(["--check", "--source", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": sound") == 3
    (tmp_path / "drive" / "DRIVE" / "training" / "images" / "21_training.tif").write_bytes(b"no picture")
    assert prepare.main(["--check", "--source", str(tmp_path)]) == 1
    assert "drive: NOT SOUND, 1 images (Table 1: 20)" in capsys.readouterr().out


def test_the_command_checks_a_frozen_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TREES["us_nerve"](Tree(tmp_path / "us_nerve"))
    splits = {"train_1_1": "train", "train_1_2": "val", "train_2_1": "train"}
    write_split(tmp_path / "split.json", "us_nerve", splits)  # type: ignore[arg-type]
    arguments = ["--check", "us_nerve", "--source", str(tmp_path / "us_nerve"), "--split", str(tmp_path / "split.json")]
    assert prepare.main(arguments) == 1
    assert "1 patients in several splits" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(TREES))
@pytest.mark.parametrize("which", ["image", "labels"])
def test_a_damaged_file_of_any_kind_is_reported_and_stops_nothing(name: str, which: str, tmp_path: Path) -> None:
    TREES[name](Tree(tmp_path))
    before = check(tmp_path, name)
    bad = {problem.path for problem in before.problems}
    cases = open_tree(tmp_path, load_spec(name)).index.cases
    files = next(files for files in cases if files.image not in bad and (files.masks or files.details))
    damaged = files.image if which == "image" else files.masks[0].path if files.masks else ""
    if not damaged:  # annotations of COCO lie in one file for all images
        damaged = next(path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.json")))
    path = tmp_path / damaged
    path.write_bytes(b"\x00damaged\xff" + path.read_bytes()[:7])
    after = check(tmp_path, name)
    assert not after.is_sound
    # Where a data set holds an image twice, the copy takes the place of the damaged one.
    assert after.cases < before.cases + (name == "m2caiseg")
    assert Counter(kinds(after))["unreadable"] + Counter(kinds(after))["size"] > Counter(kinds(before))["size"]
