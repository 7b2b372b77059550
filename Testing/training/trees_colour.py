"""Endoscopy, skin and eye data sets in their published layouts, with what their users report to be irregular."""

from __future__ import annotations

import numpy as np

from Testing.training.dataset_trees import NOTHING, SHAPE, Builder, Tree, box, corners, pattern

ONE, TWO = box(0, 0, 2, 2), box(2, 3, 2, 2)


def cholecseg8k(tree: Tree) -> None:
    """Numbers of the annotation tool in three equal channels or four, a white frame, other masks beside."""
    names = {50: "", 21: "liver", 22: "gallbladder", 31: "grasper", 5: "liver ligament"}
    absent = ["abdominal wall", "fat", "blood", "l-hook electrocautery"]
    for video, frame, alpha in (("video01", 80, False), ("video01", 81, True), ("video09", 80, False)):
        stem = f"{video}/{video}_00080/frame_{frame}_endo"
        tree.image(f"{stem}.png")
        numbers = np.full(SHAPE, 50, np.uint8)
        for place, number in enumerate((21, 22, 31, 5)):
            numbers[box(place, place, 1, 1)] = number
        numbers[:, -1] = 255
        channels = np.stack([numbers] * 3 + [np.full_like(numbers, 255)] * alpha, -1)
        tree.picture(f"{stem}_watershed_mask.png", channels)
        tree.image(f"{stem}_mask.png")
        tree.image(f"{stem}_color_mask.png")
        masks = {name: numbers == number for number, name in names.items() if name}
        tree.expect(f"{stem}.png", masks, patient=video, absent=absent)


def m2caiseg(tree: Tree) -> None:
    """Colours, two for the hook; stray pixels; a part that holds the others again; labels of another size."""
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[ONE], colours[TWO], colours[box(0, 5, 1, 1)] = (85, 170, 0), (0, 85, 170), (170, 0, 85)
    hook = box(1, 5, 1, 1) | box(2, 2, 1, 1)
    colours[box(1, 5, 1, 1)], colours[box(2, 2, 1, 1)] = (0, 170, 255), (0, 170, 85)
    colours[0, 40:43] = (0, 85, 255)
    for split, name in (("train", "00"), ("test", "475")):
        image = f"m2caiSeg dataset/{split}/images/{name}.jpg"
        tree.image(image)
        tree.picture(f"m2caiSeg dataset/{split}/groundtruth/{name}_gt.png", colours)
        tree.expect(image, {"liver": ONE, "grasper": TWO, "hook": hook})
        tree.picture(f"m2caiSeg dataset/trainval/images/{name}.jpg", pattern(image, colour=True))
        tree.picture(f"m2caiSeg dataset/trainval/groundtruth/{name}_gt.png", colours)
    tree.image("m2caiSeg dataset/test/images/0.jpg")
    tree.picture("m2caiSeg dataset/test/groundtruth/0_gt.png", np.zeros((16, 16, 3), np.uint8))
    tree.problems.update({"size": 1, "duplicate": 2})


def polypgen(tree: Tree) -> None:
    """JPEG masks of one channel or three, names that nearly agree, sequences with and without polyps."""
    top = "PolypGen2021_MultiCenterData_v3"
    for centre, channels in (("C1", 3), ("C2", 1)):
        image = f"{top}/data_{centre}/images_{centre}/100H0050.jpg"
        tree.image(image)
        mask = (ONE * 255).astype(np.uint8)
        folder = f"{top}/data_{centre}/masks_{centre}"
        tree.picture(f"{folder}/100H0050_mask.jpg", np.stack([mask] * 3, -1) if channels == 3 else mask)
        tree.expect(image, {"polyp": ONE})
    for image, mask in (("C3_EndoCV2021_00489_", "C3_EndoCV2021_00489_mask"), ("C3_x_1", "C3_x_1_mask")):
        tree.image(f"{top}/data_C3/images_C3/{image}.jpg")
        tree.binary(f"{top}/data_C3/masks_C3/{mask}.jpg", TWO)
        tree.expect(f"{top}/data_C3/images_C3/{image}.jpg", {"polyp": TWO})
    tree.image(f"{top}/data_C3/images_C3/C3_EndoCV2021_00001.jpg")
    tree.image(f"{top}/imagesAll_positive/100H0050.jpg")
    tree.image(f"{top}/data_C1/bbox_image_C1/957OLCV1_100H0002_mask_bbox.jpg")
    tree.image(f"{top}/data_C6/bbox_images_C6/1_mask_bbox.jpg")
    tree.text(f"{top}/data_C1/bbox_C1/100H0050_mask.txt", "polyp 0 0 16 16")
    for frame, mask in (("001", TWO), ("002", NOTHING)):
        image = f"{top}/sequenceData/positive/seq7/images_seq7/7_endocv2021_positive_{frame}.jpg"
        tree.image(image)
        tree.binary(image.replace("images_", "masks_").replace(".jpg", "_mask.jpg"), mask)
        tree.expect(image, {"polyp": mask}, patient="seq7", absent=() if mask.any() else ["polyp"])
    image = f"{top}/sequenceData/negativeOnly/seq1_neg/neg_001.jpg"
    tree.image(image)
    tree.expect(image, absent=["polyp"], patient="seq1_neg")
    tree.problems["missing mask"] = 1


