"""Pathology and microscopy data sets in their published layouts, with what their users report to be irregular."""

from __future__ import annotations

import h5py
import numpy as np

from Testing.training.dataset_trees import SHAPE, Builder, Tree, box, corners, grey_volume, labelme, pattern, slab

ONE, TWO, THREE = box(0, 0, 1, 2), box(0, 2, 1, 2), box(2, 0, 2, 2)
"""Two that touch, and one apart."""


def pannuke(tree: Tree) -> None:
    """float64 colours, numbers that start anew in each channel, an empty tile, a background channel."""
    for fold in (1, 2):
        images = np.stack([pattern(f"pannuke{fold}{n}", colour=True) for n in range(3)]).astype(np.float64)
        masks = np.zeros((3, *SHAPE, 6))
        masks[0, ONE, 0], masks[0, TWO, 0], masks[0, THREE, 4] = 7, 90_001, 1
        masks[1, THREE, 1] = 3
        masks[..., 5] = masks[..., :5].max(-1) == 0
        for kind, array in (("images", images), ("masks", masks)):
            np.save(tree.path(f"Fold {fold}/{kind}/fold{fold}/{kind}.npy"), array)
        np.save(tree.path(f"Fold {fold}/images/fold{fold}/types.npy"), np.array(["Breast"] * 3))
        name = f"Fold {fold}/images/fold{fold}/images.npy"
        kinds = ["neoplastic cell", "inflammatory cell", "connective tissue cell", "dead cell", "epithelial cell"]
        shown = [
            {"neoplastic cell": ONE | TWO, "epithelial cell": THREE},
            {"inflammatory cell": THREE},
            {},
        ]
        for part, mask in enumerate(shown):
            objects = {"neoplastic cell": 2} if part == 0 else {}
            absent = [kind for kind in kinds if kind not in mask]
            tree.expect(f"{name}[{part}]", mask, absent=absent, objects=objects)


def imagescope(regions: list[list[list[float]]], *, hole: bool = False) -> str:
    """The XML of Aperio ImageScope, a region each."""
    written = [
        f'<Region Id="{n}" Type="0" NegativeROA="{int(hole and n == 0)}"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in region)
        + "</Vertices></Region>"
        for n, region in enumerate(regions)
    ]
    return f'<Annotations><Annotation Id="1"><Regions>{"".join(written)}</Regions></Annotation></Annotations>'


def monuseg(tree: Tree) -> None:
    """Two folders for training, one for the test; clicks that are no nuclei; corners outside the picture."""
    outside = [[-9.0, 16.0], [15.0, 16.0], [15.0, 40.0], [-9.0, 40.0]]
    regions = [corners(0, 0, 1, 2), corners(0, 2, 1, 2), outside, [[4.0, 4.0]]]
    for name, folders in (
        ("TCGA-A7-A13E-01Z-00-DX1", ("Tissue Images", "Annotations")),
        ("TCGA-2Z-A9J9-01A-01-TS1", ("MoNuSegTestData", "MoNuSegTestData")),
    ):
        top = "MoNuSeg 2018 Training Data/" if "Tissue" in folders[0] else ""
        image = f"{top}{folders[0]}/{name}.tif"
        tree.image(image)
        tree.text(f"{top}{folders[1]}/{name}.xml", imagescope(regions))
        tree.expect(image, {"cell nucleus": ONE | TWO | THREE}, patient=name[:12], objects={"cell nucleus": 3})


def breast_cancer_segmentation(tree: Tree) -> None:
    """Numbers, among them regions that nobody looked at."""
    for name in ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500", "TCGA-A2-A0CM-DX1_xmin18562_ymin56852_MPP-0.2500"):
        image = f"0_Public-data-Amgad2019_0.25MPP/rgbs_colorNormalized/{name}.png"
        tree.image(image)
        labels = (1 * ONE + 2 * TWO + 20 * THREE + 7 * box(3, 5, 1, 1)).astype(np.uint8)
        tree.picture(f"0_Public-data-Amgad2019_0.25MPP/masks/{name}.png", labels)
        masks = {"tumor": ONE, "stroma": TWO, "ductal carcinoma in situ": THREE}
        tree.expect(image, masks, patient=name[:12])
    tree.text("0_Public-data-Amgad2019_0.25MPP/meta/gtruth_codes.tsv", "label\tGT_code\n")


def glas(tree: Tree) -> None:
    """BMP beside BMP, numbered glands, a table whose column names begin with a space."""
    for name in ("train_1", "testA_1", "testB_1"):
        image = f"Warwick QU Dataset (Released 2016_07_08)/{name}.bmp"
        tree.image(image)
        tree.picture(image.replace(".bmp", "_anno.bmp"), (1 * ONE + 2 * TWO + 3 * THREE).astype(np.uint8))
        patient = {"train_1": "3", "testA_1": "3"}.get(name, "")
        tree.expect(image, {"gland": ONE | TWO | THREE}, patient=patient, objects={"gland": 3})
    rows = "name, patient ID, grade (GlaS)\ntrain_1, 3, benign\ntestA_1, 3, malignant\n"
    tree.text("Warwick QU Dataset (Released 2016_07_08)/Grade.csv", rows)


