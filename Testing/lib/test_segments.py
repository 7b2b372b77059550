"""Names, numbers and shades of segments."""

from __future__ import annotations

import pytest

from MedicalSAM3Lib.concepts import load_concepts
from MedicalSAM3Lib.segments import Rgb, labels_by_shade, segments_of, shade
from MedicalSAM3Lib.structures import Finding, ObjectPart


def with_objects(phrase: str, *labels: int) -> Finding:
    parts = tuple(ObjectPart(label, 10 * label, 0.1, (0, 1), 0.5) for label in labels)
    return Finding(phrase, "found", layer=0, label=labels[0], voxels=99, colour=(200, 90, 60), objects=parts)


def test_objects_are_numbered_and_one_alone_keeps_the_plain_name() -> None:
    findings = [with_objects("rib", 4, 5), Finding("liver", "not_found"), with_objects("spine", 6)]
    assert [(one.name, one.number, one.part.label, one.part.voxels) for one in segments_of(findings)] == [
        ("rib 1", 1, 4, 40),
        ("rib 2", 2, 5, 50),
        ("spine", 1, 6, 60),
    ]


def test_what_was_not_kept_apart_is_one_segment() -> None:
    finding = Finding("liver", "found", layer=0, label=3, voxels=7)
    (segment,) = segments_of([finding])
    assert (segment.name, segment.number, segment.part, segment.colour) == ("liver", None, finding, finding.colour)
    assert labels_by_shade(finding) == {finding.colour: (3,)}


def test_nothing_found_is_no_segment() -> None:
    assert segments_of([]) == segments_of([Finding("liver", "failed")]) == []


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)])
def test_three_in_a_row_differ_and_the_first_has_the_colour_itself(colour: Rgb) -> None:
    shades = [shade(colour, number) for number in (1, 2, 3)]
    assert shades[0] == colour == shade(colour, 4)
    assert len(set(shades)) == 3
    assert all(0 <= channel <= 255 for one in shades for channel in one)


def test_shades_of_every_known_concept_can_be_told_apart() -> None:
    for concept in load_concepts():
        light = [max(one) + min(one) for one in (shade(concept.colour, number) for number in (1, 2, 3))]
        first, second, third = sorted(light)
        assert min(second - first, third - second) >= 2 * 255 * 0.19, concept.concept_id


def test_an_outline_a_shade_holds_all_objects_of_it() -> None:
    assert list(labels_by_shade(with_objects("rib", 3, 4, 5, 6, 7)).values()) == [(3, 6), (4, 7), (5,)]
