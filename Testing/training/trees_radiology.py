"""X-ray and ultrasound data sets in their published layouts, with what their users report to be irregular."""

from __future__ import annotations

import numpy as np

from Testing.lib.file_worlds import write_dicom
from Testing.training.dataset_trees import (
    NOTHING,
    SHAPE,
    Builder,
    Tree,
    box,
    corners,
    flat,
    grey_volume,
    labelme,
    pattern,
    slab,
)

LEFT, RIGHT = box(1, 0, 2, 2), box(1, 4, 2, 2)


def covid_qu_ex(tree: Tree) -> None:
    """A folder in a folder of the same name; the infection part holds the same images again."""
    top = "Lung Segmentation Data/Lung Segmentation Data"
    for split, group in (("Train", "COVID-19"), ("Val", "Normal"), ("Test", "Non-COVID")):
        name = f"{top}/{split}/{group}/images/{group.lower()}_1.png"
        tree.image(name, colour=False)
        tree.binary(name.replace("/images/", "/lung masks/"), LEFT | RIGHT)
        tree.expect(name, {"lung": LEFT | RIGHT})
    again = "Infection Segmentation Data/Infection Segmentation Data/Train/COVID-19"
    tree.picture(f"{again}/images/covid-19_1.png", pattern(f"{top}/Train/COVID-19/images/covid-19_1.png"))
    tree.binary(f"{again}/lung masks/covid-19_1.png", LEFT)
    tree.binary(f"{again}/infection masks/covid-19_1.png", LEFT)


def chest_xray_masks(tree: Tree) -> None:
    """Two rules for the names of masks, an image without one, smoothed borders."""
    soft = np.where(LEFT, 255, 0).astype(np.uint8)
    soft[LEFT & ~np.roll(LEFT, 1, axis=0)] = 100
    inside = soft > 127
    for name, mask in (("MCUCXR_0001_0", "MCUCXR_0001_0"), ("CHNCXR_0001_0", "CHNCXR_0001_0_mask")):
        image = f"Lung Segmentation/CXR_png/{name}.png"
        tree.image(image, colour=False)
        tree.picture(f"Lung Segmentation/masks/{mask}.png", soft)
        tree.expect(image, {"lung": inside}, patient=name)
    tree.image("Lung Segmentation/CXR_png/CHNCXR_0025_0.png", colour=False)
    tree.image("Lung Segmentation/test/CHNCXR_0099_0.png", colour=False)
    tree.text("Lung Segmentation/ClinicalReadings/MCUCXR_0001_0.txt", "normal")
    tree.problems["missing mask"] = 1


def chest_xray_pneumothorax(tree: Tree) -> None:
    """The PNG version: the name says whether there is one."""
    top = "siim-acr-pneumothorax"
    for name, mask in (("0_test_1_", LEFT), ("1_train_0_", NOTHING), ("2_train_1_", RIGHT)):
        image = f"{top}/png_images/{name}.png"
        tree.image(image, colour=False)
        tree.binary(f"{top}/png_masks/{name}.png", mask)
        tree.expect(image, {"pneumothorax": mask}, absent=() if mask.any() else ("pneumothorax",))
    tree.text(f"{top}/stage_1_test_images.csv", "new_filename,ImageId,has_pneumo\n0_test_1_.png,1.2.3,1\n")


def siim_run_lengths(tree: Tree) -> None:
    """The contest's own files: DICOM, and run lengths that start relative to the end of the last run."""
    rows = ["ImageId, EncodedPixels"]
    for number, boxes in enumerate(([LEFT], [], [LEFT, RIGHT])):
        image = f"dicom-images-train/1.2.{number}/1.3.{number}/1.2.{number}.dcm"
        write_dicom(tree.path(image), pattern(image).astype(np.int16), Modality="CR")
        rows += [f"1.2.{number}, {relative_runs(mask)}" for mask in boxes] or [f"1.2.{number}, -1"]
        masks = {"pneumothorax": np.any(boxes, axis=0)} if boxes else {}
        objects = {"pneumothorax": len(boxes)} if boxes else {}
        tree.expect(image, masks, objects=objects, absent=() if boxes else ("pneumothorax",))
    tree.text("train-rle.csv", "\n".join(rows))
    write_dicom(tree.path("dicom-images-train/1/1/1.dcm"), pattern("no row").astype(np.int16))
    tree.problems["missing mask"] = 1


def relative_runs(mask: np.ndarray) -> str:
    """Pairs of gap and length down the columns, as SIIM-ACR writes them."""
    values = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(values[1:] != values[:-1])
    starts, ends = edges[::2], edges[1::2]
    gaps = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(f"{gap} {length}" for gap, length in zip(gaps, ends - starts, strict=True))


