"""Manifests of several data sets become one, and no image is taught that measures elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.model_folder import sha256_of
from Training import prepare
from Training.manifest import ManifestRow, read_manifest, write_manifest
from Training.manifest_files import check_files
from Training.merge_manifests import merge


def written(folder: Path, dataset: str, content: bytes = b"image", **changes: Any) -> Path:
    """A manifest of one image with a mask, in a folder of its own."""
    folder.mkdir()
    (folder / "image.png").write_bytes(content)
    (folder / "mask.png").write_bytes(b"mask")
    values: dict[str, Any] = {
        "dataset": dataset, "image": "image.png", "mask": "mask.png", "volume_id": dataset, "axis": 2, "slice_index": 0,
        "concept": "polyp", "phrase": "polyp", "label_state": "present", "patient": dataset, "split": "train",
        "modality": "RGB", "spacing": (1.0, 1.0, 1.0), "sha256": sha256_of(folder / "image.png"), "licence": "CC0-1.0",
        **changes,
    }  # fmt: skip
    write_manifest(folder / "manifest.parquet", [ManifestRow(**values)])
    return folder / "manifest.parquet"


def test_files_stay_where_they_are_and_are_found(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a", "a", b"1"), written(tmp_path / "b", "b", b"2", label_state="absent", mask="")
    (tmp_path / "runs").mkdir()
    target = tmp_path / "runs" / "all.parquet"
    assert merge([one, two], target) == 2
    manifest = read_manifest(target)
    check_files(manifest)
    assert [(row.dataset, row.image, row.mask) for row in manifest.rows] == [
        ("a", "../a/image.png", "../a/mask.png"),
        ("b", "../b/image.png", ""),
    ]


def test_an_image_that_two_data_sets_divide_otherwise_is_refused_or_measures_only(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a", "a"), written(tmp_path / "b", "b", split="unseen")
    target = tmp_path / "all.parquet"
    with pytest.raises(InputError, match="got 1 that two data sets share"):
        merge([one, two], target)
    assert not target.exists()
    assert merge([one, two], target, leave_out=True) == 1
    assert [row.split for row in read_manifest(target).rows] == ["unseen"]


def test_an_image_that_two_data_sets_train_on_stays_twice(tmp_path: Path) -> None:
    assert merge([written(tmp_path / "a", "a"), written(tmp_path / "b", "b")], tmp_path / "all.parquet") == 2


def test_the_same_data_set_twice_is_refused(tmp_path: Path) -> None:
    one, two = written(tmp_path / "a", "a"), written(tmp_path / "b", "a")
    with pytest.raises(InputError, match="repeated rows"):
        merge([one, two], tmp_path / "all.parquet")


def test_the_command_merges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(written(tmp_path / name, name, name.encode())) for name in ("a", "b")]
    assert prepare.main(["--merge", *paths, "--out", str(tmp_path / "all.parquet")]) == 0
    assert "2 rows of 2 manifests" in capsys.readouterr().out
    assert prepare.main(["--merge", str(tmp_path / "nowhere.parquet"), "--out", str(tmp_path / "x.parquet")]) == 2
