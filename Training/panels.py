"""Which answers the report shows as pictures, as in Figure 4: typical ones and the worst, never only the best"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from MedicalSAM3Lib.evidence import box_of
from MedicalSAM3Lib.geometry import canonical_of, pixel_mm, slices_along
from MedicalSAM3Lib.preprocess import PreprocessSpec, apply_window, modality_of, value_ranges
from MedicalSAM3Lib.structures import Volume
from Training.case_rows import CaseRow
from Training.cases import Case, cases_of
from Training.evaluation_summary import in_own_words
from Training.protocols import PROTOCOLS
from Training.report_charts import Panel

if TYPE_CHECKING:
    from Training.evaluate import Options, Scorer

_REFERENCE = "reference"

QUANTILES = (("best", 1.0), ("upper quarter", 0.75), ("median", 0.5), ("lower quarter", 0.25), ("worst", 0.0))


def choose_panels(rows: Sequence[CaseRow], protocol: str) -> list[tuple[str, CaseRow]]:
    """By the Dice of this model: the best, the quartiles, the worst, and what it found although it is absent."""
    here = [row for row in rows if row.protocol == protocol and row.role == "ours" and in_own_words(row)]
    ranked = sorted((row for row in here if row.is_present), key=lambda row: (row.dice, row.case, row.concept))
    chosen: dict[tuple[str, str], tuple[str, CaseRow]] = {}
    for name, quantile in QUANTILES if ranked else ():
        row = ranked[round(quantile * (len(ranked) - 1))]
        chosen.setdefault((row.case, row.concept), (name, row))
    wrong = [row for row in here if row.outcome == "false_positive"]
    if wrong:
        surest = max(wrong, key=lambda row: (row.presence, row.case, row.concept))
        chosen.setdefault((surest.case, surest.concept), ("found, but absent", surest))
    return list(chosen.values())


def panel_of(row: CaseRow, theirs: CaseRow | None, scorers: Mapping[str, Scorer], options: Options) -> Panel:
    """Ask again for what a row is about, and cut out the slice that has most of it.

    Args:
        row: Of this model.
        theirs: The baseline's answer to the same question, if there is one.
        scorers: By role.
        options: Of the evaluation.
    """
    protocol = next(one for one in PROTOCOLS if one.name == row.protocol)
    ours = scorers["ours"]
    case = next(one for one in cases_of(ours.manifest, options.split, slice_by_slice=protocol.slice_by_slice)
                if one.name == row.case)  # fmt: skip
    concepts = sorted([*case.concepts("present"), *case.concepts("absent")])
    masks, volume = {}, None
    for role in ("baseline", "ours"):
        if role in scorers:
            volume, answers = scorers[role].answers(case, protocol, concepts)
            masks["this model" if role == "ours" else "baseline"] = answers[row.concept].mask
    assert volume is not None
    part = case.part_of(volume)
    empty = np.zeros(volume.shape_kji, bool)[part]
    reference = ours.reference(case).get(row.concept, empty) if row.is_present else empty
    measure = "dice" if row.is_present else "presence"
    title = f"{row.concept.replace('_', ' ')}: {measure.capitalize()} {getattr(row, measure):.2f}"
    title += f", baseline {getattr(theirs, measure):.2f}" if theirs else ""
    return _cut(volume, case, reference, masks, title)


def _cut(volume: Volume, case: Case, reference: np.ndarray, masks: dict[str, np.ndarray], title: str) -> Panel:
    canonical, axis = canonical_of(volume.ijk_to_lps), int(case.axis)

    def turned(array: np.ndarray) -> np.ndarray:
        return slices_along(canonical.to_canonical(array), axis)

    marked = turned(reference if reference.any() else np.any(list(masks.values()), axis=0))
    n = int(marked.sum((1, 2)).argmax())
    drawn = {name: turned(mask)[n] for name, mask in {**masks, _REFERENCE: reference}.items()}
    picture = turned(volume.array[case.part_of(volume)])[n]
    low, high = value_ranges(volume.array, modality_of(volume.array, volume.modality), PreprocessSpec(image_size=1))[0]
    shown = np.clip(picture / 255.0, 0, 1) if picture.ndim == 3 else apply_window(picture, low, high)
    height, width = pixel_mm(canonical.spacing_mm(volume.spacing_mm), axis)
    part = around(np.any(list(drawn.values()), axis=0))
    cut = {name: mask[part] for name, mask in drawn.items()}
    return Panel(shown[part], {name: cut[name] for name in masks}, cut[_REFERENCE], title, height / width)


def around(mask: np.ndarray, most_zoom: float = 3.0) -> tuple[slice, ...]:
    """The part of a picture in which a mask fills half the width or height, in the picture's own proportions.

    Args:
        mask: Boolean ``(H, W)``.
        most_zoom: A speck is shown no larger than this, so that a reader sees where it lies.
    """
    box = box_of(mask)
    if box is None:
        return tuple(slice(None) for _ in mask.shape)
    shares = [2.0 * (along.stop - along.start) / length for along, length in zip(box, mask.shape, strict=True)]
    share = float(np.clip(max(shares), 1.0 / most_zoom, 1.0))
    part = []
    for along, length in zip(box, mask.shape, strict=True):
        extent = round(share * length)
        start = int(np.clip((along.start + along.stop - extent) // 2, 0, length - extent))
        part.append(slice(start, start + extent))
    return tuple(part)