def btxrd(tree: Tree) -> None:
    """Boxes beside polygons, two suffixes, annotations one folder deeper or in both, normal images without a file."""
    for number, suffix in ((1, "jpeg"), (2, "jpg")):
        image = f"BTXRD/images/IMG00000{number}.{suffix}"
        tree.image(image, colour=False)
        shapes = [
            ("osteosarcoma", "polygon", corners(1, 1, 2, 2)),
            ("osteosarcoma", "rectangle", [[4.0, 4.0], [30.0, 28.0]]),
            ("other bt", "polygon", corners(1, 3, 2, 2)),
            ("giant cell tumor", "polygon", [[1.0, 1.0], [2.0, 2.0]]),
        ]
        for folder in ("Annotations", "Annotations/Annotations")[number % 2 :]:
            tree.json(f"BTXRD/{folder}/IMG00000{number}.json", labelme(shapes))
        tree.expect(image, {"bone tumor": box(1, 1, 2, 4)}, objects={"bone tumor": 2})
    tree.image("BTXRD/images/IMG000003.jpeg", colour=False)
    tree.expect("BTXRD/images/IMG000003.jpeg", absent=["bone tumor"])


def arcade(tree: Tree) -> None:
    """Three parts with the same file names; masks and another task beside them."""
    categories = [{"id": n, "name": str(n)} for n in range(1, 26)] + [{"id": 26, "name": "stenosis"}]
    for split in ("train", "val", "test"):
        image = f"arcade/stenosis/{split}/images/1.png"
        tree.image(image, colour=False)
        tree.image(f"arcade/stenosis/{split}/masks/1.png", colour=False)
        tree.image(f"arcade/syntax/{split}/images/1.png", colour=False)
        outlines = [[[8, 8], [16, 8], [16, 24], [8, 24]], [[24, 8], [40, 8], [40, 16], [24, 16]]]
        tree.json(
            f"arcade/stenosis/{split}/annotations/{split}.json",
            {
                "images": [{"id": 7, "file_name": "1.png", "height": SHAPE[0], "width": SHAPE[1]}],
                "categories": categories,
                "annotations": [
                    {"id": n, "image_id": 7, "category_id": 26, "segmentation": [flat(outline)], "iscrowd": 0}
                    for n, outline in enumerate(outlines)
                ],
            },
        )
        expected = box(1, 1, 2, 1) | box(1, 3, 1, 2)
        tree.expect(image, {"coronary artery stenosis": expected}, objects={"coronary artery stenosis": 2})


def busi(tree: Tree) -> None:
    """Brackets and spaces, several masks for an image, empty masks, one lesion under benign and under malignant."""
    for group, number, masks in (
        ("benign", 4, [LEFT, RIGHT]),
        ("malignant", 1, [LEFT]),
        ("normal", 1, [NOTHING]),
    ):
        image = f"Dataset_BUSI_with_GT/{group}/{group} ({number}).png"
        tree.image(image)
        for n, mask in enumerate(masks):
            tree.binary(image.replace(".png", f"_mask{f'_{n}' if n else ''}.png"), mask)
        shown = np.any(masks, axis=0)
        tree.expect(image, {"breast tumor": shown}, absent=() if shown.any() else ("breast tumor",))
    again = "Dataset_BUSI_with_GT/benign/benign (9).png"
    tree.picture(again, pattern("Dataset_BUSI_with_GT/malignant/malignant (1).png", colour=True))
    tree.binary("Dataset_BUSI_with_GT/benign/benign (9)_mask.png", LEFT)
    tree.expect(again, {"breast tumor": LEFT})


def bus_uclm(tree: Tree) -> None:
    """Colours that are not exact; parts of a mirror hold the images again."""
    for name, colour in (("ALWI_000", (0, 255, 0)), ("ALWI_001", (0, 0, 0)), ("ANFO_005", (250, 6, 3))):
        image = f"BUS-UCLM/images/{name}.png"
        tree.image(image)
        tree.picture(image.replace("images", "masks"), LEFT[..., None] * np.array(colour, np.uint8))
        shown = LEFT if any(colour) else NOTHING
        tree.expect(image, {"breast tumor": shown}, patient=name[:4], absent=() if any(colour) else ("breast tumor",))
    tree.image("BUS-UCLM/partitions/test/images/ANFO_005.png")
    tree.text("BUS-UCLM/INFO.csv", "Image;Benign;Malignant;Normal\n")


def us_nerve(tree: Tree) -> None:
    """Frames of one patient, with and without a nerve."""
    for patient, number, mask in ((1, 1, LEFT), (1, 2, NOTHING), (2, 1, RIGHT)):
        image = f"train/{patient}_{number}.tif"
        tree.image(image, colour=False)
        tree.binary(f"train/{patient}_{number}_mask.tif", mask)
        absent = () if mask.any() else ("brachial plexus",)
        tree.expect(image, {"brachial plexus": mask}, patient=str(patient), absent=absent)
    tree.image("test/1.tif", colour=False)
    tree.text("train_masks.csv", "subject,img,pixels\n")


