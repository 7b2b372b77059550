"""A decoded volume as a folder: ``array.npy`` and ``volume.json``. How volumes pass between processes of the server.

Nothing of a header but geometry and modality is in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib.structures import Volume

ARRAY, FACTS = "array.npy", "volume.json"


def store(folder: Path, volume: Volume) -> None:
    """Write a volume into an empty folder.

    Raises:
        OSError: The disk is full or refuses.
    """
    with (folder / ARRAY).open("wb") as file:
        np.save(file, volume.array, allow_pickle=False)
    facts = {
        "modality": volume.modality,
        "is_2d": volume.is_2d,
        "ijk_to_lps": [[float(value) for value in row] for row in volume.ijk_to_lps],
        "shape": list(volume.array.shape),
        "spacing_mm": list(volume.spacing_mm),
    }
    (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def facts_of(folder: Path) -> dict[str, Any]:
    """What ``volume.json`` says: modality, is_2d, ijk_to_lps, shape (colours last, where there are any), spacing_mm."""
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    return facts


def load(folder: Path, name: str) -> Volume:
    """Open a stored volume; its voxels are mapped, so that memory holds only what is looked at.

    Args:
        folder: That ``store`` wrote.
        name: The volume's name in a report: its id, for the server knows no other.
    """
    facts = facts_of(folder)
    array = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
    return Volume(array, np.array(facts["ijk_to_lps"]), facts["modality"], facts["is_2d"], name)
