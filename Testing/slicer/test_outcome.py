"""From findings to the lines of the panel, and from typed text to concepts."""

from __future__ import annotations

from dataclasses import asdict

import pytest

pytestmark = pytest.mark.slicer
pytest.importorskip("slicer")

from MedicalSAM3.MedicalSAM3Slicer.outcome import Outcome, describe, outcomeOf
from MedicalSAM3.MedicalSAM3Slicer.phrases import splitConcepts
from MedicalSAM3Lib.structures import Finding


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("liver", ["liver"]),
        (" liver ,left   kidney;spleen\nrib", ["liver", "left kidney", "spleen", "rib"]),
        ("Liver, liver, LIVER", ["Liver"]),
        ("", []),
        (" , ;\n", []),
    ],
)
def test_typed_text_becomes_concepts(text: str, concepts: list[str]) -> None:
    assert splitConcepts(text) == concepts


def test_a_finding_of_the_library_becomes_an_outcome() -> None:
    finding = Finding("rib", "found", presence=0.9, confidence=0.8, voxels=9, volume_ml=2.5, slice_range=(3, 7),
                      review_slices=(4, 6))  # fmt: skip
    outcome = outcomeOf(asdict(finding), axis=2)
    assert (outcome.phrase, outcome.state, outcome.presence, outcome.confidence) == ("rib", "found", 0.9, 0.8)
    assert (outcome.voxels, outcome.volumeMl, outcome.sliceRange, outcome.reviewSlices) == (9, 2.5, (3, 7), (4, 6))
    assert (outcome.axis, outcome.frame, outcome.objects) == (2, None, 0)


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Outcome("liver", "found", presence=0.98, volumeMl=1523.25), "liver: found, 1523.2 ml, presence 0.98"),
        (
            Outcome("rib", "found", presence=0.9, volumeMl=9.0, objects=24),
            "rib: found, 24 objects, 9.0 ml, presence 0.90",
        ),
        (Outcome("liver", "found", volumeMl=9.0, objects=1), "liver: found, 9.0 ml"),
        (Outcome("uterus", "not_found", presence=0.031), "uterus: not found, presence 0.03"),
        (Outcome("rib", "failed", reason="out of memory"), "rib: failed (out of memory)"),
    ],
)
def test_line_says_state_size_and_reason(outcome: Outcome, line: str) -> None:
    assert describe(outcome) == line
