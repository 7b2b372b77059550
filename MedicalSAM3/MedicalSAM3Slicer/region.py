"""The ROI and the range of slices of a run: for the engine a box of voxels, for the masks the exact box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from .task import UserError

EDGE = 1e-6
"""Voxels whose centre lies on a face of the box, but for rounding, are inside."""


@dataclass(frozen=True)
class RoiBox:
    """A box in the world, as the ROI stood when the run began.

    Attributes:
        worldToBox: ``(4, 4)``, mm in RAS to mm along the box's own axes from its centre.
        halfMm: ``(3,)``, half its lengths.
    """

    worldToBox: np.ndarray
    halfMm: np.ndarray

    def voxelBox(self, ijkToWorld: np.ndarray, shapeKji: tuple[int, int, int]) -> tuple[int, int, int, int, int, int]:
        """Smallest half-open box ``(i0, i1, j0, j1, k0, k1)`` of a volume that holds all voxels inside.

        Raises:
            UserError: No voxel is inside.
        """
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)
        corners = np.vstack([signs * self.halfMm[:, None], np.ones(8)])
        ijk = (np.linalg.inv(ijkToWorld) @ np.linalg.inv(self.worldToBox) @ corners)[:3]
        low = np.maximum(np.ceil(ijk.min(axis=1) - EDGE), 0).astype(int)
        high = np.minimum(np.floor(ijk.max(axis=1) + EDGE) + 1, shapeKji[::-1]).astype(int)
        if not (low < high).all():
            raise UserError(_("The ROI holds no voxel of this volume; move it over the volume, or choose none."))
        return int(low[0]), int(high[0]), int(low[1]), int(high[1]), int(low[2]), int(high[2])

    def holds(self, boxKji: tuple[int, ...], ijkToWorld: np.ndarray) -> np.ndarray:
        """Which voxels of a box have their centre inside: boolean, of the box's shape.

        Args:
            boxKji: Half-open ``(k0, k1, j0, j1, i0, i1)``.
            ijkToWorld: ``(4, 4)``, voxel index to mm in RAS.
        """
        ijkToBox = self.worldToBox @ ijkToWorld
        k, j, i = (np.arange(low, high) for low, high in zip(boxKji[::2], boxKji[1::2], strict=True))
        inside = np.ones((len(k), len(j), len(i)), dtype=bool)
        for row, half in zip(ijkToBox[:3], self.halfMm, strict=True):
            at = row[2] * k[:, None, None] + row[1] * j[None, :, None] + row[0] * i[None, None, :] + row[3]
            inside &= np.abs(at) <= half + EDGE
        return inside


def readRoi(node: Any) -> RoiBox | None:
    """The box of a markups ROI node; None for none.

    Raises:
        UserError: It is none, is not placed yet, or selects what is outside.
    """
    if node is None:
        return None
    if not node.IsA("vtkMRMLMarkupsROINode"):
        raise UserError(_("Choose a markups ROI; '{name}' is something else.").format(name=node.GetName()))
    size = [0.0, 0.0, 0.0]
    node.GetSizeWorld(size)
    if min(size) <= 0 or node.GetInsideOut():
        raise UserError(
            _("Choose an ROI with a size that selects what is inside; place '{name}' first.").format(
                name=node.GetName()
            )
        )
    boxToWorld = slicer.util.arrayFromVTKMatrix(node.GetObjectToWorldMatrix())
    scale = np.linalg.norm(boxToWorld[:3, :3], axis=0)
    boxToWorld = boxToWorld @ np.diag([*1.0 / scale, 1.0])  # the size in the world has the scale already
    return RoiBox(np.linalg.inv(boxToWorld), np.array(size) / 2)
