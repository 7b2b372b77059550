"""Rows that come back as they were written, and every leak and fault refused."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from MedicalSAM3Lib.errors import InputError, OutputError
from MedicalSAM3Lib.model_folder import sha256_of
from Training import manifest_files
from Training.manifest import SCHEMA, ManifestRow, check_rows, read_manifest, write_manifest
from Training.manifest_files import check_files


def row(**changes: Any) -> ManifestRow:
    values: dict[str, Any] = {
        "dataset": "phantoms",
        "image": "a/image.nii.gz",
        "mask": "a/liver.nii.gz",
        "volume_id": "a",
        "axis": 2,
        "slice_index": 0,
        "concept": "liver",
        "phrase": "liver",
        "label_state": "present",
        "patient": "anna",
        "split": "train",
        "modality": "CT",
        "spacing": (1.0, 1.0, 3.0),
        "sha256": "0" * 64,
        "licence": "CC0-1.0",
    }
    return ManifestRow(**{**values, **changes})


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [row(), row(slice_index=1, split="val"), row(concept="spleen", label_state="absent", mask="")]
    write_manifest(tmp_path / "manifest.parquet", rows)
    manifest = read_manifest(tmp_path / "manifest.parquet")
    assert list(manifest.rows) == rows
    assert manifest.concepts() == ("liver", "spleen")
    assert manifest.volume_ids() == ("a",)
    assert list(manifest.of_volume("a")) == rows
    assert manifest.path("a/image.nii.gz") == tmp_path / "a" / "image.nii.gz"
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


@pytest.mark.parametrize(
    "changes",
    [
        {"label_state": "maybe"},
        {"split": "training"},
        {"axis": 3},
        {"slice_index": -1},
        {"sha256": "abc"},
        {"spacing": (1.0, 0.0, 1.0)},
        {"spacing": (1.0, 1.0)},
        {"patient": ""},
        {"mask": ""},
        {"surprise": 1},
    ],
)
def test_a_row_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        row(**changes)


def test_slices_of_one_volume_may_be_held_out() -> None:
    check_rows([row(), row(slice_index=5, split="val"), row(slice_index=9, split="test"), row(volume_id="b")])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({}, "1 repeated rows"),
        ({"concept": "spleen", "split": "val"}, "1 slices in several"),
        ({"axis": 1, "split": "val"}, "1 cut along several"),
        ({"volume_id": "b", "image": "b", "split": "val"}, "1 patients in several"),
        ({"slice_index": 1, "split": "unseen"}, "1 patients in several"),
        ({"volume_id": "b", "image": "b", "split": "unseen"}, "1 patients in several"),
    ],
)
def test_each_leak_is_counted_and_names_no_patient(second: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_rows([row(), row(**second)])
    assert message in str(caught.value)
    assert "anna" not in str(caught.value)


def test_no_rows_are_no_manifest() -> None:
    with pytest.raises(InputError, match="got none"):
        check_rows([])


def test_a_leak_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_manifest(tmp_path / "manifest.parquet", [row(), row()])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="writable folder"):
        write_manifest(tmp_path / "nowhere" / "manifest.parquet", [row()])


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot read"):
        read_manifest(path)
    pq.write_table(pa.table({"image": ["a"]}), path)
    with pytest.raises(InputError, match="columns of a manifest"):
        read_manifest(path)


def test_a_wrong_row_of_a_file_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    good, bad = row().model_dump(), {**row(slice_index=1).model_dump(), "split": "training"}
    pq.write_table(pa.Table.from_pylist([good, bad]), path)
    with pytest.raises(InputError, match=r"Row 1 of manifest\.parquet: split"):
        read_manifest(path)


def test_missing_and_changed_files_are_refused(tmp_path: Path) -> None:
    image, mask = tmp_path / "image", tmp_path / "mask"
    image.write_bytes(b"image")
    mask.write_bytes(b"mask")
    write_manifest(tmp_path / "m.parquet", [row(image="image", mask="mask", sha256=sha256_of(image))])
    manifest = read_manifest(tmp_path / "m.parquet")
    check_files(manifest)
    image.write_bytes(b"another image")
    with pytest.raises(InputError, match=r"1 changed \(row 0\)"):
        check_files(manifest)
    mask.unlink()
    with pytest.raises(InputError, match=r"1 missing \(row 0\)"):
        check_files(manifest)


def test_an_image_is_read_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.png", "b.png"]
    for name in names:
        (tmp_path / name).write_text(name)
    rows = [
        row(image=name, mask="a.png", volume_id=name, sha256=sha256_of(tmp_path / name)) for name in names
    ]  # fmt: skip
    write_manifest(tmp_path / "m.parquet", rows)
    manifest, known = read_manifest(tmp_path / "m.parquet"), tmp_path / "run" / "hashes.json"
    read: list[str] = []

    def hashed(path: Path) -> str:
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(manifest_files, "sha256_of", hashed)
    for expected in (names, []):
        check_files(manifest, known)
        assert read == expected
        read.clear()
    (tmp_path / "b.png").write_text("other")
    for _ in range(2):  # what was kept of a changed image does not hide that it changed
        with pytest.raises(InputError, match=r"1 changed \(row 1\)"):
            check_files(manifest, known)
    assert read == ["b.png"]
    known.write_text("cut sho")
    (tmp_path / "b.png").write_text("b.png")
    check_files(manifest, known)
    assert read == ["b.png", *names]
    assert [path.name for path in known.parent.iterdir()] == ["hashes.json"]


def test_hashes_that_cannot_be_kept_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path / "m.parquet", [row(image="a", mask="a", sha256=sha256_of(tmp_path / "a"))])
    with pytest.raises(OutputError, match=r"hashes\.json"):
        check_files(read_manifest(tmp_path / "m.parquet"), tmp_path / "a" / "hashes.json")


def test_the_first_wrong_row_of_many_is_named(tmp_path: Path) -> None:
    rows = [row(slice_index=n).model_dump() for n in range(50)]
    rows[30]["spacing"], rows[7]["mask"] = [1.0, -1.0, 1.0], ""
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "m.parquet")
    with pytest.raises(InputError, match=r"^Row 7 of m\.parquet: row: .*expected a mask"):
        read_manifest(tmp_path / "m.parquet")
    rows[7]["mask"] = "mask"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "m.parquet")
    with pytest.raises(InputError, match=r"^Row 30 of m\.parquet: spacing\.1: "):
        read_manifest(tmp_path / "m.parquet")
    assert gc.isenabled()


def test_a_patient_in_several_splits_by_volume_is_found_among_many(tmp_path: Path) -> None:
    def many(moved: str) -> list[ManifestRow]:
        return [
            row(volume_id=f"v{n}", image=f"i{n}", patient=f"p{n // 2}", split=moved if n == 41 else "train")
            for n in range(60)
        ]

    check_rows(many("train"))
    with pytest.raises(InputError, match="1 patients in several"):
        check_rows(many("val"))
