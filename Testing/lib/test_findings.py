"""Verdicts and measures, from hand-made presences and labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from MedicalSAM3Lib.config import make_settings
from MedicalSAM3Lib.detector import Detections
from MedicalSAM3Lib.findings import Verdict, count_instances, judge, make_findings
from MedicalSAM3Lib.fusion import Labels, SliceMap
from MedicalSAM3Lib.preprocess import PreprocessSpec
from MedicalSAM3Lib.presence import VolumeRule
from MedicalSAM3Lib.stack import prepare
from MedicalSAM3Lib.structures import Finding, Volume

SHAPE = (6, 4, 5)
NAN = float("nan")


def answer(presence: list[float], agreement: list[float], layer: np.ndarray, logits: float = -1.0) -> Finding:
    """Finding of one concept, "liver", that was judged found; slices are numbered 5 to 0."""
    volume = Volume(np.zeros(SHAPE, np.float32), np.diag([1.0, 1.0, -1.0, 1.0]))
    stack = prepare(volume, PreprocessSpec(image_size=8), make_settings(axis="2"))
    maps = {(0, 0): SliceMap(torch.full((2, 2), logits).half(), 1.0)}
    voxels = int(layer.sum())
    labels = Labels([layer.astype(np.uint16)], {0: 0}, {0: voxels}, {0: 0.8 if voxels else 0.0})
    detections = Detections(np.array([presence]), np.array([agreement]), maps)
    return make_findings(["liver"], [Verdict("found", 0.9)], detections, labels, stack, 0.5, 0.25)[0]


def box(slices: slice) -> np.ndarray:
    layer = np.zeros(SHAPE, bool)
    layer[slices, 1:3, 1:3] = True
    return layer


def test_presence_decides_and_says_its_number():
    rule = VolumeRule(threshold=0.6)
    assert judge(0.7, rule) == Verdict("found", 0.7)
    missing = judge(0.55, rule)
    assert (missing.state, missing.presence) == ("not_found", 0.55)
    assert missing.reason == "Its presence is 0.55, below 0.60."
    assert judge(NAN, rule).state == "failed"


def test_a_found_concept_has_identity_size_and_place():
    finding = answer([0.9] * 6, [NAN] * 6, box(slice(1, 3)))
    assert (finding.concept_id, finding.voxels, finding.volume_ml, finding.confidence) == ("liver", 8, 2.0, 0.8)
    assert finding.codes.type.endswith("^Liver")
    assert finding.slice_range == (3, 4)
    assert (finding.instances, finding.layer, finding.label, finding.review_slices) == (1, 0, 1, ())


def test_slices_to_review_are_the_unsure_ones_and_those_that_tell_two_stories():
    finding = answer([0.9, 0.6, 0.9, 0.4, 0.1, 0.9], [1.0, 1.0, 0.3, NAN, NAN, 0.6], box(slice(0, 3)))
    assert finding.review_slices == (2, 3, 4)


@pytest.mark.parametrize(("logits", "words"), [(-1.0, "no voxel is confident"), (1.0, "another concept")])
def test_an_empty_mask_is_not_found_and_says_why(logits, words):
    finding = answer([0.9] * 6, [NAN] * 6, np.zeros(SHAPE, bool), logits)
    assert (finding.state, finding.layer, finding.presence) == ("not_found", -1, 0.9)
    assert words in finding.reason


def test_corners_connect_and_specks_do_not_count():
    mask = np.zeros((3, 6, 6), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True  # one diagonal of three voxels
    mask[0, 5, 4:6] = True  # a speck of two
    assert count_instances(mask) == 1
    mask[0, 4, 4] = True
    assert count_instances(mask) == 2


def test_a_mask_of_specks_alone_is_one_object():
    mask = np.zeros((1, 5, 5), bool)
    mask[0, 0, 0] = mask[0, 4, 4] = True
    assert count_instances(mask) == 1
