"""The segments of a result, as files and pictures show them: one for each found concept, or one for each object.

Objects of a concept have its name with a number, its codes, and its colour in three shades, so that neighbours can
be told apart and all are seen to be of one kind. The first has the concept's own colour.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from dataclasses import dataclass

from MedicalSAM3Lib.structures import Finding, ObjectPart

Rgb = tuple[int, int, int]

STEP = 0.2
"""Of lightness, 0..1, from one shade to the next."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A mask with a name.

    Attributes:
        finding: To which it belongs, all of it or one object; it lies in the finding's layer.
        name: The phrase as it was typed, with the object's number where there are several.
        number: Of the object, from 1; None where the objects were not kept apart.
        part: The object, or the finding itself: both have label, voxels, volume and confidence.
        colour: RGB, 0..255.
    """

    finding: Finding
    name: str
    number: int | None
    part: Finding | ObjectPart
    colour: Rgb


def segments_of(findings: Iterable[Finding]) -> list[Segment]:
    """All segments, in the order asked; those of a concept in the order of its objects."""
    segments = []
    for finding in findings:
        if finding.state != "found":
            continue
        if not finding.objects:
            segments.append(Segment(finding, finding.phrase, None, finding, finding.colour))
        for number, part in enumerate(finding.objects, start=1):
            name = f"{finding.phrase} {number}" if len(finding.objects) > 1 else finding.phrase
            segments.append(Segment(finding, name, number, part, shade(finding.colour, number)))
    return segments


def shade(colour: Rgb, number: int) -> Rgb:
    """The colour of an object, numbered from 1: the same hue in one of three shades, by turns."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))
    # A light colour has room for darker shades only, and a dark one for lighter ones.
    others = (
        (STEP, -STEP) if 0.25 <= lightness <= 0.75 else (STEP, 2 * STEP) if lightness < 0.25 else (-STEP, -2 * STEP)
    )
    step = (0.0, *others)[(number - 1) % 3]
    if step == 0.0:
        return colour
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness + step, saturation))
    return red, green, blue


def labels_by_shade(finding: Finding) -> dict[Rgb, tuple[int, ...]]:
    """Colour to the labels that have it: a picture draws three outlines, however many objects there are."""
    by_shade: dict[Rgb, tuple[int, ...]] = {}
    for segment in segments_of([finding]):
        by_shade[segment.colour] = (*by_shade.get(segment.colour, ()), segment.part.label)
    return by_shade