def hdf5(tree: Tree, name: str, key: str, array: np.ndarray) -> None:
    """An HDF5 file with one array."""
    with h5py.File(tree.path(name), "w") as file:
        file.create_dataset(key, data=array)


def mucic_colon(tree: Tree) -> None:
    """Binary labels; the same tissue in two archives, with files of the same names."""
    nuclei = slab(0, 0, 2, 2, (1, 2)) | slab(2, 3, 1, 2, (0,))
    for noise, suffix in (("ColonTissue_LowNoise_3D_HDF5", "h5"), ("ColonTissue_HighNoise_3D_HDF5", "hdf5")):
        image = f"{noise}/image-final_0000.{suffix}"
        hdf5(tree, image, "Image", grey_volume(image).astype(np.uint16))
        hdf5(tree, f"{noise}/image-labels_0000.{suffix}", "Image", nuclei.astype(np.uint16))
        tree.expect(image, {"cell nucleus": nuclei}, patient="0000")


def mucic_hl60(tree: Tree) -> None:
    """TIFF stacks of an older archive, numbered nuclei that touch."""
    import tifffile

    labels = (5 * slab(0, 0, 1, 2, (1, 2)) + 6 * slab(0, 2, 1, 2, (1, 2))).astype(np.uint16)
    for variant in ("HL60_LowNoise_C00_3D_TIFF", "HL60_HighNoise_C75_3D_TIFF"):
        image = f"{variant}/image-final_0003.tif"
        tifffile.imwrite(tree.path(image), grey_volume(image).astype(np.uint16), photometric="minisblack")
        tifffile.imwrite(tree.path(f"{variant}/image-labels_0003.tif"), labels, photometric="minisblack")
        tree.expect(image, {"cell nucleus": labels > 0}, patient="0003", objects={"cell nucleus": 2})


def nucmm_z(tree: Tree) -> None:
    """Image and labels in folders of their own, numbers with gaps."""
    labels = (9 * slab(0, 0, 1, 2, (0, 1)) + 400 * slab(0, 2, 1, 2, (1,))).astype(np.uint16)
    for split in ("train", "val"):
        image = f"Zebrafish(NucMM-Z)/Image/{split}/img_0000_0576_0768.h5"
        hdf5(tree, image, "main", grey_volume(image + split))
        hdf5(tree, f"Zebrafish(NucMM-Z)/Label/{split}/seg_0000_0576_0768.h5", "main", labels)
        tree.expect(image, {"cell nucleus": labels > 0}, objects={"cell nucleus": 2})


def urocell(tree: Tree) -> None:
    """A folder a label; volumes without some of them, or with approximate ones only; binary labels beside them."""
    mito = (1 * slab(0, 0, 1, 2, (0, 1)) + 2 * slab(0, 2, 1, 2, (1,))).astype(np.uint8)
    golgi, empty = slab(2, 2, 1, 2, (3,)).astype(np.uint8), np.zeros((4, *SHAPE), np.uint8)
    for name, files in (
        ("fib1-0-0-0", {"mito/instance": mito, "golgi/precise": golgi, "lyso/instance": empty}),
        ("fib1-1-0-3", {"mito/instance": mito}),
    ):
        image = f"UroCell-master/data/{name}.nii.gz"
        tree.volume(image, grey_volume(image))
        for folder, labels in files.items():
            tree.volume(f"UroCell-master/{folder}/{name}.nii.gz", labels)
        tree.volume(f"UroCell-master/mito/binary/{name}.nii.gz", (mito > 0).astype(np.uint8))
        masks = {"mitochondrion": mito > 0}
        if len(files) > 1:
            masks["golgi apparatus"] = golgi > 0
        absent = ["lysosome"] if len(files) > 1 else []
        tree.expect(image, masks, patient=name, absent=absent, objects={"mitochondrion": 2})
    tree.volume("UroCell-master/data/fib1-3-2-1.nii.gz", grey_volume("approximate"))
    tree.volume("UroCell-master/golgi/approximate/fib1-3-2-1.nii.gz", golgi)
    tree.problems["missing mask"] = 1


def pcmmd(tree: Tree) -> None:
    """JSON in a folder called masks; one labelled cell an image."""
    top = "PCMMD Plasma Cells for Multiple Myeloma Diagnosis/data/segmentation"
    for folder, label, concept in (
        ("plasma cells", "plasma_cell", "plasma cell"),
        ("non-plasma cells", "non_plasma_cell", "non-plasma cell"),
    ):
        image = f"{top}/{folder}/images/1692243677854.jpg"
        tree.image(image)
        tree.json(f"{top}/{folder}/masks/1692243677854.json", labelme([(label, "polygon", corners(1, 1, 2, 2))]))
        tree.expect(image, {concept: box(1, 1, 2, 2)}, objects={concept: 1})
    tree.image(f"{top.replace('segmentation', 'detection')}/train/images/1.jpg")


TREES: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        pannuke, monuseg, breast_cancer_segmentation, glas, mucic_colon, mucic_hl60, nucmm_z, urocell, pcmmd,
    )
}  # fmt: skip
