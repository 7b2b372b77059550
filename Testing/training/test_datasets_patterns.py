"""Path patterns: what fits, what belongs together, and what is no pattern."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from MedicalSAM3Lib.errors import InputError
from Training.adapters.case import case_ids
from Training.adapters.patterns import compile_pattern, fill, list_files

NAME = st.text(st.characters(categories=("L", "N"), include_characters=" ()-_"), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("pattern", "path", "values"),
    [
        ("images/{id}.jpg", "images/a.jpg", {"root": "", "id": "a"}),
        ("images/{id}.jpg", "Kvasir-SEG/Kvasir-SEG/images/a.b.JPG", {"root": "Kvasir-SEG/Kvasir-SEG/", "id": "a.b"}),
        ("{id}/{id}_lesion/{id}_lesion.bmp", "x/I2/I2_lesion/i2_LESION.bmp", {"root": "x/", "id": "I2"}),
        ("{p:[0-9]{3}}_{view:[0-9]*}HC.png", "010_HC.png", {"root": "", "p": "010", "view": ""}),
        ("{id}.{ext:png|jpg}", "benign (4).png", {"root": "", "id": "benign (4)", "ext": "png"}),
    ],
)
def test_a_path_that_fits_gives_its_parts(pattern: str, path: str, values: dict[str, str]) -> None:
    found = compile_pattern(pattern).match(path)
    assert found is not None
    assert found.values == values


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("images/{id}.jpg", "images/sub/a.jpg"),
        ("images/{id}.jpg", "images/a.jpeg"),
        ("images/{id}.jpg", "myimages/a.jpg"),
        ("{id}/{id}.png", "a/b.png"),
        ("{n:[0-9]+}.png", "a.png"),
    ],
)
def test_a_path_that_does_not_fit_gives_nothing(pattern: str, path: str) -> None:
    assert compile_pattern(pattern).match(path) is None


@pytest.mark.parametrize("text", ["{id", "id}", "{ID}.png", "{id:(}.png", "{}.png"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        compile_pattern(text)


@given(NAME, NAME)
def test_what_a_name_says_comes_back(folder: str, name: str) -> None:
    found = compile_pattern("{folder}/masks/{id}_mask.png").match(f"top/{folder}/masks/{name}_mask.png")
    assert found is not None
    assert (found.values["folder"], found.values["id"]) == (folder, name)


def test_a_template_with_a_missing_part_is_empty() -> None:
    assert fill("{a}-{b}", {"a": "1", "b": "2"}) == "1-2"
    assert fill("{a}-{b}", {"a": "1"}) == ""
    assert fill("{a}", {"a": ""}) == ""


def test_files_are_listed_in_order_without_what_systems_leave_behind(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", ".git/x", "a/.DS_Store", "__MACOSX/a/._1.png", "a/Thumbs.db"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list_files(tmp_path) == ["a/1.png", "b/2.png"]


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty folder"):
        list_files(tmp_path)
    with pytest.raises(InputError, match="a path that is none"):
        list_files(tmp_path / "nowhere")


def test_ids_do_not_depend_on_where_a_tree_was_unpacked() -> None:
    assert case_ids([("any/train/a (1).png", "any/"), ("any/train/b.nii.gz", "any/")]) == ["train_a__1_", "train_b"]
    assert case_ids([("x/1.png", "x/"), ("y/1.png", "y/"), ("y/2.png", "y/")]) == ["x_1", "y_1", "2"]
    assert case_ids([]) == []


def test_images_that_differ_in_their_suffix_only_are_refused() -> None:
    with pytest.raises(InputError, match=r"names of their own, got a\.png"):
        case_ids([("a.png", ""), ("A.jpg", "")])
