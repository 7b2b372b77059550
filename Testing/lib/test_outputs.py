"""Label maps and PNG masks: voxels, palette, a file per layer, the sidecar, and nothing half-written."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from MedicalSAM3Lib import outputs
from MedicalSAM3Lib.errors import OutputError
from MedicalSAM3Lib.files import read_volume, write_segmentation
from MedicalSAM3Lib.structures import Finding, Segmentation, Volume
from Testing.lib.file_worlds import affine, counting, objects_of, rotation, segmentation_of

VOLUME = Volume(counting((3, 4, 5)), affine(rotation(1), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
PICTURE = Volume(counting((1, 4, 5, 3)), np.eye(4), "RGB", is_2d=True)


def test_sidecar_names_each_label_and_what_is_missing(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "out.nii.gz", segmentation_of(VOLUME), VOLUME)
    sidecar = json.loads((tmp_path / "out.labels.json").read_text(encoding="utf-8"))
    labels = {entry["label"]: entry for entry in sidecar["labels"]}
    assert {label: entry["phrase"] for label, entry in labels.items()} == {1: "liver", 2: "left kidney"}
    assert labels[1]["colour"] == [221, 130, 101]
    assert labels[1]["file"] == "out.nii.gz"
    assert labels[2]["codes"]["modifier"] == "SCT^7771000^Left"
    assert sidecar["without_mask"] == [{"phrase": "spleen", "state": "not_found", "reason": "absent", "presence": 0.1}]


@pytest.mark.parametrize("overlap", [False, True])
def test_sidecar_names_each_object(tmp_path: Path, overlap: bool) -> None:
    segmentation = objects_of(VOLUME, overlap=overlap)
    write_segmentation(tmp_path / "out.nii.gz", segmentation, VOLUME)
    entries = json.loads((tmp_path / "out.labels.json").read_text(encoding="utf-8"))["labels"]
    assert [(entry["name"], entry["phrase"], entry["object"]) for entry in entries] == [
        *((f"rib {number}", "rib", number) for number in (1, 2, 3, 4)),
        ("spine", "spine", 1),
    ]
    assert [entry["confidence"] for entry in entries[:4]] == [0.6, 0.7, 0.8, 0.9]
    for entry in entries[:4]:
        array = read_volume(tmp_path / entry["file"]).array
        mask = segmentation.object_mask_kji(segmentation.findings[0], entry["object"])
        np.testing.assert_array_equal(array == entry["label"], mask)
        assert entry["voxels"] == 5


def test_what_was_not_kept_apart_has_no_object_in_the_sidecar(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "out.nii.gz", segmentation_of(VOLUME), VOLUME)
    entries = json.loads((tmp_path / "out.labels.json").read_text(encoding="utf-8"))["labels"]
    assert [(entry["name"], entry["object"]) for entry in entries] == [("liver", None), ("left kidney", None)]


def test_a_png_mask_shows_each_object_in_its_shade(tmp_path: Path) -> None:
    picture = Volume(counting((1, 8, 8, 3)), np.eye(4), "RGB", is_2d=True)
    segmentation = objects_of(picture)
    write_segmentation(tmp_path / "out.png", segmentation, picture)
    with Image.open(tmp_path / "out.png") as image:
        shown = np.asarray(image.convert("RGB")).reshape(-1, 3)
    first, second = shown[0].tolist(), shown[5].tolist()
    assert first == list(segmentation.findings[0].colour)
    assert second != first
    assert second == json.loads((tmp_path / "out.labels.json").read_text(encoding="utf-8"))["labels"][1]["colour"]


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii"])
def test_overlapping_masks_lie_in_a_file_per_layer(tmp_path: Path, name: str) -> None:
    segmentation = segmentation_of(VOLUME, overlap=True)
    write_segmentation(tmp_path / name, segmentation, VOLUME)
    suffix = name.removeprefix("out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.labels.json", name, f"out_layer2{suffix}"]
    sidecar = json.loads((tmp_path / "out.labels.json").read_text(encoding="utf-8"))
    for entry, finding in zip(sidecar["labels"], segmentation.findings, strict=False):
        layer = read_volume(tmp_path / entry["file"])
        np.testing.assert_array_equal(layer.array == entry["label"], segmentation.mask_kji(finding))
        np.testing.assert_allclose(layer.ijk_to_lps, VOLUME.ijk_to_lps, atol=1e-5)


def test_nifti_as_nibabel_reads_it(tmp_path: Path) -> None:
    import nibabel as nib

    segmentation = segmentation_of(VOLUME)
    write_segmentation(tmp_path / "out.nii.gz", segmentation, VOLUME)
    image = nib.load(tmp_path / "out.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, segmentation.layers[0])
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ image.affine, VOLUME.ijk_to_lps, atol=1e-5)


def test_more_than_255_labels_take_16_bits(tmp_path: Path) -> None:
    layer = np.arange(300, dtype=np.uint16).reshape(1, 20, 15)
    findings = tuple(Finding(f"cell {label}", "found", layer=0, label=label) for label in range(1, 300))
    picture = Volume(counting(layer.shape), np.eye(4), is_2d=True)
    segmentation = Segmentation((layer,), np.eye(4), findings)
    for name in ("out.nii", "out.png"):
        write_segmentation(tmp_path / name, segmentation, picture)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, layer)


def test_a_png_mask_holds_labels_and_shows_colours(tmp_path: Path) -> None:
    segmentation = segmentation_of(PICTURE)
    write_segmentation(tmp_path / "out.png", segmentation, PICTURE)
    with Image.open(tmp_path / "out.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), segmentation.layers[0][0])
        shown = np.asarray(image.convert("RGB"))
    for finding in segmentation.findings[:2]:
        assert (shown[segmentation.mask_kji(finding)[0]] == finding.colour).all()
    assert json.loads((tmp_path / "out.labels.json").read_text(encoding="utf-8"))["labels"][0]["file"] == "out.png"


def test_overlapping_png_masks_lie_in_two_files(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "out.png", segmentation_of(PICTURE, overlap=True), PICTURE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.labels.json", "out.png", "out_layer2.png"]


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.nii.gz", "out.png"])
def test_nothing_found_is_a_valid_file(tmp_path: Path, name: str) -> None:
    volume = PICTURE if name.endswith("png") else VOLUME
    empty = Segmentation(
        (np.zeros(volume.shape_kji, np.uint16),), volume.ijk_to_lps, (Finding("liver", "not_found", presence=0.1),)
    )
    write_segmentation(tmp_path / name, empty, volume)
    if name.endswith("png"):
        assert not read_volume(tmp_path / name).array.any()
    else:
        assert not SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / name))).any()


@pytest.mark.parametrize("name", ["out.seg.nrrd", "out.nii.gz", "out.png"])
@pytest.mark.parametrize("error", [RuntimeError("ITK ERROR\nin C++"), OSError(28, "No space left on device")])
def test_a_failing_writer_leaves_nothing_behind(
    tmp_path: Path, name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **_: object) -> None:
        for argument in args:
            if isinstance(argument, (str, Path)):
                Path(argument).write_text("half")
        raise error

    monkeypatch.setattr(SimpleITK, "WriteImage", fail)
    monkeypatch.setattr(Image.Image, "save", fail)
    monkeypatch.setattr(gzip.GzipFile, "write", fail)
    volume = PICTURE if name.endswith("png") else VOLUME
    (tmp_path / name).write_text("old")
    with pytest.raises(OutputError, match=f"Expected to write {name}"):
        write_segmentation(tmp_path / name, segmentation_of(volume, overlap=True), volume)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "old"


def test_a_failing_sidecar_leaves_no_label_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="no space left"):
        write_segmentation(tmp_path / "out.nii.gz", segmentation_of(VOLUME), VOLUME)
    assert not list(tmp_path.iterdir())


def test_names_of_layers_and_sidecar() -> None:
    assert outputs.sidecar_path(Path("a/b.c.nii.gz")) == Path("a/b.c.labels.json")
    assert outputs.layer_paths(Path("b.NII.GZ"), 2) == [Path("b.NII.GZ"), Path("b_layer2.NII.GZ")]


def test_a_mask_is_not_written_for_another_kind_of_image(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a PNG mask is for one picture"):
        write_segmentation(tmp_path / "out.png", segmentation_of(VOLUME), replace(VOLUME))


def test_a_segmentation_without_a_confidence_map_has_none_to_write(tmp_path: Path) -> None:
    segmentation = Segmentation((np.zeros((1, 2, 2), np.uint16),), np.eye(4), ())
    with pytest.raises(ValueError, match="set confidence_map in the settings"):
        outputs.write_confidence(tmp_path / "c.nii.gz", segmentation)
    assert not list(tmp_path.iterdir())
