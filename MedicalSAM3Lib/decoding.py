"""``python -m MedicalSAM3Lib.decoding FILE FOLDER LIMITS``: read a stranger's file in a process that may die.

What it reads becomes a volume folder (``volume_files``); nothing of the header but geometry and modality is kept.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib.errors import InputError, MedicalSAM3Error, SeriesNeeded, TooLarge

if TYPE_CHECKING:
    from MedicalSAM3Lib.dicom import SeriesInfo
    from MedicalSAM3Lib.guards import Allowance

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".zip")
"""Files that can be uploaded. Headers that name another file (.nhdr, .mhd) are not among them."""


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What decoding a file may take.

    Attributes:
        voxels: Of the volume, times colours.
        expansion_ratio: Content against file.
        memory_bytes, cpu_s, file_bytes: Of the process, and of each file that it writes.
        series: Which series of an archive, from 1; None where it holds one.
        frame: Which frame of a 4D image, from 0; None where it has one.
        modality, is_picture: What the sender says, for formats that do not.
    """

    voxels: int
    expansion_ratio: int
    memory_bytes: int
    cpu_s: int
    file_bytes: int
    series: int | None = None
    frame: int | None = None
    modality: str = ""
    is_picture: bool = False


def main(arguments: Sequence[str]) -> int:
    """Decode, print one line of JSON, return 0; whatever happens is in the line."""
    source, folder, limits = Path(arguments[0]), Path(arguments[1]), DecodeLimits(**json.loads(arguments[2]))
    from MedicalSAM3Lib.limits import tighten

    tighten(memory_bytes=limits.memory_bytes, cpu_s=limits.cpu_s, file_bytes=limits.file_bytes)
    series: list[dict[str, Any]] = []
    try:
        answer = decode(source, folder, limits, series)
    except MedicalSAM3Error as error:
        answer = {"ok": False, "code": error.code, "message": str(error)}
    except MemoryError:
        answer = {"ok": False, "code": TooLarge.code, "message": "The image takes more memory than it may; crop it."}
    except OSError:
        answer = {"ok": False, "code": "disk_full", "message": "The image could not be kept: the disk is full."}
    except Exception:  # a damaged file finds its way to the oddest place of a library
        message = "Expected a complete image, got one that no reader understands; export it again."
        answer = {"ok": False, "code": InputError.code, "message": message}
    print(json.dumps(answer | ({"series": series} if series else {})))
    return 0


def decode(source: Path, folder: Path, limits: DecodeLimits, series: list[dict[str, Any]]) -> dict[str, Any]:
    """Read a file and store it as a volume folder.

    Args:
        source: Its suffix is one of ``SUFFIXES``.
        folder: An empty one.
        limits: Kept before anything is allocated.
        series: Filled with what an archive holds, where it holds several.

    Raises:
        InputError: It cannot be read, or a choice is needed.
    """
    from MedicalSAM3Lib import files, volume_files
    from MedicalSAM3Lib.archives import expands_within
    from MedicalSAM3Lib.guards import Allowance, allowance

    limit = Allowance.of(limits.voxels, limits.expansion_ratio, source.stat().st_size)
    notices: list[str] = []
    token = allowance.set(limit)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as unpacked:
            path = source if source.suffix != ".zip" else _unpacked(source, Path(unpacked), limit)
            if path.name.endswith(".gz"):
                expands_within(path, limit)
            chosen = _choose(path, limits.series, series)
            volume = files.read_volume(path, series=chosen, frame=limits.frame, on_notice=notices.append)
    finally:
        allowance.reset(token)
    if volume.array.size > limits.voxels:  # not every reader knows the size beforehand
        raise TooLarge(f"Expected an image of at most {limits.voxels:,} values, got {volume.array.size:,}; crop it.")
    is_picture = volume.is_2d or (limits.is_picture and len(volume.array) == 1)
    volume_files.store(folder, replace(volume, modality=volume.modality or limits.modality, is_2d=is_picture))
    return {"ok": True, "notices": notices}


def _unpacked(archive: Path, folder: Path, limit: Allowance) -> Path:
    """What to read of an archive: its only file, or the folder with all of them."""
    from MedicalSAM3Lib.archives import unpack

    found = unpack(archive, folder, limit, tuple(suffix for suffix in SUFFIXES if suffix != ".zip"))
    return found[0] if len(found) == 1 else folder


def _choose(path: Path, wanted: int | None, series: list[dict[str, Any]]) -> str | None:
    """The series to read, as ``read_volume`` takes it; lists them where a folder holds several."""
    from MedicalSAM3Lib import files

    if not path.is_dir():
        if wanted is not None:
            raise InputError("Expected an archive of several images with series=, got one image; leave series= out.")
        return None
    listed = files.list_series(path)
    if len(listed) > 1:
        series += [_entry(info) for info in listed]
        if wanted is None:
            raise SeriesNeeded(f"Expected one DICOM series, got {len(listed)}; choose one of them by its index.")
    return None if wanted is None else f"#{wanted}"


def _entry(info: SeriesInfo) -> dict[str, Any]:
    values = asdict(info)
    return {
        "index": values["position"],
        "modality": values["modality"],
        "n_slices": values["num_images"],
        "rows": values["rows"],
        "columns": values["columns"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