def bkai_neopolyp(tree: Tree) -> None:
    """Red and green in JPEG; images of the test have no labels."""
    for name, colour in (("aa11", (255, 0, 0)), ("bb22", (0, 255, 0))):
        image = f"train/train/{name}.jpeg"
        tree.image(image)
        tree.picture(f"train_gt/train_gt/{name}.jpeg", ONE[..., None] * np.array(colour, np.uint8), subsampling=0)
        kind, other = ("neoplastic polyp", "non-neoplastic polyp")[:: 1 if colour[0] else -1]
        tree.expect(image, {"polyp": ONE, kind: ONE}, absent=[other])
    tree.image("test/test/cc33.jpeg")


def kvasir_seg(tree: Tree) -> None:
    """JPEG masks whose values are only near 0 and 255; an empty one is empty."""
    for name, mask in (("cju0qkwl35piu0993l0dewei2", ONE), ("cju0qoxqj9q6s0835b43399p4", TWO), ("cju1", NOTHING)):
        image = f"Kvasir-SEG/images/{name}.jpg"
        tree.image(image)
        noisy = np.where(mask, 250, 5) + np.random.default_rng(0).integers(-5, 6, SHAPE)
        tree.picture(f"Kvasir-SEG/masks/{name}.jpg", noisy.clip(0, 255).astype(np.uint8))
        tree.expect(image, {"polyp": mask}, absent=() if mask.any() else ("polyp",))
    tree.json("Kvasir-SEG/kavsir_bboxes.json", {})


def cvc_clinicdb(tree: Tree) -> None:
    """TIFF, PNG copies beside them, another spelling of the folder."""
    for number in (1, 2):
        image = f"CVC-ClinicDB/Original/{number}.tif"
        tree.image(image)
        tree.binary(f"CVC-ClinicDB/Ground-Truth/{number}.tif", ONE)
        tree.image(f"CVC-ClinicDB/PNG/Original/{number}.png")
        tree.expect(image, {"polyp": ONE})


def etis_larib(tree: Tree) -> None:
    """Masks with a p; a folder of the data set's own name; masks of three channels."""
    for number in (1, 12):
        image = f"ETIS-LaribPolypDB/ETIS-LaribPolypDB/{number}.tif"
        tree.image(image)
        mask = np.stack([(TWO * 255).astype(np.uint8)] * 3, -1)
        tree.picture(f"ETIS-LaribPolypDB/Ground Truth/p{number}.tif", mask)
        tree.expect(image, {"polyp": TWO})


def isic_2018(tree: Tree) -> None:
    """Text files among the pictures."""
    for number in (0, 1):
        image = f"ISIC2018_Task1-2_Training_Input/ISIC_000000{number}.jpg"
        tree.image(image)
        tree.binary(f"ISIC2018_Task1_Training_GroundTruth/ISIC_000000{number}_segmentation.png", ONE)
        tree.expect(image, {"skin lesion": ONE})
    tree.text("ISIC2018_Task1-2_Training_Input/ATTRIBUTION.txt", "ISIC")
    tree.text("ISIC2018_Task1_Training_GroundTruth/LICENSE.txt", "CC")


def ph2(tree: Tree) -> None:
    """BMP in folders of their own; 1-bit masks; regions that are no lesion."""
    for name in ("IMD002", "IMD437"):
        folder = f"PH2Dataset/PH2 Dataset images/{name}"
        tree.image(f"{folder}/{name}_Dermoscopic_Image/{name}.bmp")
        tree.picture(f"{folder}/{name}_lesion/{name}_lesion.bmp", TWO)
        tree.binary(f"{folder}/{name}_roi/{name}_R1_Label3.bmp", ONE)
        tree.expect(f"{folder}/{name}_Dermoscopic_Image/{name}.bmp", {"skin lesion": TWO})


def fetoplac(tree: Tree) -> None:
    """Masks of three channels; clips without labels by hand."""
    top = "Fetoscopy Placenta Dataset/Vessel_segmentation_annotations"
    for video in ("video01", "video02"):
        image = f"{top}/{video}/images/anon001_00001.png"
        tree.image(image)
        mask = np.stack([(TWO * 255).astype(np.uint8)] * 3, -1)
        tree.picture(f"{top}/{video}/masks_gt/anon001_00001_mask.png", mask)
        tree.expect(image, {"placental vessel": TWO}, patient=video)
    clip = "Fetoscopy Placenta Dataset/Vessel_registration_unannotated_clips/video01"
    tree.image(f"{clip}/images/anon001_00851.png")
    tree.binary(f"{clip}/masks_predicted/anon001_00851.png", ONE)


