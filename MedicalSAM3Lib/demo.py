"""``python -m MedicalSAM3Lib.demo``: segment the bundled CT with the bundled model, and say how good it is.

The concepts asked are all that the reference has, and some that are not in the image.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from MedicalSAM3Lib.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from MedicalSAM3Lib.structures import Segmentation, Volume

SAMPLE = "ct_upper_abdomen"
ABSENT = ("urinary bladder", "brain")
"""Asked though they are not in an upper abdomen: the right answer is "not found"."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What is truly in the sample.

    Attributes:
        labels_kji: Label map on the grid of the sample.
        phrases: Label to concept.
    """

    labels_kji: np.ndarray
    phrases: Mapping[int, str]

    def concepts(self) -> list[str]:
        """What to ask: everything that is there, then what is not."""
        return [*self.phrases.values(), *(phrase for phrase in ABSENT if phrase not in self.phrases.values())]

    def dice(self, segmentation: Segmentation) -> dict[str, float]:
        """Dice by phrase, NaN where a concept is neither in the reference nor in the result."""
        from MedicalSAM3Lib.overlap import dice

        labels = {phrase: label for label, phrase in self.phrases.items()}
        return {
            finding.phrase: dice(segmentation.mask_kji(finding), self.labels_kji == labels.get(finding.phrase, -1))
            for finding in segmentation.findings
        }


def sample_path() -> Path:
    """The bundled CT."""
    from MedicalSAM3Lib.resources import resource

    return resource("samples", f"{SAMPLE}.nii.gz")


def read_reference(volume: Volume) -> Reference:
    """Read the reference of the bundled CT.

    Args:
        volume: The bundled CT.

    Raises:
        InputError: The reference does not lie on its grid.
    """
    from MedicalSAM3Lib.files import read_volume
    from MedicalSAM3Lib.resources import resource

    labels = read_volume(resource("samples", f"{SAMPLE}_reference.nii.gz")).array
    if labels.shape != volume.shape_kji:
        raise InputError(f"Expected a reference of {volume.shape_kji} voxels, got {labels.shape}; install it again.")
    phrases = json.loads(resource("samples", f"{SAMPLE}_reference.json").read_text(encoding="utf-8"))
    return Reference(labels, {int(label): phrase for label, phrase in phrases.items()})


def summary(dice: Mapping[str, float], segmentation: Segmentation) -> str:
    """One line: how many of the present concepts were found, how many of the absent were not, mean Dice."""
    absent = [finding for finding in segmentation.findings if finding.phrase in ABSENT]
    present = [finding for finding in segmentation.findings if finding.phrase not in ABSENT]
    found = sum(finding.state == "found" for finding in present)
    rejected = sum(finding.state == "not_found" for finding in absent)
    values = [dice[finding.phrase] for finding in present if not math.isnan(dice[finding.phrase])]
    mean = sum(values) / len(values) if values else float("nan")
    return (
        f"{found} of {len(present)} concepts in the image found, mean Dice {mean:.2f} over all {len(values)}; "
        f"{rejected} of {len(absent)} absent concepts rejected."
    )


def run(folder: Path) -> None:
    """Segment the sample, write result, report and picture into ``folder``, and print the findings.

    Raises:
        MedicalSAM3Error: The demonstration cannot run; see ``errors``.
    """
    from MedicalSAM3Lib import cli_show
    from MedicalSAM3Lib.cli_segment import Outputs, raise_failed, write_outputs
    from MedicalSAM3Lib.files import read_volume
    from MedicalSAM3Lib.pipeline import segment_with_report
    from MedicalSAM3Lib.registry import load_model

    folder.mkdir(parents=True, exist_ok=True)
    outputs = Outputs(folder / "result.seg.nrrd", folder / "report.json", folder / "preview.png")
    volume = read_volume(sample_path())
    reference = read_reference(volume)
    model = load_model("tiny")
    with cli_show.progress_bars() as on_progress:
        segmentation, record = segment_with_report(volume, reference.concepts(), model, on_progress=on_progress)
    written = write_outputs(outputs, volume, segmentation, record)
    dice = reference.dice(segmentation)
    cli_show.show_findings(segmentation.findings, dice=dice)
    notices = [*record.notices, *cli_show.model_notices(model)]
    cli_show.show_lines([summary(dice, segmentation), *written, *notices])
    raise_failed(segmentation.findings, outputs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and return its exit code: 0 whatever was found, else as ``medsam3``."""
    from MedicalSAM3Lib.cli import guarded

    parser = argparse.ArgumentParser(prog="python -m MedicalSAM3Lib.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the results")
    options = parser.parse_args(arguments)
    return guarded(lambda: run(options.output))


if __name__ == "__main__":
    sys.exit(main())
