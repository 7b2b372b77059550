"""One's own data: the ready layouts, files of other programs, and a description that extends a ready one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
import yaml
from PIL import Image
from scipy.io import savemat

from MedicalSAM3Lib.errors import InputError
from MedicalSAM3Lib.seg_nrrd import write_seg_nrrd
from MedicalSAM3Lib.structures import Finding, Segmentation
from Testing.lib.file_worlds import write_series
from Testing.training.dataset_trees import SHAPE, Tree, box, flat, grey_volume, pattern, slab
from Training.adapters.case import Case
from Training.adapters.families import open_tree
from Training.dataset_spec import DatasetSpec, load_spec, load_spec_file

LIVER, TUMOR = slab(0, 0, 3, 3, (0, 1, 2)), slab(1, 1, 1, 1, (1,))


def described(folder: Path, **values: Any) -> DatasetSpec:
    """A description as a researcher writes it."""
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "title": "Mine", "licence": "own", **values}), encoding="utf-8")
    return load_spec_file(path)


def cases_of(source: Path, spec: DatasetSpec) -> dict[str, Case]:
    """All cases of a tree that has no problem, by their id."""
    tree = open_tree(source, spec)
    assert tree.index.problems == ()
    return {files.case_id: tree.read(files) for files in tree.index.cases}


def same(case: Case, **masks: np.ndarray) -> bool:
    """Whether a case shows these concepts and nothing else; ``_`` in a name stands for a space."""
    shown = {concept: mask > 0 for concept, mask in case.masks_kji.items() if mask.any()}
    expected = {name.replace("_", " "): mask if mask.ndim == 3 else mask[None] for name, mask in masks.items()}
    return set(shown) == set(expected) and all(np.array_equal(shown[name], expected[name]) for name in shown)


def write_nnunet(tree: Tree, labels: Any, *, numbered: bool) -> None:
    values = LIVER + TUMOR.astype(np.uint8)
    for case, array in (("case_001", values), ("case_002", 1 * LIVER)):
        tree.volume(f"imagesTr/{case}{'_0000' if numbered else ''}.nii.gz", grey_volume(case))
        if numbered:
            tree.volume(f"imagesTr/{case}_0001.nii.gz", grey_volume(f"{case} again"))
        tree.volume(f"labelsTr/{case}.nii.gz", array.astype(np.uint8))
    tree.volume("imagesTs/case_003_0000.nii.gz", grey_volume("test"))
    tree.json("dataset.json", {"labels": labels})


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("nnunet_raw", {"background": 0, "liver": 1, "liver_tumor": 2}),
        ("medical_decathlon", {"0": "background", "1": "liver", "2": "liver_tumor"}),
    ],
)
def test_numbers_have_the_names_of_dataset_json(name: str, labels: Any, tmp_path: Path) -> None:
    write_nnunet(Tree(tmp_path), labels, numbered=name == "nnunet_raw")
    cases = cases_of(tmp_path, load_spec(name))
    assert len(cases) == 2
    first, second = cases.values()
    assert same(first, liver=LIVER & ~TUMOR, liver_tumor=TUMOR)
    assert same(second, liver=LIVER)
    assert second.known["liver tumor"].all()
    assert first.image.spacing_mm == (1.0, 1.0, 2.0)


def test_a_region_of_several_numbers_is_a_concept(tmp_path: Path) -> None:
    write_nnunet(Tree(tmp_path), {"background": 0, "whole_liver": [1, 2], "liver_tumor": 2}, numbered=True)
    spec = described(tmp_path, extends="nnunet_raw", labels={"whole_liver": "liver", "liver_tumor": "liver tumor"})
    first, second = cases_of(tmp_path, spec).values()
    assert same(first, liver=LIVER, liver_tumor=TUMOR)
    assert same(second, liver=LIVER)


def test_a_number_that_dataset_json_does_not_name_is_unexpected(tmp_path: Path) -> None:
    write_nnunet(Tree(tmp_path), {"background": 0, "liver": 1}, numbered=True)
    first, second = cases_of(tmp_path, load_spec("nnunet_raw")).values()
    assert (first.unexpected, second.unexpected) == (("2",), ())


@pytest.mark.parametrize("channel", [0, 1])
def test_images_of_the_decathlon_may_have_several_channels(channel: int, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    frames = [grey_volume("flair"), grey_volume("t1w")]
    image = sitk.JoinSeries([sitk.GetImageFromArray(frame) for frame in frames])
    sitk.WriteImage(image, str(tree.path("imagesTr/BRATS_001.nii.gz")))
    tree.volume("labelsTr/BRATS_001.nii.gz", LIVER.astype(np.uint8), (1.0, 1.0, 1.0))
    tree.json("dataset.json", {"labels": {"0": "background", "1": "edema"}})
    spec = described(tmp_path, layouts=[{"kind": "nnunet", "channel": channel}])
    (case,) = cases_of(tmp_path, spec).values()
    assert np.array_equal(case.image.array, frames[channel])
    assert same(case, edema=LIVER)


def test_without_dataset_json_there_are_no_names(tmp_path: Path) -> None:
    write_nnunet(Tree(tmp_path), {}, numbered=True)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"dataset\.json with labels"):
        open_tree(tmp_path, load_spec("nnunet_raw"))


def test_a_structure_without_a_file_is_unknown(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for case, files in (("s0001", {"liver": LIVER, "kidney_left": 0 * LIVER}), ("s0002", {"liver": LIVER})):
        tree.volume(f"{case}/ct.nii.gz", grey_volume(case))
        for structure, mask in files.items():
            tree.volume(f"{case}/segmentations/{structure}.nii.gz", mask.astype(np.uint8))
    first, second = cases_of(tmp_path, load_spec("one_nifti_per_structure")).values()
    assert same(first, liver=LIVER)
    assert same(second, liver=LIVER)
    assert set(first.known) == {"liver", "kidney left"}
    assert set(second.known) == {"liver"}
    assert [files.patient for files in open_tree(tmp_path, load_spec("one_nifti_per_structure")).index.cases] == [
        "s0001", "s0002",
    ]  # fmt: skip


def test_a_file_that_two_patterns_fit_goes_to_the_one_that_says_more(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.volume("a/image.nii.gz", grey_volume("a"))
    tree.volume("a/liver.nii.gz", LIVER.astype(np.uint8))
    layout = {"kind": "pairs", "image": "{id}/image.nii.gz", "mask": "{id}/{label}.nii.gz"}
    (case,) = cases_of(tmp_path, described(tmp_path, layouts=[layout])).values()
    assert same(case, liver=LIVER)


def test_segments_of_slicer_lie_on_the_grid_of_their_image(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.volume("ct.nrrd", grey_volume("ct"))
    layers = (LIVER.astype(np.uint16), TUMOR.astype(np.uint16))
    findings = (
        Finding("liver", "found", "liver", "", 0.9, 0.9, 9, 1.0, (0, 2), layer=0, label=1),
        Finding("liver tumor", "found", "", "", 0.9, 0.9, 9, 1.0, (1, 1), layer=1, label=1),
    )
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    write_seg_nrrd(tmp_path / "ct.seg.nrrd", Segmentation(layers, affine, findings))
    (case,) = cases_of(tmp_path, load_spec("slicer_segmentations")).values()
    assert same(case, liver=LIVER, liver_tumor=TUMOR)


def test_a_scene_that_slicer_saved_is_a_folder_with_names_of_its_own(tmp_path: Path) -> None:
    data = Path(slicerio.__file__).parent / "data"
    for case in ("anna", "ben"):
        (tmp_path / case).mkdir()
        shutil.copy(data / "CTChest4.nrrd", tmp_path / case / "2 CT Chest.nrrd")
        shutil.copy(data / "Segmentation.seg.nrrd", tmp_path / case / "Segmentation.seg.nrrd")
    cases = cases_of(tmp_path, load_spec("slicer_segmentations"))
    assert [len(case.masks_kji) for case in cases.values()] == [7, 7]


@pytest.mark.parametrize("name", ["Segmentation", "SegmentationOverlapping"])
def test_what_slicer_itself_wrote_is_read_as_slicerio_reads_it(name: str, tmp_path: Path) -> None:
    data = Path(slicerio.__file__).parent / "data"
    shutil.copy(data / "CTChest4.nrrd", tmp_path / "ct.nrrd")
    shutil.copy(data / f"{name}.seg.nrrd", tmp_path / "ct.seg.nrrd")
    (case,) = cases_of(tmp_path, load_spec("slicer_segmentations")).values()
    oracle = slicerio.read_segmentation(str(data / f"{name}.seg.nrrd"))
    voxels = oracle["voxels"] if oracle["voxels"].ndim == 4 else oracle["voxels"][None]
    expected = {one["name"]: one["labelValue"] == voxels[one["layer"]].T for one in oracle["segments"]}
    assert set(case.masks_kji) == set(expected)
    assert all(np.array_equal(case.masks_kji[name] > 0, mask) for name, mask in expected.items())


def test_a_segmentation_without_names_is_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.volume("ct.nrrd", grey_volume("ct"))
    tree.volume("labels.nrrd", LIVER.astype(np.uint8))
    (tmp_path / "labels.nrrd").rename(tmp_path / "ct.seg.nrrd")
    opened = open_tree(tmp_path, load_spec("slicer_segmentations"))
    with pytest.raises(InputError, match="named segments"):
        opened.read(opened.index.cases[0])


def coco_of(name: str, **changes: Any) -> dict[str, Any]:
    outline = flat([[8, 8], [24, 8], [24, 24], [8, 24]])
    return {
        "images": [{"id": 1, "file_name": name}, {"id": 2, "file_name": "gone.png"}],
        "categories": [{"id": 3, "name": "polyp"}],
        "annotations": [{"image_id": 1, "category_id": 3, "segmentation": [outline]}],
        **changes,
    }


def test_pictures_that_coco_names_are_read_and_others_reported(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for name in ("images/a.jpg", "images/b.jpg"):
        tree.image(name)
    tree.json("annotations/train.json", coco_of("some/folder/a.jpg"))
    opened = open_tree(tmp_path, load_spec("coco"))
    (files,) = opened.index.cases
    assert same(opened.read(files), polyp=box(1, 1, 2, 2))
    assert [problem.kind for problem in opened.index.problems] == ["missing image", "missing mask"]


def test_what_coco_draws_somewhere_is_absent_where_it_does_not_and_what_it_only_lists_is_unknown(
    tmp_path: Path,
) -> None:
    tree = Tree(tmp_path)
    for name in ("images/a.jpg", "images/b.jpg"):
        tree.image(name)
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    categories = [{"id": 3, "name": "polyp"}, {"id": 0, "name": "objects"}]
    tree.json("annotations/train.json", coco_of("a.jpg", images=images, categories=categories))
    first, second = cases_of(tmp_path, load_spec("coco")).values()
    assert same(first, polyp=box(1, 1, 2, 2))
    assert same(second)
    assert set(first.known) == set(second.known) == {"polyp"}
    unsure = described(tmp_path, extends="coco", states={"not_shown": "unknown"})
    assert [set(case.known) for case in cases_of(tmp_path, unsure).values()] == [{"polyp"}, set()]
    named = described(
        tmp_path, extends="coco", states={"not_shown": "unknown"}, labels={"polyp": "polyp", "cyst": "cyst"}
    )
    assert [set(case.known) for case in cases_of(tmp_path, named).values()] == [{"polyp"}, set()]


def test_rows_of_a_table_say_nothing_about_labels_that_they_do_not_name(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for name in ("a.png", "b.png"):
        tree.image(name)
    tree.text("table.csv", "id,code,label\na,1 8,polyp\nb,,\n")
    layout = {
        "kind": "run_length", "table": "table.csv", "image": "{id}.png", "id_column": "id", "code_column": "code",
        "label_column": "label",
    }  # fmt: skip
    labels = {"polyp": "polyp", "cyst": "cyst"}
    spec = described(tmp_path, layouts=[layout], labels=labels, states={"not_shown": "unknown"})
    first, second = cases_of(tmp_path, spec).values()
    assert set(first.known) == {"polyp"}
    assert set(second.known) == {"polyp", "cyst"}


def test_a_few_stray_pixels_of_a_label_say_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    values = LIVER.astype(np.uint8)
    values[0, -1, -3:] = 2
    values[1, -8:, -8:] = 2
    tree.volume("images/a.nii.gz", grey_volume("a"))
    tree.volume("masks/a.nii.gz", values)
    labels, states = {1: "liver", 2: "liver tumor"}, {"least_pixels": 4}
    (case,) = cases_of(
        tmp_path, described(tmp_path, extends="image_mask_volumes", labels=labels, states=states)
    ).values()
    assert case.known["liver tumor"].tolist() == [False, True, True, True]
    assert case.known["liver"].all()
    assert case.masks_kji["liver tumor"].any(axis=(1, 2)).tolist() == [False, True, False, False]


def test_an_image_that_coco_names_twice_counts_once(tmp_path: Path) -> None:
    Tree(tmp_path).image("images/a.jpg")
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}]
    Tree(tmp_path).json("annotations/train.json", coco_of("a.jpg", images=images))
    opened = open_tree(tmp_path, load_spec("coco"))
    assert len(opened.index.cases) == 1
    assert [problem.kind for problem in opened.index.problems] == ["duplicate"]


@pytest.mark.parametrize("content", ["{}", "[", '{"images": {}, "annotations": [], "categories": []}'])
def test_what_is_no_coco_file_is_refused(content: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.image("images/a.jpg")
    tree.text("annotations/train.json", content)
    with pytest.raises(InputError, match="Expected a COCO file"):
        open_tree(tmp_path, load_spec("coco"))


def test_folders_of_pictures_and_masks(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for name, mask in (("a.png", "masks/a.png"), ("b.bmp", "masks/b_mask.gif")):
        tree.image(f"images/{name}")
        tree.binary(mask, box(0, 0, 1, 1))
    spec = described(tmp_path, extends="image_mask_folders", labels={"inside": "polyp"})
    assert all(same(case, polyp=box(0, 0, 1, 1)) for case in cases_of(tmp_path, spec).values())
    assert spec.name == "mine"


def test_folders_of_volumes_and_label_maps(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.volume("images/a.nii.gz", grey_volume("a"))
    tree.volume("masks/a.nrrd", LIVER + TUMOR.astype(np.uint8))
    spec = described(tmp_path, extends="image_mask_volumes", labels={1: "liver", 2: ["liver tumor", "liver"]})
    (case,) = cases_of(tmp_path, spec).values()
    assert same(case, liver=LIVER, liver_tumor=TUMOR)


def test_labels_elsewhere_than_their_image_are_refused(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.volume("images/a.nii.gz", grey_volume("a"))
    tree.volume("masks/a.nii.gz", LIVER.astype(np.uint8), (1.0, 1.0, 3.0))
    opened = open_tree(tmp_path, described(tmp_path, extends="image_mask_volumes", labels={1: "liver"}))
    with pytest.raises(InputError, match="on the grid of the image"):
        opened.read(opened.index.cases[0])


def test_a_folder_of_dicom_is_an_image(tmp_path: Path) -> None:
    write_series(tmp_path / "anna" / "DICOM", [0.0, 2.0, 4.0])
    mask = np.zeros((3, 3, 4), np.uint8)
    mask[1, 1, 1] = 1
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing((0.75, 0.5, 2.0))
    sitk.WriteImage(image, str(tmp_path / "anna" / "liver.nii.gz"))
    layout = {"kind": "pairs", "folders": True, "image": "{p}/DICOM/{file}", "mask": "{p}/{label}.nii.gz"}
    spec = described(tmp_path, layouts=[layout], labels={"liver": "liver"}, patient="{p}")
    (case,) = cases_of(tmp_path, spec).values()
    assert same(case, liver=mask > 0)
    assert case.image.modality == "CT"


def test_matlab_arrays_have_rows_first(tmp_path: Path) -> None:
    volume, labels = grey_volume("a"), LIVER + TUMOR.astype(np.uint8)
    for name, array in (("image", volume), ("mask", labels)):
        savemat(tmp_path / f"a_{name}.mat", {"data": array.transpose(1, 2, 0), "info": np.array([1.0])})
    options = {"key": "data", "axes": "jik"}
    layout = {
        "kind": "pairs", "form": "labels", "image": "{id}_image.mat", "mask": "{id}_mask.mat",
        "image_array": options, "mask_array": options,
    }  # fmt: skip
    (case,) = cases_of(tmp_path, described(tmp_path, layouts=[layout], labels={1: "liver", 2: "liver tumor"})).values()
    assert np.array_equal(case.image.array, volume)
    assert same(case, liver=LIVER & ~TUMOR, liver_tumor=TUMOR)


@pytest.mark.parametrize(
    ("key", "axes", "message"), [("other", "ji", "array 'other'"), ("", "ji", "one array"), ("data", "kji", "the axes")]
)
def test_arrays_that_do_not_fit_their_description_are_refused(
    key: str, axes: str, message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", data=pattern("a"), more=pattern("b"))
    Tree(tmp_path).binary("a_mask.png", box(0, 0, 1, 1))
    layout = {"kind": "pairs", "image": "{id}.npz", "mask": "{id}_mask.png", "image_array": {"key": key, "axes": axes}}
    opened = open_tree(tmp_path, described(tmp_path, layouts=[layout], labels={"inside": "polyp"}))
    with pytest.raises(InputError, match=message):
        opened.read(opened.index.cases[0])


def test_polygons_of_voc(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.image("JPEGImages/a.jpg")
    numbered = "".join(
        f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate([(8, 8), (23, 8), (23, 15), (8, 15)])
    )
    item = f"<object><name>polyp</name><polygon>{numbered}</polygon></object><object><name>box</name></object>"
    size = f"<size><width>{SHAPE[1]}</width><height>{SHAPE[0]}</height></size>"
    tree.text("Annotations/a.xml", f"<annotation>{size}{item}</annotation>")
    layout = {"kind": "polygons", "form": "voc", "image": "JPEGImages/{id}.jpg", "mask": "Annotations/{id}.xml"}
    (case,) = cases_of(tmp_path, described(tmp_path, layouts=[layout])).values()
    assert same(case, polyp=box(1, 1, 1, 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"imageHeight": 8, "imageWidth": 8, "shapes": []}', "drawn on"),
        ('{"shapes": [{"points": []}]}', "cannot read them"),
        ("no json", "cannot read them"),
    ],
)
def test_polygons_that_cannot_be_are_refused(content: str, message: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.image("a.jpg")
    tree.text("a.json", content)
    layout = {"kind": "polygons", "form": "labelme", "image": "{id}.jpg", "mask": "{id}.json"}
    opened = open_tree(tmp_path, described(tmp_path, layouts=[layout]))
    with pytest.raises(InputError, match=message):
        opened.read(opened.index.cases[0])


def test_palette_pictures_are_read_by_their_numbers(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.image("a.jpg")
    palette = Image.new("P", (SHAPE[1], SHAPE[0]))
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette.paste(2, (0, 0, 8, 8))
    palette.save(tree.path("a.png"))
    layout = {"kind": "pairs", "image": "{id}.jpg", "mask": "{id}.png"}
    by_number = described(tmp_path, layouts=[{**layout, "form": "labels"}], labels={2: "polyp"})
    by_colour = described(tmp_path, layouts=[{**layout, "form": "colours"}], labels={"#008000": "polyp"})
    for spec in (by_number, by_colour):
        assert same(next(iter(cases_of(tmp_path, spec).values())), polyp=box(0, 0, 1, 1))