def acouslic(tree: Tree) -> None:
    """Sweeps of which a few frames are labelled, in folders whose names vary; two sweeps of one woman."""
    folder = "acouslic-ai-train-set"
    for uuid, planes in (("aaaa-1", {1: 1}), ("bbbb-2", {0: 2, 3: 1})):
        image = f"{folder}/images/stacked-fetal-ultrasound/{uuid}.mha"
        tree.volume(image, grey_volume(image))
        labels = np.zeros((4, *SHAPE), np.uint8)
        for k, value in planes.items():
            labels[k][LEFT] = value
        tree.volume(f"{folder}/masks/stacked_fetal_abdomen/{uuid}.mha", labels)
        known = {"fetal abdomen": sorted(planes)}
        tree.expect(image, {"fetal abdomen": labels > 0}, patient="S1", known=known)
    tree.text(
        f"{folder}/circumferences/fetal_abdominal_circumferences_per_sweep.csv",
        "uuid,subject_id,sweep_1_ac_mm\naaaa-1,S1,300\nbbbb-2,S1,\n",
    )


def ps_fh_aop(tree: Tree) -> None:
    """Colours on the first axis; labels of one plane."""
    top = "Pubic Symphysis-Fetal Head Segmentation and Angle of Progression"
    for number in (1, 2):
        image = f"{top}/image_mha/0000{number}.mha"
        tree.volume(image, np.stack([pattern(image)] * 3))
        labels = (LEFT + 2 * RIGHT * (number == 1)).astype(np.uint8)
        tree.volume(f"{top}/label_mha/0000{number}.mha", labels)
        masks = {"pubic symphysis": LEFT, "fetal head": labels == 2}
        tree.expect(image, masks, absent=() if number == 1 else ("fetal head",))


def ct2us_kidney(tree: Tree) -> None:
    """A folder in a folder of the same name; grey borders."""
    for number in (1, 2):
        image = f"slice/slice/{number}.png"
        tree.image(image, colour=False)
        tree.picture(
            f"mask/mask/{number}.png", np.where(LEFT, 250, np.where(np.roll(LEFT, 1, 1), 90, 0)).astype(np.uint8)
        )
        tree.expect(image, {"kidney": LEFT})


def segthy(tree: Tree) -> None:
    """Labels with and without _US; vessels in some volumes only, or by side."""
    top = "US_data/US_volunteer_dataset/ground_truth_data"
    for name, suffix, values in (
        ("001_P1_1_left", "", (1, 2, 3)),
        ("001_P2_1_right", "_US", (1,)),
        ("002_P1_1_left", "", (1, 4, 5)),
    ):
        image = f"{top}/US/{name}_US.nii"
        tree.volume(image, grey_volume(image))
        labels = np.zeros((4, *SHAPE), np.uint8)
        for place, value in enumerate(values):
            labels[slab(place, 0, 1, 2, (1, 2))] = value
        tree.volume(f"{top}/US_thyroid_label/{name}{suffix}.nii", labels)
        names = {1: "thyroid gland", 2: "carotid artery", 3: "jugular vein", 4: "carotid artery", 5: "jugular vein"}
        tree.expect(image, {names[value]: labels == value for value in values}, patient=name[:3])


def tn3k(tree: Tree) -> None:
    """JPEG masks, or PNG; images of both parts have the same names; another data set in the same archive."""
    for split, suffix in (("trainval", "jpg"), ("test", "png")):
        image = f"Thyroid Dataset/tn3k/{split}-image/0000.jpg"
        tree.image(image)
        tree.binary(f"Thyroid Dataset/tn3k/{split}-mask/0000.{suffix}", LEFT)
        tree.expect(image, {"thyroid nodule": LEFT})
    tree.json("Thyroid Dataset/tn3k/tn3k-trainval-fold0.json", {"train": [0], "val": []})
    tree.image("Thyroid Dataset/tg3k/thyroid-image/0000.jpg")


def hc18(tree: Tree) -> None:
    """Outlines of ellipses, one of them cut off by the picture; two pictures of one woman."""
    shape = (96, 128)
    for name, centre in (("010_HC", (48, 64)), ("010_2HC", (20, 64)), ("011_HC", (50, 60))):
        image = f"training_set/{name}.png"
        tree.image(image, shape=shape, colour=False)
        inside = ellipse(shape, centre, (28.0, 40.0))
        tree.binary(f"training_set/{name}_Annotation.png", inside & ~ellipse(shape, centre, (26.5, 38.5)))
        # Where the picture cuts the outline off, the ellipse through the rest of it is found again.
        tree.expect(image, {"fetal head": inside}, patient=name[:3], tolerance=10 * (name == "010_2HC"))
    tree.image("test_set/000_HC.png", shape=shape, colour=False)
    tree.text("training_set_pixel_size_and_HC.csv", "filename,pixel size(mm),head circumference (mm)\n")


def ellipse(shape: tuple[int, int], centre: tuple[int, int], radii: tuple[float, float]) -> np.ndarray:
    """bool ``(J, I)`` inside an upright ellipse."""
    y, x = np.indices(shape)
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


TREES: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        covid_qu_ex, chest_xray_masks, chest_xray_pneumothorax, btxrd, arcade, busi, bus_uclm, us_nerve, acouslic,
        ps_fh_aop, ct2us_kidney, segthy, tn3k, hc18,
    )
}  # fmt: skip
