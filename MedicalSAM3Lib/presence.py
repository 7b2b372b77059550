"""Is the concept there? Calibrated presence of a slice and of a volume. Pure NumPy.

The detector gives a presence logit per slice. Two steps, both with parameters fitted on validation
data (``presence.json``), make an answer of it:

    slice    p = sigmoid(logit / temperature + bias)
    volume   the highest p that a run of neighbouring slices holds throughout
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import BaseModel, ConfigDict, Field


class SliceCalibration(BaseModel):
    """Calibration of a slice's presence for one modality.

    Attributes:
        temperature, bias: ``p = sigmoid(logit / temperature + bias)``.
        threshold: From this probability on, the mask head is asked for the concept's mask.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(default=1.0, gt=0.0)
    bias: float = 0.0
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of logits of any shape; float64, NaN stays NaN."""
        return 0.5 * (1.0 + np.tanh(0.5 * (np.asarray(logits, np.float64) / self.temperature + self.bias)))


class VolumeRule(BaseModel):
    """When a concept counts as found in a volume.

    Attributes:
        run_mm: A single slice can be a false alarm; a structure of this extent along the slice axis is
            on a run of neighbouring slices, and the weakest of them decides. 0 = the best slice decides.
        threshold: Lowest presence of a volume that counts as found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_mm: float = Field(default=0.0, ge=0.0)
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)


Mode = Literal["detect", "track", "fuse"]
"""Every slice by itself, objects carried through the volume, or both merged."""


class PresenceSpec(BaseModel):
    """The content of ``presence.json``: how the answers of a model are decided.

    Attributes:
        default: Calibration of a slice; a key for each fitted modality stands beside it.
        volume: When a concept counts as found in a volume.
        mode: What settings with the mode "auto" mean: the mode that was the best on held-out data.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SliceCalibration]

    default: SliceCalibration = SliceCalibration()
    volume: VolumeRule = VolumeRule()
    mode: Mode = "detect"

    def slice_calibration(self, modality: str) -> SliceCalibration:
        """Calibration for a modality, "CT" for instance; the default where none was fitted."""
        return self.__pydantic_extra__.get(modality, self.default)


def presence_of_volume(slice_presence: np.ndarray, slice_mm: float, rule: VolumeRule) -> float:
    """Presence of a concept in a volume: 0..1, or NaN where one slice has no number.

    Args:
        slice_presence: Calibrated probabilities ``(N,)`` in slice order, N >= 1.
        slice_mm: Distance between slices.
        rule: A run longer than the stack is cut to the stack.
    """
    if np.isnan(slice_presence).any():
        return float("nan")
    run = min(max(1, round(rule.run_mm / slice_mm)), len(slice_presence))
    return float(sliding_window_view(slice_presence, run).min(axis=1).max())
