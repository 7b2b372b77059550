"""A small cohort for tests of batches, and a run over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from MedicalSAM3Lib.batch import Batch
from MedicalSAM3Lib.batch_cases import find_cases
from MedicalSAM3Lib.batch_job import Outcome, Plan
from MedicalSAM3Lib.batch_state import BatchFolder
from MedicalSAM3Lib.config import make_settings
from Testing.lib.batch_engine import ThreadEngines
from Testing.lib.small_world import write_image

PLAN = Plan(make_settings(), "oracle", "0" * 64)


def lesion(side: int = 10) -> np.ndarray:
    """Two slices of four show a square."""
    grey = np.zeros((4, 24, 24), np.float32)
    grey[1:3, 5 : 5 + side, 5 : 5 + side] = 255
    return grey


def three_images(tmp_path: Path) -> Path:
    """A folder with three images, a lesion of 200 voxels in each."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        write_image(folder / f"{name}.nii.gz", lesion())
    return folder


def run(
    inputs: Path, out: Path, plan: Plan = PLAN, engines: ThreadEngines | None = None, concept: str = "lesion"
) -> tuple[dict[str, str], ThreadEngines]:
    """State by case, and the engines."""
    engines, outcomes = engines or ThreadEngines(), list[Outcome]()
    folder = BatchFolder(out)
    with folder.opened():
        Batch(folder, engines, plan, outcomes.append).run(find_cases([str(inputs)], [concept], out).cases)
    assert len({outcome.case_id for outcome in outcomes}) == len(outcomes)
    return {outcome.case_id: outcome.state for outcome in outcomes}, engines
