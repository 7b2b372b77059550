"""The segmentation of a job as a file in any format: ``python -m MedicalSAM3Lib.exports FOLDER FORMAT``.

Written by a child process when it is first asked for, so that the server stays quick, and kept with the results.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from MedicalSAM3Lib.errors import MedicalSAM3Error, OutputError

Format = Literal["seg.nrrd", "nii.gz", "nii", "png", "zip"]
FORMATS: tuple[str, ...] = get_args(Format)


async def export(results: Path, as_format: Format, timeout_s: float) -> Path:
    """The file of a format.

    Args:
        results: As ``result_files.write_results`` wrote it.
        as_format: What to write.
        timeout_s: To write it.

    Raises:
        Refused: 422 "output": the format cannot hold this segmentation; 507: the disk is full.
    """
    from MedicalSAM3Lib import children

    path = results / f"segmentation.{as_format}"
    if not path.is_file():
        await children.run_child("exports", [str(results), as_format], timeout_s=timeout_s)
    return path


def main(arguments: Sequence[str]) -> int:
    """Write the file, print one line of JSON, return 0."""
    results, as_format = Path(arguments[0]), arguments[1]
    try:
        write(results, as_format)
        answer: dict[str, object] = {"ok": True}
    except Unfit as error:
        answer = {"ok": False, "code": "format", "message": str(error)}
    except MedicalSAM3Error as error:
        answer = {"ok": False, "code": error.code, "message": str(error)}
    print(json.dumps(answer))
    return 0


class Unfit(OutputError):  # noqa: N818 - caught here, and named for what it says
    """A format cannot hold a segmentation."""

    code = "format"


def write(results: Path, as_format: str) -> None:
    """Write ``segmentation.FORMAT`` beside the results; it appears whole or not at all.

    Raises:
        Unfit: One file of that format cannot hold it.
        OutputError: The disk is full or refuses.
    """
    from MedicalSAM3Lib import outputs, seg_nrrd
    from MedicalSAM3Lib.atomic import replacing
    from MedicalSAM3Lib.result_files import read_segmentation

    segmentation = read_segmentation(results)
    path = results / f"segmentation.{as_format}"
    if as_format == "seg.nrrd":
        seg_nrrd.write_seg_nrrd(path, segmentation)
        return
    if as_format == "png" and segmentation.layers[0].shape[0] != 1:
        raise Unfit("Expected seg.nrrd, nii.gz or zip for a volume, got png; a PNG mask is for one picture.")
    if as_format != "zip" and len(segmentation.layers) > 1:
        raise Unfit(f"Expected seg.nrrd or zip for masks that overlap, got {as_format}, which holds one label a voxel.")
    with tempfile.TemporaryDirectory(dir=results) as name:
        folder, suffix = Path(name), "nii.gz" if as_format == "zip" else as_format
        outputs.write_label_files(folder / f"segmentation.{suffix}", segmentation)
        with replacing(path) as (new,):
            if as_format != "zip":
                (folder / f"segmentation.{suffix}").replace(new)
                return
            with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
