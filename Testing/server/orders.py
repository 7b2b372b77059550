"""A small model, a small volume and orders on it, for tests of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from MedicalSAM3Lib import volume_files
from MedicalSAM3Lib.engine_port import Answer, Order
from MedicalSAM3Lib.structures import Volume
from Testing.lib.small_world import ball_hu

OPEN = {"speed": "exact", "presence_threshold": 0.0, "mode": "detect"}
"""Settings under which random weights find something."""


def oblique_volume() -> Volume:
    """A CT of a ball whose axes are those of no patient direction, one of them flipped."""
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, -1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * [1.0, 1.0, 2.5]
    affine[:3, 3] = [-12.5, 7.25, 100.0]
    return Volume(ball_hu(), affine, "CT", name="ball")


@dataclass
class Bench:
    """A folder in which orders are made and what was answered to them."""

    folder: Path
    answers: list[Answer] = field(default_factory=list)

    def order(self, volume: Volume | None = None, *concepts: str, kind: str = "segment", **more: Any) -> Order:
        number = len(list(self.folder.iterdir()))
        place, out = self.folder / f"volume{number}", self.folder / f"out{number}"
        out.mkdir(parents=True)
        if volume is not None:
            place.mkdir()
            volume_files.store(place, volume)
        settings, model = more.get("settings", OPEN), more.get("model", "auto")
        place = more.get("place", place)
        return Order(f"job{number}", kind, place, "v123", concepts or ("liver",), dict(settings), model, out)  # type: ignore[arg-type]

    def kinds(self) -> list[str]:
        return [answer.kind for answer in self.answers]
