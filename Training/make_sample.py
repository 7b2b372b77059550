"""Make ``Resources/samples`` from the unseen patient of the prepared data.

    python -m Training.make_sample --data data/tiny

The CT is halved in the slice plane (mean of 2x2 pixels), to stay small; its masks likewise, by nearest label.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from MedicalSAM3Lib.resources import resource

VOLUME = "abdomen-ct-b"
NAME = "ct_upper_abdomen"
SMALLEST_ML = 2.0


def main(arguments: list[str] | None = None) -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/tiny"), help="folder that Training.prepare wrote")
    source = parser.parse_args(arguments).data / VOLUME
    image = sitk.BinShrink(sitk.ReadImage(str(source / "image.nii.gz")), [2, 2, 1])
    image = sitk.Cast(sitk.Round(image) if image.GetPixelID() == sitk.sitkFloat32 else image, sitk.sitkInt16)
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000
    labels = np.zeros(image.GetSize()[::-1], np.uint8)
    phrases: dict[str, str] = {}
    for path in sorted(source.glob("*.nii.gz")):
        concept = path.name.removesuffix(".nii.gz")
        if concept == "image" or concept.startswith(("left_", "right_")):
            continue
        mask = sitk.Resample(sitk.ReadImage(str(path)), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        array = sitk.GetArrayFromImage(mask) > 0
        if array.sum() * voxel_ml >= SMALLEST_ML:
            phrases[str(len(phrases) + 1)] = concept.replace("_", " ")
            labels[array] = len(phrases)
    reference = sitk.GetImageFromArray(labels)
    reference.CopyInformation(image)
    folder = resource("samples")
    sitk.WriteImage(image, str(folder / f"{NAME}.nii.gz"), useCompression=True, compressionLevel=9)
    sitk.WriteImage(reference, str(folder / f"{NAME}_reference.nii.gz"), useCompression=True, compressionLevel=9)
    text = json.dumps(phrases, indent=2) + "\n"
    (folder / f"{NAME}_reference.json").write_text(text, encoding="utf-8")
    print(f"{image.GetSize()} voxels, {len(phrases)} structures in {folder}")


if __name__ == "__main__":
    main()
