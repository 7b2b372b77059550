"""The ``config.json`` of a model folder: which sizes SAM3 has, and whether it has a tracker.

The files are those that ``transformers`` writes and reads: model type "sam3" for a detector alone,
"sam3_video" for detector, tracker and tracker neck.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from MedicalSAM3Lib.errors import WeightsError

if TYPE_CHECKING:
    from transformers import Sam3Config, Sam3TrackerVideoConfig

    from MedicalSAM3Lib.model import MedicalSam3

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of the detector and, unless None, of the tracker."""

    detector: Sam3Config
    tracker: Sam3TrackerVideoConfig | None

    def build(self) -> MedicalSam3:
        """Make the model with random weights, in evaluation mode.

        Raises:
            WeightsError: The sizes do not fit together.
        """
        from MedicalSAM3Lib.model import MedicalSam3

        try:
            return MedicalSam3(self.detector, self.tracker).eval()
        except (ValueError, TypeError, RuntimeError, ArithmeticError, AssertionError) as error:
            raise WeightsError(
                f"Expected sizes of {CONFIG_FILE} that fit together, got: {_in_one_line(error)}."
            ) from error

    def build_empty(self) -> MedicalSam3:
        """Make the model with undefined weights, to be filled at once: an eighth of the time of ``build``.

        Raises:
            WeightsError: The sizes do not fit together.
        """
        from transformers.initialization import no_init_weights

        with no_init_weights():
            return self.build()


def full_size(tracker: bool = True) -> Architecture:
    """Sizes of the published SAM3 (image side 1008, 860 million parameters with the tracker)."""
    from transformers import Sam3Config, Sam3TrackerVideoConfig

    return Architecture(Sam3Config(), Sam3TrackerVideoConfig() if tracker else None)


def architecture_of(model: MedicalSam3) -> Architecture:
    """The sizes of a model that is already built."""
    return Architecture(model.config, model.tracker_config)


def to_config(architecture: Architecture) -> dict[str, Any]:
    """The content of ``config.json``, such that ``transformers`` loads the folder too."""
    from transformers import Sam3VideoConfig

    if architecture.tracker is None:
        return {**architecture.detector.to_dict(), "architectures": ["Sam3Model"]}
    video = Sam3VideoConfig(
        detector_config=architecture.detector.to_dict(), tracker_config=architecture.tracker.to_dict()
    )
    # SAM3 decodes masks at four times the grid of its trunk.
    video.low_res_mask_size = 4 * video.image_size // video.detector_config.vision_config.backbone_config.patch_size
    return {**video.to_dict(), "architectures": ["Sam3VideoModel"]}


def from_config(content: Mapping[str, Any]) -> Architecture:
    """Read the content of ``config.json``.

    Raises:
        WeightsError: It describes another kind of model, or sizes that do not fit together.
    """
    from transformers import Sam3Config, Sam3VideoConfig

    kind = content.get("model_type")
    if kind not in ("sam3", "sam3_video"):
        raise WeightsError(f"Expected a {CONFIG_FILE} of model type sam3 or sam3_video, got '{kind}'.")
    try:
        if kind == "sam3":
            return Architecture(Sam3Config.from_dict(dict(content)), None)
        video = Sam3VideoConfig.from_dict(dict(content))
    except Exception as error:  # transformers has an error class of its own for each kind of wrong value
        raise WeightsError(f"Expected sizes of a SAM3 model in {CONFIG_FILE}, got: {_in_one_line(error)}.") from error
    return Architecture(video.detector_config, video.tracker_config)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else is a ``WeightsError`` that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"Expected {path.name} in '{path.parent.name}', it is missing.") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"Expected JSON in {path.name} of '{path.parent.name}', it cannot be read.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"Expected a JSON object in {path.name}, got {type(content).__name__}.")
    return content


def _in_one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:200]
