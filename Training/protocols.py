"""Two ways of scoring a model, each with its name: as the paper did, and as the model is used"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from MedicalSAM3Lib.config import SegmentSettings
from MedicalSAM3Lib.feature_cache import FeatureCache
from MedicalSAM3Lib.model_folder import LoadedModel
from MedicalSAM3Lib.pipeline import segment
from MedicalSAM3Lib.structures import Finding, Volume
from Training.cases import Case


@dataclass(frozen=True)
class Protocol:
    """How a model is asked and what is counted.

    Attributes:
        name, title, meaning: For tables, headings, and a reader.
        settings: Of the pipeline.
        slice_by_slice: Whether each slice is a case of its own.
    """

    name: str
    title: str
    meaning: str
    settings: SegmentSettings
    slice_by_slice: bool


PAPER = Protocol(
    "paper",
    "The paper's protocol",
    "Every slice by itself; the mask with the highest confidence for each concept; between classes the surer one has "
    "the pixel; presence from 0.1 on, as in the published script. Means over slices that show the concept.",
    SegmentSettings(rule="top1", mode="detect", overlap="exclusive", verbatim=True, presence_threshold=0.1),
    slice_by_slice=True,
)

DEPLOYMENT = Protocol(
    "deployment",
    "The deployment protocol",
    "Whole volumes, or runs of neighbouring held-out slices where only some are held out; default settings: the union "
    "of all findings, the model's own mode and threshold. What is found although it is absent counts 0 in the means.",
    SegmentSettings(),
    slice_by_slice=False,
)

PROTOCOLS = (PAPER, DEPLOYMENT)


@dataclass(frozen=True)
class Answer:
    """A finding, its mask and its objects (numbers, 0 outside) on the case's slices; no objects unless asked for."""

    finding: Finding
    mask: np.ndarray
    objects: np.ndarray | None = None


def ask(
    model: LoadedModel,
    volume: Volume,
    case: Case,
    phrases: Sequence[str],
    settings: SegmentSettings,
    cache: FeatureCache | None = None,
) -> list[Answer]:
    """Ask the shipped pipeline for some phrases on the slices of a case.

    Raises:
        RunError, PromptError: As ``segment``.
    """
    where = {"slices": case.slices, "axis": case.axis} if case.slices else {}
    settings = settings.model_copy(update=where)
    result = segment(volume, phrases, model, settings, cache=cache)
    part = case.part_of(volume)
    answers = []
    for finding in result.findings:
        mask = result.mask_kji(finding)[part]
        objects = result.layers[finding.layer][part] * mask if finding.objects else None
        answers.append(Answer(finding, mask, objects))
    return answers
