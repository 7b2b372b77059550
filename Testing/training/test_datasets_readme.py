"""The page that tells how to describe one's own data: its examples run, and it names every key."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from MedicalSAM3Lib.resources import resource
from Testing.training.dataset_trees import Tree, box, grey_volume, slab
from Training import prepare
from Training.dataset_layouts import (
    ArrayOptions,
    CocoLayout,
    NnunetLayout,
    PairsLayout,
    PolygonsLayout,
    RunLengthLayout,
    TilesLayout,
)
from Training.dataset_spec import Counts, DatasetSpec, PatientTable, Source, States, load_spec_file, ready_layouts
from Training.manifest import read_manifest

MODELS = (
    DatasetSpec, States, Counts, Source, PatientTable, ArrayOptions,
    PairsLayout, NnunetLayout, CocoLayout, PolygonsLayout, RunLengthLayout, TilesLayout,
)  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return resource("datasets", "README.md").read_text(encoding="utf-8")


def block(page: str, kind: str, word: str) -> str:
    """The one fenced block of a kind that has this word in it."""
    (found,) = (text for text in re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) if word in text)
    return found


def test_the_page_names_every_key_and_every_ready_layout(page: str) -> None:
    for model in MODELS:
        for key in model.model_fields:
            assert f"`{key}`" in page or f"`{key}:" in page, f"{model.__name__}.{key}"
    for name in ready_layouts():
        assert f"`{name}`" in page


def test_the_example_of_any_layout_does_what_the_page_says(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tree = Tree(tmp_path / "DIR")
    values = (1 * box(0, 0, 2, 2) + 2 * box(2, 3, 1, 1) + 255 * box(3, 5, 1, 1)).astype(np.uint8)
    for path in block(page, "text", "healthy/").split():
        tree.picture(path, values) if path.endswith("_mask.png") else tree.image(path)
    Path("mine.yaml").write_text(block(page, "yaml", "my_polyps"), encoding="utf-8")
    said = block(page, "text", "$ python").splitlines()
    for line in (line for line in said if line.startswith("$")):
        assert prepare.main(line.split()[4:]) == 0
    assert capsys.readouterr().out.splitlines() == [line for line in said if not line.startswith("$")]
    rows = read_manifest(Path("data/my_polyps/manifest.parquet")).rows
    assert sorted((row.label_state, Path(row.image).name) for row in rows) == [
        ("absent", "healthy_061_frame_1.png"),
        ("present", "017_frame_1.png"),
        ("present", "017_frame_2.png"),
        ("present", "042_frame_1.png"),
    ]
    assert len({row.patient for row in rows}) == 3


def test_the_example_that_extends_a_ready_layout_works(page: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "DIR")
    liver, tumor = slab(0, 0, 3, 3, (0, 1, 2)), slab(1, 1, 1, 1, (1,))
    for name in ("a", "b"):
        tree.volume(f"images/{name}.nii.gz", grey_volume(name))
        tree.volume(
            f"masks/{name}.nii.gz", liver + tumor.astype(np.uint8) + 3 * slab(3, 5, 1, 1, (3,)).astype(np.uint8)
        )
    path = tmp_path / "mine.yaml"
    path.write_text(block(page, "yaml", "my_livers"), encoding="utf-8")
    assert load_spec_file(path).concepts() == ("liver", "liver tumor")
    assert prepare.main(["--yaml", str(path), "--source", str(tmp_path / "DIR"), "--out", str(tmp_path / "out")]) == 0
    states = {(row.concept, row.label_state) for row in read_manifest(tmp_path / "out" / "manifest.parquet").rows}
    assert states == {(name, state) for name in ("liver", "liver_tumor") for state in ("present", "absent")}


def test_labels_without_a_meaning_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = Tree(tmp_path / "DIR")
    tree.image("images/a.png")
    tree.binary("masks/a.png", box(0, 0, 1, 1))
    arguments = ["image_mask_folders", "--source", str(tmp_path / "DIR")]
    assert prepare.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "labels: {inside: polyp}" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert prepare.main(["--check", *arguments]) == 1
    assert "Resources/datasets/README.md" in capsys.readouterr().out
