"""The picture of a batch's page in ``Resources/Screenshots``: ``python -m Testing.lib.batch_shot [FOLDER]``.

A small cohort is cut from the sample CT, with what goes wrong in real ones, and goes through the command line with the
demonstration model and two workers. With FOLDER all of it is kept there.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK
from PIL import Image
from playwright.sync_api import sync_playwright

from MedicalSAM3Lib.resources import resource
from Testing.lib.file_worlds import write_dicom
from Testing.server.page_driver import FLAGS, chromium

CONCEPTS = ("liver", "spleen", "aorta", "stomach", "adrenal gland", "brain")


def make_cohort(folder: Path) -> None:
    """Seven cases of one CT: whole, parts of it, a DICOM series, one slice; a file cut short, a folder of letters."""
    sample = resource("samples", "ct_upper_abdomen.nii.gz")
    image = SimpleITK.ReadImage(str(sample))
    folder.mkdir(parents=True)
    parts = {"whole": image, "head_side": image[:, :, 8:], "foot_side": image[:, :, :12], "right_side": image[:135],
             "moved": image[20:236, 10:240, 2:], "one_slice": image[:, :, 10:11]}  # fmt: skip
    for name, part in parts.items():
        SimpleITK.WriteImage(part, str(folder / f"ct_{name}.nii.gz"))
    data = sample.read_bytes()
    (folder / "ct_cut_short.nii.gz").write_bytes(data[: len(data) // 2])
    (folder / "letters").mkdir()
    (folder / "letters" / "referral.txt").write_text("no image", encoding="utf-8")
    write_dicom_series(image[:, :, 4:18], folder / "dicom_study")


def write_dicom_series(image: SimpleITK.Image, folder: Path) -> None:
    """A slice a file."""
    folder.mkdir()
    for number in range(image.GetDepth()):
        values = {
            "ImagePositionPatient": list(image.TransformIndexToPhysicalPoint((0, 0, number))),
            "ImageOrientationPatient": np.reshape(image.GetDirection(), (3, 3))[:, :2].T.ravel().tolist(),
            "PixelSpacing": list(image.GetSpacing()[1::-1]),
            "InstanceNumber": number + 1,
        }
        pixels = SimpleITK.GetArrayFromImage(image[:, :, number]).astype(np.int16)
        write_dicom(folder / f"IM{number:04}", pixels, **values)


def take_picture(page_file: Path, picture: Path, height: int) -> None:
    """Of the upper part of a page."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(viewport={"width": 1360, "height": height})
        page.goto(page_file.resolve().as_uri())
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(256, kmeans=2, dither=Image.Dither.NONE).save(picture, optimize=True)
        browser.close()


def main(folder: Path) -> None:
    """Make the cohort, segment it, take the picture."""
    if not (folder / "cohort").is_dir():
        make_cohort(folder / "cohort")
    asked = [word for concept in CONCEPTS for word in ("-c", concept)]
    words = [str(folder / "cohort"), *asked, "-o", str(folder / "results"), "--device", "cpu,cpu"]
    subprocess.run([sys.executable, "-m", "MedicalSAM3Lib.cli", "batch", *words], check=False)
    shots = resource("Screenshots")
    take_picture(folder / "results" / "index.html", shots / "batch.png", 1235)


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
