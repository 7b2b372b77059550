"""Packages are fetched once, checked, unpacked and written as a manifest; the sample is cut from that."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from MedicalSAM3Lib.errors import InputError
from Testing.lib.phantoms import oblique_affine
from Testing.training.data_world import boxes_hu, image_of, labelled, write_world
from Training import make_sample, prepare
from Training.adapters import slicerio_package, totalsegmentator_package
from Training.manifest import read_manifest
from Training.manifest_files import check_files
from Training.packages import download, fetch_all, verify, write_volume


def test_a_package_that_is_there_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "run", refuse)
    archive, wheel = tmp_path / "thing-1.0.tar.gz", tmp_path / "thing-1.0-py3-none-any.whl"
    archive.touch()
    wheel.touch()
    assert download("thing", "1.0", tmp_path, source=True) == archive
    assert download("thing", "1.0", tmp_path, source=False) == wheel


@pytest.mark.parametrize(("source", "name"), [(True, "thing-1.0.tar.gz"), (False, "thing-1.0-py3-none-any.whl")])
def test_a_package_that_is_missing_comes_from_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: bool, name: str
) -> None:
    calls: list[list[str]] = []

    def fetch(command: list[str], *, cwd: Path, check: bool) -> None:
        assert check
        calls.append(command)
        (cwd / name).touch()

    monkeypatch.setattr(subprocess, "run", fetch)
    cache = tmp_path / "new" / "cache"
    assert download("thing", "1.0", cache, source=source) == cache / name
    (command,) = calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-3:] == ["--no-binary" if source else "--only-binary", "thing", "thing==1.0"]
    assert "--no-deps" in command


def test_pip_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **options: Any) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(InputError, match=r"Expected to fetch thing 1\.0, pip gave 1; check the package index"):
        download("thing", "1.0", tmp_path, source=True)


def test_an_archive_that_was_changed_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "thing.whl"
    archive.write_bytes(b"as published")
    digest = hashlib.sha256(b"as published").hexdigest()
    verify(archive, digest)
    archive.write_bytes(b"as published.")
    with pytest.raises(InputError, match=rf"Expected thing\.whl with SHA-256 {digest}.*delete it and run again"):
        verify(archive, digest)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with both archives, each with one text file that its adapter turns into a volume."""
    text = tmp_path / "text"
    text.write_text("unpacked")
    cache = tmp_path / "out" / "packages"
    cache.mkdir(parents=True)
    archive, wheel = cache / "totalsegmentator-2.18.0.tar.gz", cache / "slicerio-1.4.0-py3-none-any.whl"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(text, "totalsegmentator-2.18.0/text")
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(text, "text")
    for package, path, volume_id in ((totalsegmentator_package, archive, "a"), (slicerio_package, wheel, "e")):

        def volumes(root: Path, volume_id: str = volume_id) -> list[Any]:
            assert (root / "text").read_text() == "unpacked"
            return [labelled(volume_id)]

        monkeypatch.setattr(package, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        monkeypatch.setattr(package, "volumes", volumes)
    return cache


def test_both_packages_are_unpacked_and_read(packages: Path) -> None:
    assert [volume.volume_id for volume in fetch_all(packages)] == ["a", "e"]


@pytest.mark.parametrize("package", [totalsegmentator_package, slicerio_package])
def test_no_package_is_opened_unchecked(packages: Path, monkeypatch: pytest.MonkeyPatch, package: Any) -> None:
    monkeypatch.setattr(package, "SHA256", "0" * 64)
    with pytest.raises(InputError, match=f"{package.PACKAGE}.* with SHA-256 0000"):
        list(fetch_all(packages))


def test_the_command_writes_a_manifest_of_all_packages(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = packages.parent
    assert prepare.main(["--out", str(out)]) == 0
    manifest = read_manifest(out / "manifest.parquet")
    check_files(manifest)
    assert manifest.volume_ids() == ("a", "e")
    assert f"{len(manifest.rows)} rows, 2 volumes" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cache: Path) -> Iterator[Any]:
        raise InputError("Expected a network, got none; plug it in.")
        yield

    monkeypatch.setattr(prepare, "fetch_all", fail)
    assert prepare.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "Expected a network, got none; plug it in.\n"
    assert not (tmp_path / "manifest.parquet").exists()


def test_rows_say_what_is_known_of_each_slice(tmp_path: Path) -> None:
    splits = ["train"] * 5 + [""] + ["val"] * 6
    rows = write_volume(labelled(splits=splits, known_slices=(0, 10)), tmp_path)
    assert len(rows) == 11 * 6
    assert 5 not in {row.slice_index for row in rows}
    assert {row.split for row in rows if row.slice_index > 5} == {"val"}
    states = {(row.concept, row.slice_index): row.label_state for row in rows}
    assert [states["liver", k] for k in (0, 4, 6, 10, 11)] == ["present"] * 2 + ["absent"] * 2 + ["unknown"]
    assert {state for (concept, _), state in states.items() if concept == "urinary_bladder"} == {"absent"}
    row = next(row for row in rows if row.concept == "left_kidney")
    assert (row.phrase, row.axis, row.spacing, row.patient) == ("left kidney", 2, (2.0, 2.0, 2.0), "ct")
    assert row.mask == "ct/left_kidney.nii.gz"
    assert row.sha256 == hashlib.sha256((tmp_path / row.image).read_bytes()).hexdigest()
    assert {row.mask for row in rows if row.concept == "urinary_bladder"} == {""}


@pytest.mark.parametrize(("order", "axis"), [((0, 1, 2), 2), ((1, 0, 2), 2), ((0, 2, 1), 1), ((1, 2, 0), 0)])
def test_slices_are_named_by_the_patients_axis(tmp_path: Path, order: tuple[int, int, int], axis: int) -> None:
    affine = oblique_affine((2.0, 2.0, 3.0), (10.0, -5.0, 8.0), order, (-1, 1, -1))
    rows = write_volume(labelled(image=image_of(boxes_hu()[0], affine)), tmp_path)
    assert {row.axis for row in rows} == {axis}


def test_the_sample_is_half_as_fine_with_its_larger_structures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = boxes_hu()[1]
    speck = np.zeros_like(masks["liver"])
    speck[0, 10, 10] = True
    masks = {"liver": masks["liver"], "left_kidney": masks["left_kidney"], "gallbladder": speck}
    write_world(tmp_path, [labelled(make_sample.VOLUME, masks_kji=masks)])
    samples = tmp_path / "samples"
    samples.mkdir()
    monkeypatch.setattr(make_sample, "resource", lambda name: tmp_path / name)
    make_sample.main(["--data", str(tmp_path)])
    assert "(20, 15, 12) voxels, 1 structures" in capsys.readouterr().out
    assert json.loads((samples / f"{make_sample.NAME}_reference.json").read_text()) == {"1": "liver"}
    image = sitk.ReadImage(str(samples / f"{make_sample.NAME}.nii.gz"))
    reference = sitk.ReadImage(str(samples / f"{make_sample.NAME}_reference.nii.gz"))
    assert image.GetSpacing() == reference.GetSpacing() == (4.0, 4.0, 2.0)
    assert image.GetPixelID() == sitk.sitkInt16
    found = sitk.GetArrayFromImage(reference) > 0
    assert sitk.GetArrayFromImage(image)[found].mean() == pytest.approx(300, abs=60)
    assert found.sum() == 6 * 3 * 5  # of 6 slices of 7 x 11, every second pixel
