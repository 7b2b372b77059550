"""A decoded volume as a file that a browser can show: ``python -m MedicalSAM3Lib.volume_preview FOLDER``.

For what a browser cannot read itself (DICOM, TIFF), and for a page that was loaded again and has lost its file.
Written by a child process when it is first asked for, and kept with the volume.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from MedicalSAM3Lib.errors import MedicalSAM3Error
from MedicalSAM3Lib.structures import Volume

PICTURE, VOLUME = "preview.png", "preview.nii.gz"


async def preview(folder: Path, is_picture: bool, timeout_s: float) -> Path:
    """The file: PNG of a picture, else NIfTI on the volume's own grid.

    Args:
        folder: As ``volume_files.store`` wrote it.
        is_picture: What it holds.
        timeout_s: To write it.

    Raises:
        Refused: 507: the disk is full; 422 "too_slow" or "child_died".
    """
    from MedicalSAM3Lib.children import run_child

    path = folder / (PICTURE if is_picture else VOLUME)
    if not path.is_file():
        await run_child("volume_preview", [str(folder)], timeout_s=timeout_s)
    return path


def main(arguments: Sequence[str]) -> int:
    """Write the file, print one line of JSON, return 0."""
    from MedicalSAM3Lib.volume_files import load

    folder = Path(arguments[0])
    try:
        write(folder, load(folder, "volume"))
        answer: dict[str, object] = {"ok": True}
    except MedicalSAM3Error as error:
        answer = {"ok": False, "code": error.code, "message": str(error)}
    print(json.dumps(answer))
    return 0


def write(folder: Path, volume: Volume) -> None:
    """Write the preview of a volume into a folder; it appears whole or not at all.

    Raises:
        OutputError: The disk is full or refuses.
    """
    from MedicalSAM3Lib.atomic import replacing

    with replacing(folder / (PICTURE if volume.is_2d else VOLUME)) as (partial,):
        if volume.is_2d:
            _write_picture(partial, volume.array[0])
        else:
            _write_volume(partial, volume)


def _write_picture(path: Path, pixels: np.ndarray) -> None:
    """8 bits: colours as they are, grey values from the least to the greatest unless they are 8 bits already."""
    from PIL import Image

    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255:
        pixels = (pixels - low) * (255.0 / (high - low))
    Image.fromarray(np.round(pixels).astype(np.uint8)).save(path, format="PNG")


def _write_volume(path: Path, volume: Volume) -> None:
    """Whole numbers of 16 bits where no value is lost by it; colours as their mean, which a viewer can window."""
    import SimpleITK

    from MedicalSAM3Lib.outputs import set_affine

    array = volume.array if volume.array.ndim == 3 else volume.array.mean(axis=-1)
    short = array.astype(np.int16) if abs(array).max() < 1 << 15 else array
    image = SimpleITK.GetImageFromArray(short if np.array_equal(short, array) else array)
    set_affine(image, volume.ijk_to_lps)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain = Path(folder) / "volume.nii"
        SimpleITK.WriteImage(image, str(plain))
        # Level 1: what is packed here is unpacked at once by whoever looks at it.
        with plain.open("rb") as source, gzip.open(path, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