def papila(tree: Tree) -> None:
    """Contours as text, of two experts; one eye without the second expert; images with lines drawn in."""
    for eye, experts in (("RET002OD", (1, 2)), ("RET002OS", (1,)), ("RET004OD", (1, 2))):
        image = f"PapilaDB/FundusImages/{eye}.jpg"
        tree.image(image)
        for expert in experts:
            shift = expert - 1
            for part, place in (("disc", (0, shift, 3, 3)), ("cup", (1, 1 + shift, 1, 1))):
                lines = "\n".join(f"  {x:.7e}   {y:.7e}" for x, y in corners(*place))
                tree.text(f"PapilaDB/ExpertsSegmentations/Contours/{eye}_{part}_exp{expert}.txt", lines)
        tree.image(f"PapilaDB/ExpertsSegmentations/ImagesWithContours/Opht_cont_{eye}.jpg")
        tree.expect(image, {"optic disc": box(0, 0, 3, 3), "optic cup": box(1, 1, 1, 1)}, patient=eye[:6])
    tree.text("PapilaDB/ClinicalData/patient_data_od.csv", "")


def coph100(tree: Tree) -> None:
    """Points and masks beside images that came from elsewhere; one image was not copied."""
    for name in ("001_F_GA29_BW1010_PA34_S01_1", "002_M_GA41_BW2905_PA44_S02_7"):
        image = f"COph100/{name[:3]}/{name}.jpg"
        tree.image(image)
        tree.binary(image.replace(".jpg", "_mask.png"), ONE)
        tree.text(image.replace(".jpg", ".txt"), "1 2 3 4")
        tree.expect(image, {"retinal vessel": ONE}, patient=name[:3])
    tree.binary("COph100/003/003_F_S01_1_mask.png", ONE)
    tree.problems["missing image"] = 1


def ravir(tree: Tree) -> None:
    """Numbers 0, 128 and 255, or 256 where a picture has 16 bits; images of the test have no labels."""
    for number, vein, bits in ((11, 255, np.uint8), (38, 256, np.uint16)):
        image = f"RAVIR Dataset/train/training_images/IR_Case_0{number}.png"
        tree.image(image, colour=False)
        tree.picture(image.replace("images", "masks"), (128 * ONE + vein * TWO).astype(bits))
        tree.expect(image, {"retinal artery": ONE, "retinal vein": TWO})
    tree.image("RAVIR Dataset/test/IR_Case_006.png", colour=False)


def drive(tree: Tree) -> None:
    """GIF masks; the field of view in a folder called mask."""
    for number in (21, 22):
        image = f"DRIVE/training/images/{number}_training.tif"
        tree.image(image)
        tree.binary(f"DRIVE/training/1st_manual/{number}_manual1.gif", ONE)
        tree.binary(f"DRIVE/training/mask/{number}_training_mask.gif", ONE | TWO)
        tree.expect(image, {"retinal vessel": ONE})
    tree.image("DRIVE/test/images/01_test.tif")
    tree.binary("DRIVE/test/mask/01_test_mask.gif", ONE | TWO)


def chase_db1(tree: Tree) -> None:
    """Two observers, two eyes of a child, 1-bit masks."""
    for name in ("01L", "01R", "02L"):
        tree.image(f"CHASEDB1/Image_{name}.jpg")
        tree.picture(f"CHASEDB1/Image_{name}_1stHO.png", ONE)
        tree.picture(f"CHASEDB1/Image_{name}_2ndHO.png", TWO)
        tree.expect(f"CHASEDB1/Image_{name}.jpg", {"retinal vessel": ONE}, patient=name[:2])


def stare(tree: Tree) -> None:
    """PPM; two observers; copies of another size."""
    for number in ("0001", "0324"):
        tree.image(f"stare-images/im{number}.ppm")
        tree.binary(f"labels-ah/im{number}.ah.ppm", ONE)
        tree.binary(f"labels-vk/im{number}.vk.ppm", TWO)
        tree.image(f"stare-images/im{number}.ppm.png", shape=(16, 16))
        tree.expect(f"stare-images/im{number}.ppm", {"retinal vessel": ONE})


def intraretinal_cystoid_fluid(tree: Tree) -> None:
    """A folder an image, masks with three kinds of names, the mask of another image in one of the folders."""
    top = "2021-training-data-ZA/2021-training-data-ZA"
    for folder, mask in (
        ("815DME_F", "815MASK_DME_F"),
        ("6DME_as_F", "6MASK_DME_as_F"),
        ("511DME_F", "MASK-DME511"),
        ("dme_a10", "dme_a10mask"),
        ("DME84", "MASK-DME84"),
        ("DME_S_001", "DME_S_001mask"),
    ):
        image = f"{top}/{folder}/images/{folder}.jpeg"
        tree.image(image, colour=False)
        tree.binary(f"{top}/{folder}/masks/{mask}.png", ONE)
        tree.expect(image, {"intraretinal cystoid fluid": ONE})
    tree.binary(f"{top}/815DME_F/masks/MASK-DME511.png", TWO)


TREES: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        cholecseg8k, m2caiseg, polypgen, bkai_neopolyp, kvasir_seg, cvc_clinicdb, etis_larib, isic_2018, ph2, fetoplac,
        papila, coph100, ravir, drive, chase_db1, stare, intraretinal_cystoid_fluid,
    )
}  # fmt: skip
