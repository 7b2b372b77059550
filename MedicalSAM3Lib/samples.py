"""The images that come with this software, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from MedicalSAM3Lib.refusals import unknown
from MedicalSAM3Lib.resources import resource


@dataclass(frozen=True, slots=True)
class Sample:
    """A file under ``Resources/samples``, and what it shows."""

    file: str
    title: str


SAMPLES = {"ct_upper_abdomen": Sample("ct_upper_abdomen.nii.gz", "CT of the upper abdomen, 20 slices")}


def path_of(name: str) -> Path:
    """The file of a sample.

    Raises:
        Refused: 404 "sample".
    """
    if name not in SAMPLES:
        raise unknown("sample")
    return resource("samples", SAMPLES[name].file)
